"""Signals that ask a run to stop: it finishes its step and saves before it leaves."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(SystemExit):
    """A run that a signal has stopped, after it was saved.

    Its ``code`` is what shells report for a process that such a signal ended: 143 for SIGTERM, 130 for SIGINT.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


class Asked:
    """Whether a signal has come. While ``at_once`` is true there is nothing to finish, and it raises `Stopped`."""

    def __init__(self) -> None:
        self.number = 0
        self.at_once = False

    def hear(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)  # the second one ends the process, wherever it is
        if self.at_once:
            raise Stopped(number)

    @contextmanager
    def leaving_at_once(self) -> Iterator[None]:
        """While everything is saved: the signal that came, or comes, is obeyed at once."""
        if self.number:
            raise Stopped(self.number)
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False


@contextmanager
def hearing_signals() -> Iterator[Asked]:
    """Hears SIGTERM and SIGINT instead of being ended by them; outside of the main thread it hears nothing."""
    asked = Asked()
    before = {}
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, asked.hear)
    except ValueError:  # not the main thread, which alone may do so
        pass
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
