"""The steps of a run: batches, gradients, values that are read a step late, checkpoints and evaluations."""

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.data.identities import identity_batches
from strfnet.data.loader import ClipBatch, TrainingClips, draws, load, part_of
from strfnet.layers.head import ReIDOutput
from strfnet.system.progress import ProgressLine
from strfnet.system.signals import Stopped, StopRequest
from strfnet.training.accelerator import Engine, state_kept
from strfnet.training.distributed import gather_bytes, highest, highest_on_host, join_rows, share_buffers
from strfnet.training.optimization import learning_rate
from strfnet.training.recipe import Recipe
from strfnet.training.run_directory import Outcome, RunDirectory
from strfnet.weights.file import listed

if TYPE_CHECKING:
    from strfnet.losses.objective import Objective

Evaluate = Callable[[nn.Module], Mapping[str, float]]
_LOSSES = ("loss", "identity_loss", "triplet_loss")


class Diverged(ValueError):
    """Raised for a loss or gradient that is NaN or infinite; neither its step nor a later one changes a weight."""


@dataclass(frozen=True)
class _Made:
    """A step whose values are still computed: of each batch its three losses, then the gradient norm."""

    number: int
    epoch: int
    batch: int
    group: list[list[int]]
    learning_rate: float
    seconds: float
    values: Tensor


@dataclass
class TrainingLoop:
    """The steps of a run, from the position of its folder to the end.

    The values of a step are read once, while the next is computed, so that a GPU never waits for the processor.
    """

    engine: Engine
    objective: Callable[[ReIDOutput, Tensor], "Objective"]
    clips: TrainingClips
    recipe: Recipe
    directory: RunDirectory
    request: StopRequest
    halted: Tensor = field(init=False)  # 1 from the first loss or gradient that is not finite
    unread: _Made | None = None

    def run(self, evaluate: Evaluate | None, progress: bool, flushed: bool) -> Outcome:
        self.halted = torch.zeros((), device=self.engine.device)
        ignored = {"ignored_environment": self.engine.ignored} if self.engine.ignored else {}
        self.directory.begin({"denormals_flushed": flushed, **ignored})
        if not self.directory.restore_random_states():
            _seed(self.recipe.seed + self.engine.rank)
        metrics: dict[str, float] = {}
        with ProgressLine(0, "batches trained", "images", shown=progress and self.engine.rank == 0) as line:
            while True:
                at = self.directory.position
                last = at.epoch >= self.recipe.epochs
                due = last or (at.epoch > 0 and at.epoch % self.recipe.evaluate_every == 0)
                # A run that was stopped in an evaluation resumes here, because it was saved before it.
                if evaluate is not None and due and at.batch == 0:
                    metrics = self._evaluate(evaluate)
                if last:
                    self._check_stepped()
                    return self.directory.finish(metrics)
                self._epoch(line)

    def _epoch(self, line: ProgressLine) -> None:
        """The remaining steps of the current epoch. An epoch of few tracklets may have none."""
        recipe, engine, start = self.recipe, self.engine, self.directory.position
        batches = self._batches(start.epoch)
        plan = draws(batches, start.epoch, rank=engine.rank, world_size=engine.world_size)[start.batch :]
        device = engine.device
        loader = load(self.clips, plan, workers=recipe.workers, pin_memory=device.type == "cuda", device=device)
        self.directory.position = replace(start, epoch=start.epoch + (not plan))
        line.total = line.done + len(plan) + len(batches) * (recipe.epochs - start.epoch - 1)
        with closing(cast(Any, iter(loader))) as stream:  # a generator; closing it ends its workers
            for first in range(start.batch, len(batches), recipe.accumulate):
                group, began = batches[first : first + recipe.accumulate], time.perf_counter()
                rate = learning_rate(recipe, start.epoch + first / len(batches))
                values = self._step(self._started(stream, line), group, rate)
                self._read(line)  # the values of the step before
                at, seconds = self.directory.position, time.perf_counter() - began
                made = _Made(at.step + 1, at.epoch, first + len(group), group, rate, seconds, values)
                self._after_step(made, len(batches), line)

    def _started(self, stream: Iterator[ClipBatch], line: ProgressLine) -> Iterator[ClipBatch]:
        """The batches of a step, of which the first is read.

        A signal stops the run without this step, because a file may stall for hours. Processes wait here for each
        other, so that all stop before the same step.
        """
        batches = stream
        with suppress(Stopped), self.request.immediate():
            batches = chain([next(stream)], stream)
        signal = highest_on_host(self.request.number, self.engine.host)
        if signal:
            self._save(line)
            raise Stopped(signal)
        return batches

    def _save(self, line: ProgressLine) -> None:
        self._read(line)
        self._check_weights(self.directory.position.step)
        self.directory.save()

    def _batches(self, epoch: int) -> list[list[int]]:
        """The rows of each batch of an epoch."""
        recipe = self.recipe
        batches = identity_batches(
            self.clips.labels,
            identities=recipe.identities,
            tracklets=recipe.tracklets,
            form=recipe.batches,
            seed=recipe.seed,
            epoch=epoch,
        )
        return batches[: None if recipe.steps_per_epoch is None else recipe.steps_per_epoch * recipe.accumulate]

    def _step(self, stream: Iterator[ClipBatch], group: list[list[int]], rate: float) -> Tensor:
        """One optimizer step, without effect if a loss or gradient is not finite. Returns the values to read."""
        engine, ranks = self.engine, range(self.engine.world_size)
        for settings in engine.optimizer.param_groups:
            settings["lr"] = rate * settings["factor"]
        engine.optimizer.zero_grad()
        losses: list[Tensor] = []
        for number, rows in enumerate(group):
            batch, last = next(stream), number == len(group) - 1
            with nullcontext() if last else engine.accelerator.no_sync(engine.wrapped_network):
                output = engine.wrapped_network(batch.clips.to(engine.dtype), batch.lengths)
                counts = [len(part_of(len(rows), rank, len(ranks))) for rank in ranks]
                output, labels = join_rows(output, batch.labels, counts)
                _check_classes(output, self.clips.labels)
                loss = self.objective(output, labels)
                engine.accelerator.backward(loss.total / len(group))
            losses += [part.detach().reshape(1) for part in loss]
        norm = engine.gradient_norm()
        totals = losses[::3] if self.recipe.precision == "fp16" else [*losses[::3], norm.reshape(1)]
        self.halted = torch.maximum(self.halted, 1 - torch.cat(totals).isfinite().all().float())
        if self.recipe.clip_gradients is not None:
            torch.nn.utils.clip_grads_with_norm_(engine.trained, self.recipe.clip_gradients, norm)
        engine.step(self.halted)
        return torch.cat([*losses, norm.reshape(1)])

    def _check_stepped(self) -> None:
        if not self.directory.position.step:
            wanted = "fewer identities or tracklets in a batch, or another choice of batches"
            raise ValueError(f"{len(self.clips)} tracklets make no batch of {self.recipe.batch}, wanted {wanted}")

    def _read(self, line: ProgressLine) -> None:
        """Check, log and show the values of the last step, if they have not been read yet."""
        made, self.unread = self.unread, None
        if made is None:
            return
        *losses, norm = made.values.tolist()
        self._check_finite(losses[::3], norm, made)
        parts = {name: sum(losses[at::3]) / len(made.group) for at, name in enumerate(_LOSSES)}
        images = sum(self._frames(row) for batch in made.group for row in batch)
        values = {**parts, "gradient_norm": norm, "learning_rate": made.learning_rate}
        values["images_per_second"] = round(images / made.seconds, 1)
        self.directory.log.write("step", made.number, {"epoch": made.epoch, "batch": made.batch, **values})
        line.advance(len(made.group), images, f", loss {values['loss']:.4f}")

    def _frames(self, row: int) -> int:
        """The number of frames of a clip of the tracklet in this row."""
        most = self.recipe.frames
        return min(most, len(self.clips.tracklets[row].frames)) if self.recipe.ragged else most

    def _check_finite(self, losses: list[float], norm: float, made: _Made) -> None:
        """Raises: Diverged for a loss or gradient that is not finite. Under fp16 the scaler skips such gradients."""
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and (math.isfinite(norm) or self.recipe.precision == "fp16"):
            return
        what = f"the gradient is {norm}" if bad is None else f"the loss is {losses[bad]}"
        rows = [row for batch in made.group for row in batch] if bad is None else made.group[bad]
        seen = [self.clips.tracklets[row].where for row in rows]
        step, last = made.number, self.directory.last
        self.directory.log.write("stop", step, {"error": what, "rows": rows, "tracklets": seen})
        saved = f"the last checkpoint is {last}" if last else "there is no checkpoint yet"
        named = (
            f"{', '.join(seen[:4])} and {len(seen) - 4} more, all in log.jsonl" if len(seen) > 4 else ", ".join(seen)
        )
        raise Diverged(f"{what} in step {step}, of the rows {rows} ({named}); the step was not made, and {saved}")

    def _check_weights(self, step: int) -> None:
        """Raises: Diverged for weights that are not finite: a run that resumes from them dies again and again."""
        state, engine = self.engine.network.state_dict(), self.engine
        bad = torch.stack([tensor.isfinite().all().logical_not() for tensor in state.values()]).any()
        if not highest(bad, engine.device).item():  # each process has buffers of its own
            return
        names = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
        what = f"weights or buffers are NaN or infinite: {listed(names) or 'on another process'}"
        self.directory.log.write("stop", step, {"error": what})
        saved = f"the last checkpoint is {self.directory.last}" if self.directory.last else "nothing is saved"
        raise Diverged(f"after step {step}, {what}; they are not saved, and {saved}")

    def _after_step(self, made: _Made, batches: int, line: ProgressLine) -> None:
        """Count the step, and save if it is due. One process stops if a signal requests it, several in `_started`."""
        last, every, self.unread = made.batch == batches, self.recipe.save_every, made
        signal = self.request.number if self.engine.world_size == 1 else 0
        self.directory.position = replace(
            self.directory.position, step=made.number, epoch=made.epoch + last, batch=0 if last else made.batch
        )
        if last or signal or (every is not None and made.number % every == 0):
            self._save(line)
        if signal:
            raise Stopped(signal)

    def _evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """The metrics of the current weights, which are saved if they are the best."""
        network, device, at = self.engine.network, self.engine.device, self.directory.position
        share_buffers(network)
        with self.request.immediate(), state_kept(network, device):
            metrics = {name: float(value) for name, value in evaluate(network).items()}
        metrics = json.loads(gather_bytes(json.dumps(metrics).encode(), device)[0])
        self.directory.log.write("evaluation", at.step, {"epoch": at.epoch, **metrics})
        first = next(iter(metrics.values()), math.nan)
        if math.isfinite(first) and (at.best is None or first > at.best):
            self.directory.position = replace(at, best=first, best_step=at.step)
            self.directory.save_best(metrics)
        return metrics


def _check_classes(output: ReIDOutput, labels: Sequence[int]) -> None:
    classes = max(labels) + 1
    if output.logits is not None and output.logits.shape[-1] < classes:
        raise ValueError(f"the network has logits of {output.logits.shape[-1]} identities, wanted at least {classes}")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
