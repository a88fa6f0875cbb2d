"""`strfnet search` in a large gallery: memory of fresh processes, and time beside faiss in turns.

    python benchmarks/search.py             # 200,000 vectors of 2048: some minutes, 4 GiB of disk, 3 GiB of memory
    python benchmarks/search.py --vectors 1000000 --width 256
    python benchmarks/search.py --quick     # 2,000 vectors of 64; only memory and distances are judged

- memory: the highest resident memory of a process that makes the index, and of one that finds the 10 nearest of 1
  and of 100 queries in it. Vectors are read from disk, or from the system's cache of files.
- time: exact search in that index, and faiss' IndexFlatIP, which holds all vectors in memory, in turns in one
  process, on one thread each; CPU time.
- the distances of both must agree to 1e-5.

The goals: at most 1.5 GiB in each process; at most 1.5 times the time of faiss. Needs the extra ``faiss``;
Linux only. Exits 1 if a goal is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from interleaved import in_turn
from torch import Tensor
from torch.nn.functional import normalize

from strfnet.inference import add_to_index, open_gallery
from strfnet.inference.embedding_file import ALIKE, write_rows

MEMORY_GOAL, TIME_GOAL, NEAREST = 1536.0, 1.5, 10  # MiB; times; items
PEOPLE, PART = 1000, 5000  # vectors of a person are near; vectors drawn at a time
FILE = 200_000  # vectors of a file of embeddings


def write_embeddings(path: Path, first: int, end: int, width: int) -> None:
    """Writes random vectors of length 1, 1000 people, as `strfnet embed` would: rows ``first`` to ``end`` of all."""
    random = torch.Generator().manual_seed(0)
    people = torch.randn(PEOPLE, width, generator=random)
    random.manual_seed(1 + first)

    def parts() -> Iterator[Tensor]:
        for start in range(first, end, PART):
            rows = torch.arange(start, min(start + PART, end))
            yield people[rows % PEOPLE] + torch.randn(len(rows), width, generator=random)

    line = {"identity": None, "frames": 8, "details": {"first_time": "0.0", "last_time": "3.2"}}
    tracklets = [
        line | {"camera": f"camera{row % 8}", "path": f"crops/{row}/000001.jpg"} for row in range(first, end)
    ]
    facts = dict.fromkeys(ALIKE, "random") | {"metric": "cosine"}
    with path.open("wb") as file:
        write_rows(file, ".safetensors", parts(), json.dumps(tracklets), end - first, facts)


def peak_of(*words: object) -> dict[str, float]:
    """MiB and seconds of a task of this file, with its words, in a fresh process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.monotonic()
    command = [sys.executable, __file__, "--task", *map(str, words)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return {"peak_mib": used.ru_maxrss / 1024, "wall_s": time.monotonic() - began}


def run_task(task: str, words: list[str]) -> None:
    if task == "write":
        write_embeddings(Path(words[0]), *map(int, words[1:]))
    elif task == "index":
        add_to_index(words[0], *words[1:])
    else:
        gallery = open_gallery(words[0])
        gallery.nearest(gallery.vectors[: int(words[1])], NEAREST)


def compare(index: Path, queries: int, rounds: int = 5) -> dict[str, float]:
    """CPU seconds of exact search and of faiss, for some queries, and the largest difference of a distance."""
    import faiss

    gallery = open_gallery(index)
    count, width = gallery.vectors.shape
    flat = faiss.IndexFlatIP(width)
    for start in range(0, count, PART):
        flat.add(gallery.vectors[start : start + PART].numpy())
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    query = normalize(gallery.vectors[:queries] + 0.01)
    found: dict[str, Any] = {}

    def ours() -> None:
        found["strfnet"] = gallery.nearest(query, NEAREST)[0]

    def theirs() -> None:
        found["faiss"] = 1 - flat.search(query.numpy(), NEAREST)[0]

    timings = in_turn({"strfnet": ours, "faiss": theirs}, rounds=rounds, shortest=0)
    ratio = timings.ratio("strfnet", "faiss")
    return {
        "strfnet_s": timings.of("strfnet").median,
        "faiss_s": timings.of("faiss").median,
        "ratio": ratio.median,
        "least": ratio.least,
        "most": ratio.most,
        "difference": float(abs(found["strfnet"] - found["faiss"]).max()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few short vectors; speed is not judged")
    parser.add_argument("--vectors", type=int, default=200_000, metavar="N", help="of the gallery (default: 200000)")
    parser.add_argument("--width", type=int, default=2048, metavar="D", help="numbers of a vector (default: 2048)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the metrics there too")
    parser.add_argument("--task", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        run_task(given.task[0], given.task[1:])
        return 0
    count, width = (2000, 64) if given.quick else (given.vectors, given.width)
    with tempfile.TemporaryDirectory() as name:
        index, files = Path(name) / "index", []
        for first in range(0, count, FILE):
            files.append(Path(name) / f"{first}.safetensors")
            # In another process: a child's peak begins at its parent's memory.
            peak_of("write", files[-1], first, min(first + FILE, count), width)
        print(f"{count} vectors of {width} numbers")
        print(f"{'process':<26}{'peak (MiB)':>12}{'wall (s)':>10}")
        memory = {}
        for row, words in (
            ("index", ("index", index, *files)),
            ("search by 1", ("search", index, 1)),
            ("search by 100", ("search", index, 100)),
            ("search in a file by 1", ("search", files[0], 1)),
        ):
            memory[row] = told = peak_of(*words)
            print(f"{row:<26}{told['peak_mib']:>12.0f}{told['wall_s']:>10.1f}", flush=True)
        for file in files:
            file.unlink()
        print(f"\n{'queries':<9}{'strfnet (s)':>12}{'faiss (s)':>11}{'ratio (least .. most)':>25}{'difference':>12}")
        times = {}
        for queries in (1, 100):
            times[queries] = told = compare(index, queries)
            ratio = f"{told['ratio']:.2f} ({told['least']:.2f} .. {told['most']:.2f})"
            seconds = f"{told['strfnet_s']:>12.3f}{told['faiss_s']:>11.3f}"
            print(f"{queries:<9}{seconds}{ratio:>25}{told['difference']:>12.1e}", flush=True)

    most = max(told["peak_mib"] for told in memory.values())
    goals = {
        f"peak {most:.0f} MiB (goal: at most {MEMORY_GOAL:.0f})": most <= MEMORY_GOAL,
        "equal distances (goal: to 1e-5)": all(told["difference"] <= 1e-5 for told in times.values()),
    }
    if not given.quick:
        slowest = max(told["ratio"] for told in times.values())
        goals[f"{slowest:.2f} times the time of faiss (goal: at most {TIME_GOAL})"] = slowest <= TIME_GOAL
    print()
    for goal, reached in goals.items():
        print(goal + ("" if reached else "  <- missed"))
    if given.json is not None:
        figures = {"memory": memory, "times": times, "reached": all(goals.values())}
        given.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
