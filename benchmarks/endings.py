"""What happens to a run from outside: signals, a closed terminal, a reader that leaves, a killed worker or agent."""

import fcntl
import os
import random
import select
import signal
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from processes import fork


class Ending:
    """Happens to a run at a random time.

    Attributes:
        name: of its row in the table.
        share: of all that happens in the table.
        workers, ranks: of the run.
        seconds: after which no process of the run is left.
        codes: exit codes that are right, of the run or, for several ranks, of their agent.
    """

    name: str
    share: float
    workers, ranks, seconds = 0, 1, 10.0
    codes: tuple[int, ...] = (0,)

    def before(self) -> None:
        """Called in the benchmark before the process starts."""

    def prepare(self) -> None:
        """Called in the process that starts the run."""
        for number in (signal.SIGINT, signal.SIGHUP):  # which nohup and a shell's background ignore
            signal.signal(number, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)

    def happen(self, process: int) -> bool:
        """Called in the benchmark. Returns whether it happened; a run without workers has none to lose."""
        raise NotImplementedError

    def after(self) -> None:
        """Called in the benchmark when the process has ended."""


class StopSignal(Ending):
    """SIGTERM, SIGINT or SIGHUP; one that comes before training starts ends the process as it ends any other."""

    def __init__(self, workers: int = 0) -> None:
        self.name = f"stop signals{f', {workers} workers' if workers else ''}"
        self.share, self.workers, self.random = 0.25, workers, random.Random(1)

    def happen(self, process: int) -> bool:
        number = self.random.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        os.kill(process, number)
        self.codes = (0, 128 + number, -number)
        return True


class ReaderLeaves(Ending):
    """The reader of stdout and stderr leaves a pipe, and the run goes on; or the terminal is closed, and it stops."""

    def __init__(self, terminal: bool = False) -> None:
        self.terminal, self.share = terminal, 0.15
        self.name = "closed terminal" if terminal else "reader leaves"
        self.seconds = 10.0 if terminal else 120.0
        self.codes = (0, 128 + signal.SIGHUP, -signal.SIGHUP) if terminal else (0,)

    def before(self) -> None:
        self.ends = [*(os.openpty() if self.terminal else os.pipe())]  # to read from, and to write to

    def prepare(self) -> None:
        super().prepare()
        reader, writer = self.ends
        os.close(reader)
        if self.terminal:
            os.setsid()
            fcntl.ioctl(writer, termios.TIOCSCTTY, 0)
        os.dup2(writer, 1)
        os.dup2(writer, 2)

    def happen(self, process: int) -> bool:
        os.close(self.ends.pop(0))
        return True

    def after(self) -> None:
        for end in self.ends:
            os.close(end)


class WorkerKilled(Ending):
    """SIGKILL ends a worker of the loader, which is found on Linux only; the run then ends with an error."""

    name, share, workers, codes = "killed worker", 0.1, 2, (0, 1)

    def happen(self, process: int) -> bool:
        with suppress(OSError):
            workers = Path(f"/proc/{process}/task/{process}/children").read_text().split()
            if workers:
                os.kill(int(workers[0]), signal.SIGKILL)
                return True
        return False


class AgentKilled(Ending):
    """SIGKILL ends the agent of two ranks, as torchrun's; they save and end."""

    name, share, ranks, codes = "killed agent", 0.1, 2, (0, -signal.SIGKILL)

    def prepare(self) -> None:
        super().prepare()
        os.environ["TORCHELASTIC_RUN_ID"] = "none"

    def happen(self, process: int) -> bool:
        os.kill(process, signal.SIGKILL)
        return True


def endings() -> list[Ending]:
    """One for each row of the table."""
    stops = [StopSignal(), StopSignal(workers=2), ReaderLeaves(terminal=True)]
    return [*stops, ReaderLeaves(), WorkerKilled(), AgentKilled()]


def let_end(body: Callable[[], None], ending: Ending, after: float) -> tuple[bool, int, list[str]]:
    """Start a process, and let an ending happen to it ``after`` some seconds.

    Returns: whether it happened, before the process had ended; the exit code, 0 for a wrong one; and what is wrong.
    """
    happened, wrong = False, []
    listen, held = os.pipe()  # held by all its processes
    ending.before()

    def prepared() -> None:
        ending.prepare()
        os.write(held, b"+")
        body()

    process = fork(prepared)
    os.close(held)
    os.read(listen, 1)
    while not happened and not select.select([listen], [], [], after)[0]:
        happened, after = ending.happen(process), 0.005
    if not select.select([listen], [], [], ending.seconds)[0]:
        wrong.append(f"a process is left after {ending.seconds:.0f} s")
        os.kill(process, signal.SIGKILL)
    os.close(listen)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    ending.after()
    if code not in (ending.codes if happened else (0,)):
        wrong.append(f"the exit code is {code}")
        code = 0
    return happened, code, wrong
