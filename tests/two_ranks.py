"""Runs a script on two ranks, as torchrun does, and in a fraction of its time: `two_ranks.py SCRIPT ARGUMENTS`.

The script is imported once; two forks then run it as ``__main__`` with the environment of torchrun. When one rank
fails, the other receives SIGTERM, and the exit status is 1.
"""

import os
import runpy
import signal
import socket
import sys
import time

import accelerate  # noqa: F401  imported here once rather than in every rank
import torchvision  # noqa: F401

PATIENCE = 30.0  # seconds from SIGTERM to SIGKILL


def fork(rank, port, script):
    process = os.fork()
    if process:
        return process
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in {**told, "RANK": rank, "LOCAL_RANK": rank}.items()})
    code = 1
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(processes):
    """Returns the exit statuses of all processes; ends the others when one fails."""
    codes, end = {}, None
    while len(codes) < len(processes):
        for process in set(processes) - codes.keys():
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
        running = set(processes) - codes.keys()
        if end is None and any(codes.values()):
            end = time.monotonic() + PATIENCE
            for process in running:
                os.kill(process, signal.SIGTERM)
        elif end is not None and time.monotonic() > end:
            for process in running:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.005)
    return list(codes.values())


if __name__ == "__main__":
    script = sys.argv[1]
    sys.argv[:1] = []
    runpy.run_path(script, run_name="imported")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    sys.exit(1 if any(wait([fork(rank, port, script) for rank in range(2)])) else 0)
