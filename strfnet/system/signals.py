"""Signals that request a stop: a run finishes its step and saves before it exits."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from types import FrameType

from strfnet.system.progress import inform

_POLL, _LEFT = 0.5, 5.0  # seconds between looks at the agent, and to save in after its end
_started_by = os.getppid()  # the agent of a rank, which may end before training starts


class Stopped(SystemExit):
    """Raised when a signal has stopped a run, after everything is saved.

    Its ``code`` is the one that shells report for a process that the signal ended: 143 for SIGTERM, 130 for SIGINT,
    129 for SIGHUP.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class StopRequest:
    """The signal that was received, as ``number``; 0 before one is."""

    def __init__(self) -> None:
        self.number = 0
        self.announced = True  # whether a line says that the step is finished first
        self._immediate = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM, SIGINT or SIGHUP.

        A second SIGINT ends the process at once; in an interactive session, such as a notebook, whose process must
        live on, it raises KeyboardInterrupt.
        """
        self.number = number
        if number == signal.SIGINT:
            interactive = hasattr(sys, "ps1")  # as Python and IPython set it
            signal.signal(number, signal.default_int_handler if interactive else signal.SIG_DFL)
        if self._immediate:
            raise Stopped(number)
        if self.announced:
            with suppress(RuntimeError):  # the signal came while another line was printed
                inform("strfnet: stopping after this step")

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """While everything is saved, a signal raises `Stopped` at once; so does one that was received before."""
        if self.number:
            raise Stopped(self.number)
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """SIGTERM, SIGINT and SIGHUP become a stop request instead of ending the process; the main thread receives them.

    SIGHUP comes when a terminal is closed. Where it is ignored, as under nohup, it stays so. A rank of ``torchrun``
    whose agent has ended receives SIGTERM, and is killed 5 s later if it still waits for the others.
    """
    request = StopRequest()
    before = {}
    try:
        for number in _stopping():
            before[number] = signal.signal(number, request.handle)
    except ValueError:  # not the main thread
        pass
    ended = Event()
    if os.name == "posix" and "TORCHELASTIC_RUN_ID" in os.environ:
        Thread(target=_follow, args=(_started_by, ended), daemon=True).start()
    try:
        yield request
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(agent: int, ended: Event) -> None:
    """Ends this process after its agent, unless its work has ended before."""
    while os.getppid() == agent:
        if ended.wait(_POLL):
            return
    os.kill(os.getpid(), signal.SIGTERM)
    if not ended.wait(_LEFT):
        os.kill(os.getpid(), signal.SIGKILL)


def _note_parent() -> None:
    global _started_by
    _started_by = os.getppid()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_note_parent)


def _stopping() -> list[signal.Signals]:
    numbers = [signal.SIGTERM, signal.SIGINT]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # Windows has none
        numbers.append(signal.SIGHUP)
    return numbers
