"""MARS at its full size: reading its index, and evaluating embeddings of it under all of its protocols.

    python benchmarks/mars.py           # two minutes, and 1.2 million hard links
    python benchmarks/mars.py --quick   # a fiftieth of the frames; only counts are judged

The tree has the published numbers of tracklets, identities, queries and frames; its frames are hard links to a few
files that nobody decodes. Embeddings are random, near one another for each identity, of 2048 numbers. Each row is of
a fresh process: wall and CPU seconds of the call, and the highest resident memory above that before it.

The goals: the index is read within 20 s and 400 MiB, and all protocols are evaluated within 10 s on two cores. Needs
the extra ``matlab``; Linux only. Exits 1 if a goal is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranking import resident
from scipy.io import savemat

from strfnet.data import DataSet
from strfnet.data.readers.mars import read_mars
from strfnet.evaluation import evaluate, protocols_of

READING_GOAL, MEMORY_GOAL, EVALUATION_GOAL = 20.0, 400.0, 10.0  # seconds, MiB, seconds
CAMERAS, QUERIES, QUERIED, WIDTH, LINKS = 6, 1980, 626, 2048, 50_000  # links to a file: ext4 has at most 65,000
JUNK, DISTRACTORS = 870, 3248
# For each part: identities, the step from one to the next, tracklets of people, and frames of all tracklets.
PARTS = {"train": (625, 1, 8298, 509_914), "test": (634, 2, 8062, 681_089)}


def write_tree(root: Path, share: int = 1) -> Path:
    """A tree in the layout of MARS with the published counts, but for frames, of which it has one ``share``-th."""
    files = root / "files"
    files.mkdir(parents=True)
    (root / "info").mkdir()
    made = 0
    for part, (identities, first, people, frames) in PARTS.items():
        owners = [first + 2 * (number % identities) for number in range(people)]
        owners = sorted(owners + ([-1] * JUNK + [0] * DISTRACTORS if part == "test" else []))
        short, longer = divmod(max(frames // share, len(owners)), len(owners))
        names: list[str] = []
        table: list[tuple[int, int, int, int]] = []
        for number, owner in enumerate(owners):
            camera, length = 1 + number % CAMERAS, short + (number < longer)
            folder = "00-1" if owner == -1 else f"{owner:04d}"
            of_tracklet = [f"{folder}C{camera}T{number:04d}F{frame:03d}.jpg" for frame in range(1, length + 1)]
            place = root / f"bbox_{part}" / folder
            place.mkdir(parents=True, exist_ok=True)
            for name in of_tracklet:
                source = files / str(made // LINKS)
                if made % LINKS == 0:
                    source.touch()
                os.link(source, place / name)
                made += 1
            table.append((len(names) + 1, len(names) + length, owner, camera))
            names += of_tracklet
        (root / "info" / f"{part}_name.txt").write_text("\n".join(names))
        savemat(root / "info" / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(table, np.int32)})
    rows = [row for row, (_, _, owner, _) in enumerate(table) if owner > 0]  # sorted by owner: 12 or 13 of each
    asked = sorted({table[row][2] for row in rows})[:QUERIED]
    turns = [[row for row in rows if table[row][2] == owner] for owner in asked]
    query = [row + 1 for turn in zip(*turns, strict=False) for row in turn][:QUERIES]
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([sorted(query)], np.int32)})
    return root


def draw_embeddings(data: DataSet, width: int) -> torch.Tensor:
    """Random vectors, float32 (n, width): that of the identity, and four times as much noise."""
    random = torch.Generator().manual_seed(0)
    people = torch.randn(len({item.identity for item in data.test}), width, generator=random)
    row_of = {identity: row for row, identity in enumerate(sorted({int(item.identity or 0) for item in data.test}))}
    owners = torch.tensor([row_of[int(item.identity or 0)] for item in data.test])
    return people[owners] + 4 * torch.randn(len(owners), width, generator=random)


def run_task(task: str, root: Path, width: int) -> dict[str, Any]:
    """Figures of reading, or of each protocol. Changes this process: run it in a fresh one."""
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM is the peak
    clocks = Clocks()
    data = read_mars(root, complete=width == WIDTH)  # the whole tree has the published counts
    if task == "read":
        tracklets = (*data.train, *data.test)
        counts = {"tracklets": len(tracklets), "queries": len(data.query)}
        frames = sum(len(item.frames) for item in tracklets)
        return {**clocks.read(), "above_mib": resident("VmHWM") - before, **counts, "frames": frames}
    embeddings, found = draw_embeddings(data, width), {}
    for protocol in protocols_of(data):
        clocks = Clocks()
        result = evaluate(embeddings, data, protocol)
        found[protocol.name] = {**clocks.read(), "map": result.mean_average_precision}
    return {name: sum(row[name] for row in found.values()) for name in ("wall_s", "cpu_s")} | {"protocols": found}


class Clocks:
    """Wall and CPU time since it was made."""

    def __init__(self) -> None:
        self.began = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        return {"wall_s": time.monotonic() - self.began[0], "cpu_s": time.process_time() - self.began[1]}


def measured(task: str, root: Path, width: int) -> dict[str, Any]:
    """What a task returns in a fresh process."""
    command = [sys.executable, __file__, "--task", task, str(root), str(width)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    figures: dict[str, Any] = json.loads(subprocess.check_output(command, env=environment))
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="few frames and short vectors; nothing but counts is judged"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics there too")
    parser.add_argument("--task", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        task, root, width = given.task
        print(json.dumps(run_task(task, Path(root), int(width))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        root, width = write_tree(Path(name) / "MARS", 50 if given.quick else 1), 64 if given.quick else WIDTH
        reading, evaluation = (measured(task, root, width) for task in ("read", "evaluate"))

    head = f"{'reading':<12}{'wall (s)':>9}{'CPU (s)':>9}{'above (MiB)':>13}"
    print(f"{head}{'tracklets':>11}{'frames':>11}{'queries':>9}")
    counts = f"{reading['tracklets']:>11}{reading['frames']:>11}{reading['queries']:>9}"
    print(f"{'':<12}{reading['wall_s']:>9.1f}{reading['cpu_s']:>9.1f}{reading['above_mib']:>13.0f}{counts}")
    print(f"\n{'evaluation':<12}{'wall (s)':>9}{'CPU (s)':>9}{'mAP':>8}")
    for protocol, row in evaluation["protocols"].items():
        print(f"{protocol:<12}{row['wall_s']:>9.1f}{row['cpu_s']:>9.1f}{100 * row['map']:>8.2f}")
    print(f"{'all':<12}{evaluation['wall_s']:>9.1f}{evaluation['cpu_s']:>9.1f}\n")
    seconds, mib, judged = reading["wall_s"], reading["above_mib"], evaluation["wall_s"]
    goals = {f"{reading['tracklets']} tracklets (goal: 20478)": reading["tracklets"] == 20_478}
    if not given.quick:
        goals |= {
            f"the index is read in {seconds:.1f} s (goal: at most {READING_GOAL:.0f})": seconds <= READING_GOAL,
            f"in {mib:.0f} MiB (goal: at most {MEMORY_GOAL:.0f})": mib <= MEMORY_GOAL,
            f"all protocols in {judged:.1f} s (goal: at most {EVALUATION_GOAL:.0f})": judged <= EVALUATION_GOAL,
        }
    for goal, reached in goals.items():
        print(goal + ("" if reached else "  <- missed"))
    if given.json is not None:
        figures = {"reading": reading, "evaluation": evaluation, "reached": all(goals.values())}
        given.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
