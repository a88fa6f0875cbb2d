"""Runs that are killed and resumed, compared bit by bit with a run that was not stopped.

    python benchmarks/resume.py            # half an hour: 1,000 signals beside the kills
    python benchmarks/resume.py --quick    # a minute, fewer of everything

A tiny network (strf_c2d_resnet8, with dropout) is trained on synthetic walkers in memory for two epochs of four
steps. It is saved after every second step and every epoch, and evaluated after every epoch. Each row of the table
kills such runs with SIGKILL and starts them again until they end. Then the run directory must equal that of a run
without a stop: the files of the last checkpoint (weights with buffers, optimizer, random states of every process)
byte for byte, the position, the best metric, the result, and each step with its loss once in the log. Other rows send
signals that stop a run, close its terminal or its output, and kill a worker or the agent of two ranks: the exit code
must be right, the last step saved, and no process left after 10 s. The last row kills inside saves only, and reads
the newest checkpoint after each kill.

Processes are forked from this one, which has loaded torch already. Two ranks get the environment of torchrun. Linux
and macOS. Exits 1 if a run differs or a checkpoint is damaged.
"""

import argparse
import importlib
import os
import random
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from endings import Ending, endings, let_end
from processes import fork, kill_before, killed_or_done
from torch import Tensor, nn
from tqdm import tqdm

from strfnet import create_model
from strfnet.data.synthetic import draw_camera, draw_walker, render
from strfnet.data.tracklet import Tracklet
from strfnet.losses.objective import Objective, ReIDLoss, strf_loss
from strfnet.models.network import ReIDNetwork
from strfnet.training.log import read_log
from strfnet.training.recipe import Recipe
from strfnet.training.trainer import train
from strfnet.weights.store import CheckpointStore

PEOPLE, STEPS = 4, 4
RECIPE = Recipe(
    model="resume:network_with_dropout",
    height=64,
    width=32,
    frames=2,
    stride=2,
    batch=4,
    identities=2,
    tracklets=2,
    epochs=2,
    steps_per_epoch=STEPS,
    milestones=(1,),
    evaluate_every=1,
    save_every=2,
    workers=0,
    device="cpu",
)


def walkers() -> list[Tracklet]:
    """Four identities with six tracklets under each of two cameras; an epoch has more than four batches."""
    return [
        Tracklet(tuple(render(draw_walker(0, one), draw_camera(0, camera), frames=6, seed=(one, camera, again))), one)
        for one in range(PEOPLE)
        for camera in range(2)
        for again in range(6)
    ]


class Counted(nn.Module):
    """The objective. Its n-th call kills the process, n being ``fatal``; 0 never does."""

    def __init__(self, objective: ReIDLoss, fatal: int) -> None:
        super().__init__()
        self.objective, self.fatal, self.calls = objective, fatal, 0

    def forward(self, output: Any, labels: Tensor) -> Objective:
        self.calls += 1
        if self.calls == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.objective(output, labels)


def network_with_dropout(num_classes: int) -> ReIDNetwork:
    """A network whose training draws random numbers."""
    network: Any = create_model("strf_c2d_resnet8", num_classes=num_classes)
    network.name = None
    network.head.classifier = nn.Sequential(nn.Dropout(0.2), network.head.classifier)
    return cast(ReIDNetwork, network)


def run(
    folder: Path, tracklets: Sequence[Tracklet], recipe: Recipe, fatal_step: int = 0, progress: bool = False
) -> None:
    """The training that is started again and again."""
    torch.manual_seed(recipe.seed)
    network = create_model(recipe.model, num_classes=PEOPLE)
    objective = Counted(strf_loss(), fatal_step)
    train(network, objective, tracklets, recipe, folder, evaluate=_sum_of_weights, progress=progress)


def _sum_of_weights(network: nn.Module) -> dict[str, float]:
    return {"sum of weights": sum(float(parameter.detach().sum()) for parameter in network.parameters())}


def remains(folder: Path) -> dict[str, Any]:
    """The content of the folder of a finished run, without times and speeds."""
    saved, best = CheckpointStore(folder / "checkpoints"), CheckpointStore(folder / "best")
    last = saved.metadata(saved.numbers()[-1])
    lines = read_log(folder / "log.jsonl")
    return {
        "files": last["sha256"],
        "position": last["position"],
        "learning rate": last["learning_rate"],
        "best": [(item["sha256"], item["figures"]) for item in map(best.metadata, best.numbers())],
        "losses": [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if line["kind"] == "step"],
        "figures": [(line["step"], line["sum of weights"]) for line in lines if line["kind"] == "evaluation"],
        "result": (folder / "result.json").read_text().replace(str(folder), ""),
        "unfinished": sorted(path.name for path in folder.rglob("*.part")),
    }


class Bench:
    """The rows of the table."""

    def __init__(self, room: Path, quick: bool) -> None:
        self.room, self.quick, self.tracklets, self.count = room, quick, walkers(), 0
        self.wrong: list[str] = []
        self.random = random.Random(0)

    def new_folder(self) -> Path:
        self.count += 1
        return self.room / f"run{self.count}"

    def start(self, folder: Path, recipe: Recipe, ranks: int, prepare: Callable[[], None], fatal: int) -> list[int]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def body(rank: int) -> Callable[[], None]:
            def start() -> None:
                if ranks > 1:
                    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
                    rendezvous |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "OMP_NUM_THREADS": 1}
                    os.environ.update({name: str(value) for name, value in rendezvous.items()})
                if rank == 0:
                    prepare()
                run(folder, self.tracklets, recipe, fatal)

            return start

        return [fork(body(rank)) for rank in range(ranks)]

    def unbroken(self, recipe: Recipe, ranks: int = 1) -> tuple[dict[str, Any], float]:
        """What `remains` of a run that is not killed, and its seconds."""
        folder, began = self.new_folder(), time.monotonic()
        killed_or_done(self.start(folder, recipe, ranks, _nothing, 0))
        return remains(folder), time.monotonic() - began

    def finish(self, what: str, folder: Path, recipe: Recipe, ranks: int, expected: dict[str, Any]) -> bool:
        """Start a run for the last time. Returns whether it ends as expected."""
        killed_or_done(self.start(folder, recipe, ranks, _nothing, 0))
        found = remains(folder)
        differ = [name for name in expected if expected[name] != found[name]]
        if differ:
            self.wrong.append(f"{what}: other {', '.join(differ)}")
        shutil.rmtree(folder)
        return not differ

    def at_every_step(self) -> tuple[int, int, int]:
        """Kill one run in each step."""
        expected, _ = self.unbroken(RECIPE)
        same, times = 0, range(1, 2 * STEPS + 1, 5 if self.quick else 1)
        for fatal in tqdm(times, desc="every step"):
            folder = self.new_folder()
            if not killed_or_done(self.start(folder, RECIPE, 1, _nothing, fatal)):
                raise RuntimeError(f"the run was not killed in step {fatal}")
            same += self.finish(f"killed in step {fatal}", folder, RECIPE, 1, expected)
        return len(times), len(times), same

    def at_every_operation(self) -> tuple[int, int, int]:
        """Kill one run before each of its disk operations, most of which belong to saves."""
        expected, _ = self.unbroken(RECIPE)
        kills = same = 0
        with tqdm(desc="every disk operation") as bar:
            for operation in range(1, sys.maxsize, 23 if self.quick else 1):
                folder = self.new_folder()
                processes = self.start(folder, RECIPE, 1, lambda at=operation: kill_before(at), 0)  # type: ignore[misc]
                if not killed_or_done(processes):
                    return kills, kills, same
                kills += 1
                same += self.finish(f"killed before disk operation {operation}", folder, RECIPE, 1, expected)
                bar.update()
        return kills, kills, same

    def at_random_times(self, *, runs: int, workers: int = 0, ranks: int = 1) -> tuple[int, int, int]:
        """Kill each run at random times until it ends before the kill."""
        recipe = replace(RECIPE, workers=workers, sync_batchnorm=ranks > 1)
        expected, seconds = self.unbroken(recipe, ranks)
        kills = same = 0
        for _ in tqdm(range(runs), desc=f"random times, {workers} workers, {ranks} ranks"):
            folder = self.new_folder()
            while killed_or_done(
                self.start(folder, recipe, ranks, _nothing, 0), self.random.uniform(0, 1.1 * seconds)
            ):
                kills += 1
            same += self.finish("killed at random times", folder, recipe, ranks, expected)
        return kills, runs, same

    def at_endings(self, *, ending: Ending, count: int) -> tuple[int, int, int]:
        """Let something happen ``count`` times, each at a random time, to runs that are started until they end."""
        recipe = replace(RECIPE, workers=ending.workers, sync_batchnorm=ending.ranks > 1)
        expected, seconds = self.unbroken(recipe, ending.ranks)
        happened = runs = same = 0
        with tqdm(total=count, desc=ending.name) as bar:
            while happened < count:
                folder, code = self.new_folder(), -1

                def body(folder: Path = folder) -> None:
                    if ending.ranks == 1:
                        run(folder, self.tracklets, recipe, progress=True)
                    else:
                        killed_or_done(self.start(folder, recipe, ending.ranks, _nothing, 0))

                while code:
                    now, code, wrong = let_end(body, ending, self.random.uniform(0, 1.1 * seconds))
                    seconds *= 1.1 if now else 0.75  # a busy machine takes other times than before
                    happened += now
                    bar.update(now)
                    if code > 128:
                        wrong += _unsaved(folder)
                    self.wrong += [f"{ending.name}: {what}" for what in wrong]
                runs += 1
                same += self.finish(ending.name, folder, recipe, ending.ranks, expected)
        return happened, runs, same

    def inside_saves(self, *, kills: int) -> tuple[int, int, int]:
        """Kill one run inside saves, read the newest checkpoint after each kill, and let the run end."""
        recipe = replace(RECIPE, epochs=10_000, save_every=1)
        folder, whole, done, saved = self.new_folder(), 0, 0, False
        store = CheckpointStore(folder / "checkpoints")
        with tqdm(total=kills, desc="inside saves") as bar:
            while done < kills:
                finished = self._killed_inside_a_save(folder, recipe)
                if finished is None:
                    continue
                done += 1
                bar.update()
                try:
                    there = store.load_newest() is not None
                except ValueError as error:
                    self.wrong.append(f"killed inside a save: {error}")
                    return kills, kills, whole
                saved = saved or finished > 0
                whole += there or not saved  # a kill in the first save has no checkpoint to lose
                saved = saved or there
        found = store.load_newest()
        epochs = (found.metadata["position"]["epoch"] if found else 0) + 1
        ending = replace(recipe, epochs=epochs)
        expected, _ = self.unbroken(ending)
        self.finish("after the kills inside saves", folder, ending, 1, expected)
        return kills, kills, whole

    def _killed_inside_a_save(self, folder: Path, recipe: Recipe) -> int | None:
        """Start the run and kill it in its first or second save.

        Returns: the number of saves that it finished; None if it was not in a save when it was killed.
        """
        listen, send = os.pipe()

        def mark_saves() -> None:
            save = CheckpointStore.save

            def marked(*arguments: Any) -> Path:
                os.write(send, b"(")
                path = save(*arguments)
                os.write(send, b")")
                return path

            setattr(CheckpointStore, "save", marked)  # noqa: B010

        (process,) = self.start(folder, recipe, 1, mark_saves, 0)
        marks = self.random.choice([1, 3])  # to wait for: the start of a save, its end, the start of the next
        for _ in range(marks):
            if select.select([listen], [], [], 60)[0]:
                os.read(listen, 1)
        time.sleep(self.random.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(send)
        rest = os.read(listen, 100)
        os.close(listen)
        return marks // 2 if rest == b"" else None


def _unsaved(folder: Path) -> list[str]:
    """What a run that stopped by a signal has logged and not saved."""
    log = folder / "log.jsonl"
    steps = [line["step"] for line in read_log(log) if line["kind"] == "step"] if log.exists() else []
    saved = CheckpointStore(folder / "checkpoints").numbers()
    return [f"step {steps[-1]} is not saved"] if steps[-1:] > saved[-1:] else []


def _nothing() -> None:
    pass


def load_what_a_run_loads(room: Path, tracklets: Sequence[Tracklet]) -> None:
    """Import what a run imports, so that forked processes start at once."""
    names = room / "modules"

    def listed() -> None:
        run(room / "first", tracklets, RECIPE)
        names.write_text("\n".join(sys.modules))

    killed_or_done([fork(listed)])
    for name in names.read_text().splitlines():
        if name.split(".")[0] in ("torch", "torchvision", "accelerate", "safetensors", "strfnet"):
            with suppress(Exception):
                importlib.import_module(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="kill fewer runs")
    parser.add_argument(
        "--signals", type=int, help="what happens at random times, in all (default: 1,000; quick: 20)"
    )
    call = parser.parse_args()
    quick = call.quick
    signals = (20 if quick else 1000) if call.signals is None else call.signals
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        bench = Bench(Path(room), quick)
        load_what_a_run_loads(Path(room), bench.tracklets)
        rows = {
            "in every step": bench.at_every_step(),
            "before every disk operation": bench.at_every_operation(),
            "at random times": bench.at_random_times(runs=1 if quick else 20),
            "at random times, 2 workers": bench.at_random_times(runs=1 if quick else 10, workers=2),
            "at random times, 2 ranks": bench.at_random_times(runs=1 if quick else 10, ranks=2),
        }
        for ending in endings():
            rows[ending.name] = bench.at_endings(ending=ending, count=max(1, round(ending.share * signals)))
        saves = bench.inside_saves(kills=3 if quick else 200)
    print(f"{'killed or stopped':<30}{'times':>8}{'runs':>8}{'bit-identical':>16}")
    for name, (kills, runs, same) in rows.items():
        print(f"{name:<30}{kills:>8}{runs:>8}{same:>16}")
    print(f"{'inside saves':<30}{saves[0]:>8}{1:>8}{saves[2]:>12} of {saves[1]:>3} checkpoints usable")
    for line in bench.wrong:
        print(f"<- {line}")
    right = not bench.wrong and all(runs == same for _, runs, same in rows.values()) and saves[1] == saves[2]
    print("all runs end as if they had never been stopped" if right else "a run ends differently, or a save was lost")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
