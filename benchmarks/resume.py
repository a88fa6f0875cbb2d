"""Runs that are killed and go on, against one that was never stopped: every bit must agree.

    python benchmarks/resume.py            # some minutes
    python benchmarks/resume.py --quick    # some seconds, fewer of everything

A tiny network (strf_c2d_resnet8, with dropout) is trained on walkers in memory for two epochs of four steps,
saved after each second step and after each epoch, and evaluated after each. Each row of the table kills such
runs with SIGKILL and starts them again until they end. Then all that a run leaves must be as if it had never
been stopped: the files of its last checkpoint (weights with buffers, optimizer, random states of every
process), byte for byte, its position and best figure, its result, and every step and its loss once in its log.
The last row kills inside saves only, looks after each kill whether the newest checkpoint is whole, and goes on.

Processes are forked from this one, which has loaded torch already; two ranks are told by the environment what
torchrun tells them. Linux and macOS. Exits 1 if a run differs or a checkpoint is not whole.
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
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from strfnet import create_model
from strfnet.data.synthetic import draw_camera, draw_walker, render
from strfnet.data.tracklet import Tracklet
from strfnet.losses.objective import Objective, ReIDLoss, strf_loss
from strfnet.training import run_directory as run_folder
from strfnet.training.log import read_log
from strfnet.training.recipe import Recipe
from strfnet.training.trainer import train
from strfnet.weights.store import checkpoints, describe, newest

PEOPLE, STEPS = 4, 4
OPERATIONS = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir", "write")  # what is asked of the disk
RECIPE = Recipe(
    model="strf_c2d_resnet8",
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
    """Four people, each three times under two cameras; an epoch has more batches than its four steps."""
    return [
        Tracklet(tuple(render(draw_walker(0, one), draw_camera(0, camera), frames=6, seed=(one, camera, again))), one)
        for one in range(PEOPLE)
        for camera in range(2)
        for again in range(6)
    ]


class Counted(nn.Module):
    """The objective, which kills its process when it is asked for the given time; 0 never does."""

    def __init__(self, objective: ReIDLoss, fatal: int) -> None:
        super().__init__()
        self.objective, self.fatal, self.asked = objective, fatal, 0

    def forward(self, output: Any, labels: Tensor) -> Objective:
        self.asked += 1
        if self.asked == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.objective(output, labels)


def run(folder: Path, tracklets: Sequence[Tracklet], recipe: Recipe, fatal_step: int = 0) -> None:
    """The command that is started again and again."""
    torch.manual_seed(recipe.seed)
    network: Any = create_model(recipe.model, num_classes=PEOPLE)
    network.head.classifier = nn.Sequential(nn.Dropout(0.2), network.head.classifier)  # draws random numbers
    objective = Counted(strf_loss(), fatal_step)
    train(network, objective, tracklets, recipe, folder, evaluate=_sum_of_weights, progress=False)


def _sum_of_weights(network: nn.Module) -> dict[str, float]:
    return {"sum of weights": sum(float(parameter.detach().sum()) for parameter in network.parameters())}


def fork(body: Callable[[], None]) -> int:
    """The process that does this and leaves; 0 if it went well, 1 after an error."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def killed_or_done(processes: Sequence[int], after: float | None = None) -> bool:
    """Wait for all processes, or kill them after some seconds; whether one was killed. Raises: after an error."""
    end = None if after is None else time.monotonic() + after
    codes: dict[int, int] = {}
    while len(codes) < len(processes):
        for process in set(processes) - set(codes):
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                codes[process] = os.waitstatus_to_exitcode(status)
        if (end is not None and time.monotonic() > end) or -signal.SIGKILL in codes.values():
            for process in set(processes) - set(codes):
                os.kill(process, signal.SIGKILL)
            end = None
        time.sleep(0.001)
    if any(code not in (0, -signal.SIGKILL) for code in codes.values()):
        raise RuntimeError(f"a run ended with {sorted(codes.values())}, wanted 0 or a kill")
    return -signal.SIGKILL in codes.values()


def kill_before(operation: int) -> None:
    """Let this process be killed when it next asks the disk for its so-manieth operation."""
    left = operation

    def fatal(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    for name in OPERATIONS:
        setattr(os, name, fatal(getattr(os, name)))


def remains(folder: Path) -> dict[str, Any]:
    """All that a finished run leaves, save times and speeds."""
    last = checkpoints(folder / "checkpoints")[-1]
    facts, best = describe(last), [describe(path) for path in checkpoints(folder / "best")]
    lines = read_log(folder / "log.jsonl")
    return {
        "files": facts["sha256"],
        "position": facts["position"],
        "learning rate": facts["learning_rate"],
        "best": [(item["sha256"], item["figures"]) for item in best],
        "losses": [(line["step"], line["loss"], line["gradient_norm"]) for line in lines if line["kind"] == "step"],
        "figures": [(line["step"], line["sum of weights"]) for line in lines if line["kind"] == "evaluation"],
        "result": (folder / "result.json").read_text().replace(str(folder), ""),
        "unfinished": sorted(path.name for path in folder.rglob("*.part")),
    }


class Bench:
    """Rows of the table, and what they start from."""

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
                    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": rank, "LOCAL_RANK": rank}
                    told |= {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "OMP_NUM_THREADS": 1}
                    os.environ.update({name: str(value) for name, value in told.items()})
                if rank == 0:
                    prepare()
                run(folder, self.tracklets, recipe, fatal)

            return start

        return [fork(body(rank)) for rank in range(ranks)]

    def unbroken(self, recipe: Recipe, ranks: int = 1) -> tuple[dict[str, Any], float]:
        """What a run leaves that is not killed, and the seconds that it takes."""
        folder, began = self.new_folder(), time.monotonic()
        killed_or_done(self.start(folder, recipe, ranks, _nothing, 0))
        return remains(folder), time.monotonic() - began

    def finish(self, what: str, folder: Path, recipe: Recipe, ranks: int, expected: dict[str, Any]) -> bool:
        """Start a run for the last time, and compare; whether it is as expected."""
        killed_or_done(self.start(folder, recipe, ranks, _nothing, 0))
        found = remains(folder)
        differ = [name for name in expected if expected[name] != found[name]]
        if differ:
            self.wrong.append(f"{what}: other {', '.join(differ)}")
        shutil.rmtree(folder)
        return not differ

    def at_every_step(self) -> tuple[int, int, int]:
        """Killed in each step once, in its middle."""
        expected, _ = self.unbroken(RECIPE)
        same, times = 0, range(1, 2 * STEPS + 1, 5 if self.quick else 1)
        for fatal in tqdm(times, desc="every step"):
            folder = self.new_folder()
            if not killed_or_done(self.start(folder, RECIPE, 1, _nothing, fatal)):
                raise RuntimeError(f"the run was not killed in step {fatal}")
            same += self.finish(f"killed in step {fatal}", folder, RECIPE, 1, expected)
        return len(times), len(times), same

    def at_every_operation(self) -> tuple[int, int, int]:
        """Killed before each thing that a run asks of the disk, in saves above all."""
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
        """Killed again and again, whenever, until it ends before the kill."""
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

    def inside_saves(self, *, kills: int) -> tuple[int, int, int]:
        """Killed inside saves; the newest checkpoint read after each; the run continued to an end."""
        recipe = replace(RECIPE, epochs=10_000, save_every=1)
        folder, whole, done, saved = self.new_folder(), 0, 0, False
        with tqdm(total=kills, desc="inside saves") as bar:
            while done < kills:
                finished = self._killed_inside_a_save(folder, recipe)
                if finished is None:
                    continue
                done += 1
                bar.update()
                try:
                    there = newest(folder / "checkpoints") is not None
                except ValueError as error:
                    self.wrong.append(f"killed inside a save: {error}")
                    return kills, kills, whole
                saved = saved or finished > 0
                whole += there or not saved  # kills in the very first save leave none, and have none to lose
                saved = saved or there
        found = newest(folder / "checkpoints")
        epochs = (found[1]["position"]["epoch"] if found else 0) + 1
        ending = replace(recipe, epochs=epochs)
        expected, _ = self.unbroken(ending)
        self.finish("after the kills inside saves", folder, ending, 1, expected)
        return kills, kills, whole

    def _killed_inside_a_save(self, folder: Path, recipe: Recipe) -> int | None:
        """Start the run and kill it somewhere in its first or second save.

        Returns: the saves that it had finished; None if it was not in a save when it was killed.
        """
        listen, tell = os.pipe()

        def telling() -> None:
            put = run_folder.put

            def told(*arguments: Any) -> Path:
                os.write(tell, b"(")
                path = put(*arguments)
                os.write(tell, b")")
                return path

            run_folder.put = told  # type: ignore[assignment]

        (process,) = self.start(folder, recipe, 1, telling, 0)
        marks = self.random.choice([1, 3])  # to be heard: the start of a save, its end, the next one's start
        for _ in range(marks):
            if select.select([listen], [], [], 60)[0]:
                os.read(listen, 1)
        time.sleep(self.random.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(tell)
        rest = os.read(listen, 100)
        os.close(listen)
        return marks // 2 if rest == b"" else None


def _nothing() -> None:
    pass


def load_what_a_run_loads(room: Path, tracklets: Sequence[Tracklet]) -> None:
    """Import, here, what a run imports as it goes: processes forked later have it, and start in no time."""
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
    parser.add_argument("--quick", action="store_true", help="fewer kills of each kind")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        bench = Bench(Path(room), quick)
        load_what_a_run_loads(Path(room), bench.tracklets)
        rows = {
            "in the middle of every step": bench.at_every_step(),
            "before every disk operation": bench.at_every_operation(),
            "at random times": bench.at_random_times(runs=1 if quick else 20),
            "at random times, 2 workers": bench.at_random_times(runs=1 if quick else 10, workers=2),
            "at random times, 2 ranks": bench.at_random_times(runs=1 if quick else 10, ranks=2),
        }
        saves = bench.inside_saves(kills=3 if quick else 200)
    print(f"{'killed':<30}{'kills':>8}{'runs':>8}{'bit-identical at their end':>29}")
    for name, (kills, runs, same) in rows.items():
        print(f"{name:<30}{kills:>8}{runs:>8}{same:>22} of {runs:>3}")
    print(f"{'inside saves':<30}{saves[0]:>8}{1:>8}{saves[2]:>12} of {saves[1]:>3} checkpoints usable")
    for line in bench.wrong:
        print(f"<- {line}")
    right = not bench.wrong and all(runs == same for _, runs, same in rows.values()) and saves[1] == saves[2]
    print("all runs end as if they had never been stopped" if right else "a run ends differently, or a save was lost")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
