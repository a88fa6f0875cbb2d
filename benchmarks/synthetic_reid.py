"""Paired comparison of STRF and NVAN with their hosts on synthetic walkers: small networks, one recipe, five seeds.

python benchmarks/synthetic_reid.py --jobs 2               # every run that the results lack; hours
python benchmarks/synthetic_reid.py --only task=gait,host=c2d,arm=none/strf --seeds 2
python benchmarks/synthetic_reid.py --list                 # planned and finished runs
python benchmarks/synthetic_reid.py --table                # differences in mAP, one row per comparison
python benchmarks/synthetic_reid.py --table full           # every metric and every seed

Each finished run is one line of the results file, so an interrupted benchmark continues where it stopped.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import fields
from pathlib import Path
from typing import Any

import synthetic_tables
import synthetic_training
import torch
from synthetic_arms import Run, planned
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "data" / "synthetic_reid.jsonl"


def read(results: Path) -> list[dict[str, Any]]:
    """Returns the finished runs and removes an incomplete last line from the file."""
    if not results.exists():
        return []
    text = results.read_text()
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        results.write_text(complete)
    return [json.loads(line) for line in complete.splitlines()]


def key(row: dict[str, Any]) -> str:
    return Run(**{field.name: row[field.name] for field in fields(Run)}).key


def perform(runs: Sequence[Run], results: Path, *, jobs: int) -> None:
    """Renders the tasks, performs the runs in ``jobs`` processes, and appends a line for each."""
    tasks = list(dict.fromkeys((run.task, run.data) for run in runs))
    results.parent.mkdir(parents=True, exist_ok=True)
    spawning = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="walkers") as folder,
        ProcessPoolExecutor(jobs, spawning, torch.set_num_threads, (1,)) as pool,
        results.open("a") as file,
    ):
        tracklets = Path(folder)
        rendering = [pool.submit(synthetic_training.draw, task, data, tracklets) for task, data in tasks]
        for done in tqdm(as_completed(rendering), "rendering", len(rendering), unit="set"):
            done.result()
        running = [pool.submit(synthetic_training.perform, run, tracklets) for run in runs]
        bar = tqdm(as_completed(running), "training", len(running), unit="run")
        for done in bar:
            row = done.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            metrics = " ".join(f"{test} {mean:.1f}/{first:.1f}" for test, (mean, first) in row["scores"].items())
            bar.write(f"{key(row)}: {metrics}; {row['cpu_seconds']} CPU s")


def selected(runs: Iterable[Run], only: str) -> list[Run]:
    """Returns the runs that match ``name=value/value,name=value``. Raises: ValueError if a name is unknown."""
    wanted = dict(part.split("=", 1) for part in only.split(",") if part)
    unknown = set(wanted) - {field.name for field in fields(Run)}
    if unknown:
        names = ", ".join(field.name for field in fields(Run))
        raise ValueError(f"--only contains {', '.join(sorted(unknown))}, wanted some of {names}")
    return [run for run in runs if all(str(getattr(run, n)) in v.split("/") for n, v in wanted.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes of one thread each (default: 1)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds per comparison (default: 5)")
    parser.add_argument("--only", default="", metavar="NAME=VALUE/VALUE,..", help="perform these runs only")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="JSON lines to read and extend")
    parser.add_argument("--list", action="store_true", help="print planned and finished runs, perform none")
    parser.add_argument(
        "--table", nargs="?", const="short", choices=("short", "full"), help="print results, run none"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="Markdown file for the table (default: stdout)")
    given = parser.parse_args()
    rows = read(given.results)
    if given.table:
        text = synthetic_tables.tables(rows) if given.table == "full" else synthetic_tables.summary(rows)
        if given.out is None:
            print(text)
        else:
            given.out.write_text(f"{text}\n")
        return 0
    done = {key(row) for row in rows}
    try:
        runs = selected(dict.fromkeys(planned(given.seeds)), given.only)
    except ValueError as error:
        parser.error(str(error))
    if given.list:
        print(*(f"{'done' if run.key in done else 'to do':7}{run.key}" for run in runs), sep="\n")
        return 0
    open_runs = [run for run in runs if run.key not in done]
    print(f"{len(runs)} runs, {len(runs) - len(open_runs)} of them finished in {given.results}")
    if open_runs:
        perform(open_runs, given.results, jobs=given.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
