"""STRF and NVAN on drawn walkers: small networks, trained and tested alike, with and without what is compared.

python benchmarks/synthetic_reid.py --jobs 2               # all that is not in the results yet; hours
python benchmarks/synthetic_reid.py --only task=gait,host=c2d,arm=none/strf --seeds 2
python benchmarks/synthetic_reid.py --list                 # what is planned and what is done
python benchmarks/synthetic_reid.py --table                # the results as tables, into docs/synthetic.md

Every finished run is one line of the results file, so a run broken off goes on where it was.
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
PAGE = ROOT / "docs" / "synthetic.md"


def read(results: Path) -> list[dict[str, Any]]:
    """The finished runs; a last line that was broken off is cut away."""
    if not results.exists():
        return []
    text = results.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        results.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def key(row: dict[str, Any]) -> str:
    return Run(**{field.name: row[field.name] for field in fields(Run)}).key


def perform(runs: Sequence[Run], results: Path, *, jobs: int) -> None:
    """Draw what the runs need, then run them, ``jobs`` at a time, and add a line for each."""
    drawn = list(dict.fromkeys((run.task, run.data) for run in runs))
    results.parent.mkdir(parents=True, exist_ok=True)
    spawning = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="walkers") as folder,
        ProcessPoolExecutor(jobs, spawning, torch.set_num_threads, (1,)) as pool,
        results.open("a") as file,
    ):
        here = Path(folder)
        drawing = [pool.submit(synthetic_training.draw, task, data, here) for task, data in drawn]
        for done in tqdm(as_completed(drawing), "drawing", len(drawing), unit="set"):
            done.result()
        running = [pool.submit(synthetic_training.perform, run, here) for run in runs]
        bar = tqdm(as_completed(running), "training", len(running), unit="run")
        for done in bar:
            row = done.result()
            file.write(json.dumps(row) + "\n")
            file.flush()
            figures = " ".join(f"{test} {mean:.1f}/{first:.1f}" for test, (mean, first) in row["scores"].items())
            bar.write(f"{key(row)}: {figures}; {row['cpu_seconds']} CPU s")


def selected(runs: Iterable[Run], only: str) -> list[Run]:
    """Those that fit ``name=value/value,name=value``. Raises: ValueError for a name that no run has."""
    wanted = dict(part.split("=", 1) for part in only.split(",") if part)
    unknown = set(wanted) - {field.name for field in fields(Run)}
    if unknown:
        names = ", ".join(field.name for field in fields(Run))
        raise ValueError(f"--only names {', '.join(sorted(unknown))}, wanted some of {names}")
    return [run for run in runs if all(str(getattr(run, n)) in v.split("/") for n, v in wanted.items())]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, of one thread each")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds of every comparison")
    parser.add_argument("--only", default="", metavar="NAME=VALUE/VALUE,..", help="runs of this kind alone")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="lines of JSON")
    parser.add_argument("--list", action="store_true", help="print what is planned and run nothing")
    parser.add_argument("--table", action="store_true", help="print the tables, write them to --page, run nothing")
    parser.add_argument("--page", type=Path, default=PAGE, metavar="FILE", help="the page with the tables")
    given = parser.parse_args()
    rows = read(given.results)
    if given.table:
        tables = synthetic_tables.tables(rows)
        synthetic_tables.put(tables, given.page)
        print(tables)
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
    print(f"{len(runs)} runs, {len(runs) - len(open_runs)} of them in {given.results} already")
    if open_runs:
        perform(open_runs, given.results, jobs=given.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
