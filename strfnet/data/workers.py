"""Processes that decode batches: their start, their signals and their end."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any

from strfnet.system.compat import end_workers
from strfnet.system.signals import Stopped


def explained(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches; a signal that stops the run ends the workers, which may wait for a file.

    Raises: OSError with advice if a worker ends because the shared memory is full.
    """
    try:
        yield from batches
    except Stopped:
        end_workers(batches)
        raise
    except RuntimeError as error:
        if not any(sign in f"{error} {error.__cause__}" for sign in ("Bus error", "bus error", "shared memory")):
            raise
        advice = "start Docker, which allows 64 MiB, with --shm-size=8g, or decode in this process with --workers 0"
        raise OSError(f"the shared memory (/dev/shm) is too small for batches of workers: {advice}") from error


@contextmanager
def signals_held() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the end, also in workers that are forked inside, until `start_worker` runs."""
    if sys.platform != "linux":  # workers are not forked
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(_: int) -> None:
    """Ignore signals that are sent to the whole process group; the main process finishes its step.

    Otherwise Ctrl-C, or the SIGTERM of a scheduler or of torchrun, would kill workers that it still needs. A SIGTERM
    of the main process ends the worker, and so does the end of the main process, within a second, also while the
    worker waits for a file.
    """
    gc.freeze()  # otherwise garbage collection writes to, and so copies, pages shared with the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None and hasattr(signal, "sigtimedwait"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_at_sigterm_of, args=(main.pid,), daemon=True).start()


def _end_at_sigterm_of(main: int) -> None:
    received = None
    while os.getppid() == main and (received is None or received.si_pid != main):
        received = signal.sigtimedwait({signal.SIGTERM}, 0.5)
    os._exit(0)
