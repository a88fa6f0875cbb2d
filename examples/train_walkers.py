"""A small network, with and without STRF, learns from tracklets on disk to tell walkers apart by their gait.

python examples/train_walkers.py           # two minutes on two cores; what is there already is not done again

The walkers are drawn and look all alike: only the order of frames tells who is who. They are written as JPEGs in
the layout of MARS, and then everything goes through the command line: train, evaluate. A synthetic task shows
that the unit makes order in time readable, and nothing about its accuracy on real tracklets.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from strfnet.data.readers.mars import read_mars
from strfnet.data.synthetic.walker_set import write_mars
from strfnet.data.synthetic.walker_tasks import asked_and_searched, draw_tracklets, plan_task, random_order
from strfnet.data.tracklet import DataSet
from strfnet.training.log import read_log

RECIPE = Path(__file__).parent / "recipes" / "walkers.yaml"
STRFNET = (sys.executable, "-m", "strfnet.cli")
NETWORKS = {"C2D": "c2d_resnet8", "C2D + STRF": "strf_c2d_resnet8"}


def main() -> None:
    arguments = parse()
    data = arguments.out / "gait"
    if not data.exists():
        write_mars(data, drawn_walkers())
    runs = {name: arguments.out / "runs" / network for name, network in NETWORKS.items()}
    train(data, runs, arguments.train)
    figures = {name: evaluate(data, run) for name, run in runs.items()}
    print_table(figures, chance(data))
    print(f"\ntracklets   {data}")
    for run in runs.values():
        print(f"run         {run}  (log.jsonl, checkpoints, figures.json)")
    again = f"--trained {runs['C2D + STRF']} --data {data} --format mars --complete false"
    print(f"\nall protocols side by side: strfnet evaluate {again}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is written")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME=VALUE", help="changes to the recipe")
    return parser.parse_args()


def drawn_walkers() -> DataSet:
    """The gait task: all look alike, and the test's gaits lie between those of the training."""
    task = plan_task("gait")
    (group,) = task.tests["all"]
    query, _ = asked_and_searched(group)
    train = draw_tracklets(tqdm(task.train, "drawing the training", unit="tracklet"))
    test = draw_tracklets(tqdm(group, "drawing the test", unit="tracklet"))
    return DataSet("gait", train, test, query, tuple(range(len(test))))


def train(data: Path, runs: dict[str, Path], changes: list[str]) -> None:
    """Train the networks beside each other, one core for each, and show how far they are."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    options = [word for change in changes for word in ("--" + change.partition("=")[0], change.partition("=")[2])]
    processes = []
    for name, run in runs.items():
        run.mkdir(parents=True, exist_ok=True)
        command: list[str | Path] = [*STRFNET, "train", "--config", RECIPE, "--model", NETWORKS[name]]
        command += ["--data", data, "--out", run, *options]
        with (run / "stderr.txt").open("w") as said:
            processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said))
    with tqdm(desc=f"training {' and '.join(runs)}", unit="step") as bar:
        while any(process.poll() is None for process in processes):
            time.sleep(0.5)
            steps = [line for run in runs.values() for line in log_of(run) if line["kind"] == "step"]
            bar.update(len(steps) - bar.n)
    for process, run in zip(processes, runs.values(), strict=True):
        if process.returncode:
            sys.exit((run / "stderr.txt").read_text())


def log_of(run: Path) -> list[dict[str, Any]]:
    path = run / "log.jsonl"
    return read_log(path) if path.exists() else []


def evaluate(data: Path, run: Path) -> dict[str, Any]:
    file = run / "figures.json"
    command: list[str | Path] = [*STRFNET, "evaluate", "--trained", run, "--data", data, "--format", "mars"]
    command += ["--complete", "false", "--protocol", "ap3d", "--out", file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return json.loads(file.read_text())[0]


def chance(data: Path) -> tuple[float, float]:
    """Mean AP and R1 of a random order, what the query's own camera saw of its identity being left out."""
    found = read_mars(data, complete=False)
    everybody = [found.test[row] for row in found.gallery]
    shares = []
    for asked in (found.test[row] for row in found.query):
        same = [item for item in everybody if item.identity == asked.identity]
        own = sum(item.camera == asked.camera for item in same)
        shares.append(random_order(len(same) - own, len(everybody) - own))
    return fmean(share[0] for share in shares), fmean(share[1] for share in shares)


def print_table(figures: dict[str, dict[str, Any]], chance: tuple[float, float]) -> None:
    one = next(iter(figures.values()))
    split = one["splits"][0]
    print(f"\nwho is it, if all look alike and only their gait differs? {split['matched']} queries of new walkers,")
    print(f"{split['gallery']} tracklets in the gallery, AP by {one['protocol']['average_precision']}s")
    print(f"\n{'':14}{'mAP':>8}{'R1':>8}")
    rows = {"random order": chance}
    rows |= {name: (told["mean_average_precision"], told["cmc"][0]) for name, told in figures.items()}
    for name, shares in rows.items():
        print(f"{name:14}" + "".join(f"{100 * share:8.1f}" for share in shares))


if __name__ == "__main__":
    main()
