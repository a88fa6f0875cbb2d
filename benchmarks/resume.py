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
the newest checkpoint after each kill. A row is printed when it is done.

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
from functools import partial
from pathlib import Path
from typing import Any

import torch
from endings import Ending, endings, let_end
from killed_run import RECIPE, STEPS, remains, run, unsaved, walkers
from processes import fork, kill_before, killed_or_done
from tqdm import tqdm

from strfnet.data.tracklet import Tracklet
from strfnet.training.recipe import Recipe
from strfnet.weights.store import CheckpointStore

Row = tuple[int, int, int]  # what happened, how often; the runs to which it happened; those that ended as expected


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

    def at_every_step(self) -> Row:
        """Kill one run in each step."""
        expected, _ = self.unbroken(RECIPE)
        same, times = 0, range(1, 2 * STEPS + 1, 5 if self.quick else 1)
        for fatal in tqdm(times, desc="every step"):
            folder = self.new_folder()
            if not killed_or_done(self.start(folder, RECIPE, 1, _nothing, fatal)):
                raise RuntimeError(f"the run was not killed in step {fatal}")
            same += self.finish(f"killed in step {fatal}", folder, RECIPE, 1, expected)
        return len(times), len(times), same

    def at_every_operation(self) -> Row:
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

    def at_random_times(self, *, runs: int, workers: int = 0, ranks: int = 1) -> Row:
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

    def at_endings(self, *, ending: Ending, count: int) -> Row:
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
                        wrong += unsaved(folder)
                    self.wrong += [f"{ending.name}: {what}" for what in wrong]
                runs += 1
                same += self.finish(ending.name, folder, recipe, ending.ranks, expected)
        return happened, runs, same

    def inside_saves(self, *, kills: int) -> Row:
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
    parser.add_argument("--row", action="append", metavar="NAME", help="rows of the table, in order (default: all)")
    call = parser.parse_args()
    quick = call.quick
    signals = (20 if quick else 1000) if call.signals is None else call.signals
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room:
        bench = Bench(Path(room), quick)
        rows: dict[str, Callable[[], Row]] = {
            "in every step": bench.at_every_step,
            "before every disk operation": bench.at_every_operation,
            "at random times": partial(bench.at_random_times, runs=1 if quick else 20),
            "at random times, 2 workers": partial(bench.at_random_times, runs=1 if quick else 10, workers=2),
            "at random times, 2 ranks": partial(bench.at_random_times, runs=1 if quick else 10, ranks=2),
        }
        for ending in endings():
            count = max(1, round(ending.share * signals))
            rows[ending.name] = partial(bench.at_endings, ending=ending, count=count)
        rows["inside saves, checkpoints"] = partial(bench.inside_saves, kills=3 if quick else 200)
        chosen = call.row or [*rows]
        if not rows.keys() >= {*chosen}:
            parser.error(f"--row is one of {', '.join(rows)}")
        load_what_a_run_loads(Path(room), bench.tracklets)
        print(f"{'killed or stopped':<30}{'times':>8}{'runs':>8}{'bit-identical':>16}", flush=True)
        right = True
        for name in chosen:
            times, runs, same = rows[name]()
            print(f"{name:<30}{times:>8}{runs:>8}{same:>16}", flush=True)
            for line in bench.wrong:
                print(f"<- {line}", flush=True)
            right = right and runs == same and not bench.wrong
            bench.wrong.clear()
    print("all runs end as if they had never been stopped" if right else "a run ends differently, or a save was lost")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
