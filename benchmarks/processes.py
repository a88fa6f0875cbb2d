"""Forked processes that are killed, for the benchmarks of resuming."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

OPERATIONS = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir", "write")  # of the disk


def fork(body: Callable[[], None]) -> int:
    """Start a process that runs ``body``. Its exit code is 0, 1 after an error, or that of SystemExit."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        body()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def killed_or_done(processes: Sequence[int], after: float | None = None) -> bool:
    """Wait for all processes, or kill them ``after`` some seconds.

    Returns: whether one was killed. Raises: RuntimeError if one ended with an error.
    """
    end = None if after is None else time.monotonic() + after
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for process in set(processes) - set(codes):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
        if (end is not None and time.monotonic() > end) or -signal.SIGKILL in codes.values():
            for process in set(processes) - set(codes):
                os.kill(process, signal.SIGKILL)
            end = None
        time.sleep(0.001)
    if any(code not in (0, -signal.SIGKILL) for code in codes.values()):
        raise RuntimeError(f"a run ended with {sorted(codes.values())}, wanted 0 or a kill")
    return -signal.SIGKILL in codes.values()


def kill_before(operation: int) -> None:
    """Kill this process before its n-th disk operation, n being ``operation``."""
    left = operation

    def fatal(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in OPERATIONS:
        setattr(os, name, fatal(getattr(os, name)))
