"""The command ``strfnet``: one command for each call, one line for each error, and the exit codes."""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from strfnet.system.progress import inform
from strfnet.system.version import __version__

FAILED, INTERRUPTED, PIPE_CLOSED = 1, 130, 141  # exit codes; the last two as shells count signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    0 is success, 1 a failure, 2 a wrong call, 129 SIGHUP, 130 Ctrl-C and 143 SIGTERM. Training and embedding save
    before they stop.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a locale without a character of a name, or a name without UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            code = _run(list(sys.argv[1:] if argv is None else argv))
        except SystemExit as stop:  # after --help, a wrong call, or a signal
            code = int(stop.code or 0)
        if sys.stdout is not None:  # it is in a daemon
            sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more when it exits; the pipe has no reader any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        inform("strfnet: interrupted")
        code = INTERRUPTED
    return code


def _run(words: list[str]) -> int:
    if "--version" in words:
        print(f"strfnet {__version__}")
        return 0
    debug = "--debug" in words
    try:
        from strfnet.cli.arguments import parse

        name, record = parse([word for word in words if word != "--debug"])
        import_module(f"strfnet.cli.commands.{name}").run(record)
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
        inform(f"strfnet: error: {kind}{' '.join(str(error).split())}")
        return getattr(error, "exit_code", FAILED)
    return 0
