"""The way of a clip through `strfnet evaluate`, traced: which source files it enters, and how often.

    python benchmarks/trace_evaluate.py

Runs `strfnet evaluate --model strf_c2d_resnet8 --weights walkers --protocol ap3d` in this process on a few synthetic
tracklets (one batch of clips). The trace begins with the first clip that is read and ends with the printed table. A
move is a call of a function of strfnet from a function in another file of strfnet; functions of other packages
between the two are skipped. Prints the files in the order of their first move, with the moves into each, and a
tree: each file below the one that entered it first, with the number of calls. Exits 1 if there are 20 files or more.
"""

import io
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import strfnet
from strfnet.cli import main as command
from strfnet.data.synthetic import draw_set, write_mars

ROOT = Path(strfnet.__file__).parent
FIRST, GOAL = ("data/frames.py", "read_pixels"), 20
WORDS = ["evaluate", "--model", "strf_c2d_resnet8", "--weights", "walkers", "--protocol", "ap3d", "--workers", "0"]


class Trace:
    """Counts moves between files once `read_pixels` has been called."""

    def __init__(self) -> None:
        self.moves: Counter[tuple[str, str]] = Counter()
        self.started = False

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or not (here := room(frame)):
            return
        self.started = self.started or (here, frame.f_code.co_name) == FIRST
        caller = frame.f_back
        while caller is not None and not room(caller):
            caller = caller.f_back
        if self.started and caller is not None and room(caller) != here:
            self.moves[room(caller), here] += 1


def room(frame: FrameType) -> str:
    """The file of strfnet that a frame belongs to, or nothing."""
    path = frame.f_code.co_filename
    return path.removeprefix(f"{ROOT}/") if path.startswith(f"{ROOT}/") else ""


def tree(moves: Counter[tuple[str, str]], rooms: list[str]) -> list[str]:
    """Returns one line for each file, below the file that entered it first, with the calls from there."""
    callers: dict[str, str] = {}
    for here, there in moves:
        if there not in callers and there != rooms[0]:
            callers[there] = here

    def lines(file: str, before: str) -> list[str]:
        below = [other for other in rooms if callers.get(other) == file]
        drawn = []
        for other in below:
            branch, trunk = ("└─ ", "   ") if other == below[-1] else ("├─ ", "│  ")
            drawn.append(f"{before}{branch}{other}  {moves[file, other]}")
            drawn += lines(other, before + trunk)
        return drawn

    return [line for root in rooms if root not in callers for line in (root, *lines(root, ""))]


def main() -> int:
    trace = Trace()
    with TemporaryDirectory() as name, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        write_mars(Path(name, "walkers"), draw_set(train=1, test=2, cameras=2, tracklets=1, frames=8))
        data = ["--data", str(Path(name, "walkers")), "--format", "mars", "--complete", "false", "--device", "cpu"]
        sys.setprofile(trace)
        try:
            code = command([*WORDS, *data])
        finally:
            sys.setprofile(None)
    entries: Counter[str] = Counter()
    for (_, there), count in trace.moves.items():
        entries[there] += count
    rooms = list(dict.fromkeys(file for move in trace.moves for file in move))
    print(f"{len(rooms)} files, {sum(trace.moves.values())} moves (goal: fewer than {GOAL} files)\n")
    print("\n".join([f"{'file':<36}{'entries':>8}", *(f"{file:<36}{entries[file]:>8}" for file in rooms)]))
    print()
    print("\n".join(tree(trace.moves, rooms)))
    return code or int(len(rooms) >= GOAL)


if __name__ == "__main__":
    sys.exit(main())
