"""The training loop, on one process or several, resumed from the newest checkpoint in its folder."""

import json
import math
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.data.identities import identity_batches
from strfnet.data.loader import ClipBatch, TrainingClips, draws, load
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation
from strfnet.layers.head import ReIDOutput
from strfnet.system.progress import ProgressLine
from strfnet.system.signals import Stopped, StopRequest, stop_requests
from strfnet.training.accelerator import Engine, deterministic_kernels, make_engine, state_kept
from strfnet.training.distributed import gather_bytes, join, share_buffers
from strfnet.training.optimization import learning_rate
from strfnet.training.recipe import Recipe
from strfnet.training.run_directory import Outcome, RunDirectory

if TYPE_CHECKING:
    from strfnet.losses.objective import Objective

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Diverged(ValueError):
    """Raised for a loss or gradient that is NaN or infinite, before the step."""


def train(
    network: nn.Module,
    objective: Callable[[ReIDOutput, Tensor], "Objective"],
    tracklets: Sequence[Tracklet],
    recipe: Recipe,
    folder: str | Path,
    *,
    evaluate: Evaluate | None = None,
    progress: bool = True,
) -> Outcome:
    """Train a network by a recipe, or resume its training from the newest checkpoint in the folder.

    Resuming is exact. Where the arithmetic itself is reproducible (on one machine, with ``deterministic``), a run
    that is killed at any moment and resumed ends in the weights, bit for bit, of a run without a stop. The processes
    of ``torchrun`` share each batch; loss, mining and gradient are those of the whole batch.

    After SIGTERM or SIGINT, the step is finished and saved, and `Stopped` is raised with the exit code 143 or 130. A
    second SIGINT ends the process at once. The global generators of torch, NumPy and Python are seeded.

    Args:
        network: trained in place, on the recipe's device; in training it returns a ``ReIDOutput``. With
            ``sync_batchnorm`` its batch norms are replaced.
        objective: called with the output and the labels of the whole batch, on all processes.
        tracklets: the training data. Classes are their identities in sorted order, see `identity_labels`.
        recipe: all settings.
        folder: of the run, see `strfnet.training.run_directory`.
        evaluate: returns metrics by name. It is called with the network on all processes, every ``evaluate_every``
            epochs and after the last. The weights with the highest first metric are saved as the best.
        progress: whether to write the progress to stderr.

    Returns: the metrics after the last epoch, which are the result, and the folder.
    Raises: ValueError for arguments that do not fit together, before the first step; `Diverged` with the step and its
    tracklets if a loss or gradient is not finite; `Stopped`.
    """
    if isinstance(objective, nn.Module) and any(weight.requires_grad for weight in objective.parameters()):
        raise ValueError("the objective has weights, and the optimizer trains those of the network; wanted none")
    labels = identity_labels(tracklets)
    clips = _training_clips(tracklets, labels, recipe)
    with deterministic_kernels(recipe), stop_requests() as request:
        engine = make_engine(network, recipe)
        if recipe.batch < engine.world_size:
            raise ValueError(
                f"batch must be at least {engine.world_size}, one clip for each process, got {recipe.batch}"
            )
        directory = RunDirectory(Path(folder), recipe, engine, tracklets, max(labels) + 1)
        try:
            run = _Run(engine, objective, clips, recipe, directory, request)
            return directory.finished() or run.train(evaluate, progress)
        except Stopped as stopped:
            step = directory.position.step
            directory.log.write("stop", step, {"signal": stopped.name})
            if engine.rank == 0:
                saved = f"stopped by {stopped.name} after step {step}, saved in {directory.last}"
                print(f"strfnet: {saved}; the same command resumes from there", file=sys.stderr)
            raise
        finally:
            directory.close()


def identity_labels(tracklets: Sequence[Tracklet]) -> list[int]:
    """The class of each tracklet: the index of its identity among all of them in sorted order, numbers first.

    Raises: ValueError if there are no tracklets.
    """
    if not tracklets:
        raise ValueError("there are no tracklets to train on, wanted at least two identities")
    identities = {item.identity for item in tracklets}
    order = sorted(identities, key=lambda identity: (isinstance(identity, str), identity))
    label = {identity: index for index, identity in enumerate(order)}
    return [label[item.identity] for item in tracklets]


@dataclass
class _Run:
    """The steps of a run, from the position of its folder to the end."""

    engine: Engine
    objective: Callable[[ReIDOutput, Tensor], "Objective"]
    clips: TrainingClips
    recipe: Recipe
    directory: RunDirectory
    request: StopRequest

    def train(self, evaluate: Evaluate | None, progress: bool) -> Outcome:
        self.directory.begin()
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
        loader = load(self.clips, plan, workers=recipe.workers, pin_memory=engine.device.type == "cuda")
        self.directory.position = replace(start, epoch=start.epoch + (not plan))
        line.total = line.done + len(plan) + len(batches) * (recipe.epochs - start.epoch - 1)
        with closing(cast(Any, iter(loader))) as stream:  # a generator; closing it ends its workers
            for first in range(start.batch, len(batches), recipe.accumulate):
                group, began = batches[first : first + recipe.accumulate], time.perf_counter()
                values, signal = self._step(stream, group, start.epoch + first / len(batches))
                images = sum(map(len, group)) * recipe.frames
                values |= {"images_per_second": round(images / (time.perf_counter() - began), 1)}
                line.advance(len(group), images, f", loss {values['loss']:.4f}")
                self._after_step(first + len(group), len(batches), values, signal)

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

    def _step(self, stream: Iterator[ClipBatch], group: list[list[int]], at: float) -> tuple[dict[str, Any], int]:
        """One optimizer step. Returns the values to log, and the signal that any process has received."""
        engine, rate, signal = self.engine, learning_rate(self.recipe, at), 0
        for settings in engine.optimizer.param_groups:
            settings["lr"] = rate
        engine.optimizer.zero_grad()
        losses: list[Tensor] = []
        for number in range(len(group)):
            batch, last = next(stream), number == len(group) - 1
            with nullcontext() if last else engine.accelerator.no_sync(engine.wrapped_network):
                output = engine.wrapped_network(batch.clips.to(engine.device, engine.dtype, non_blocking=True))
                joined = join(output, batch.labels.to(engine.device), self.request.number)
                _check_classes(joined.output, self.clips.labels)
                loss = self.objective(joined.output, joined.labels)
                engine.accelerator.backward(loss.total / len(group))
            losses.append(torch.stack([part.detach().double() for part in loss]))
            signal = max(signal, joined.signal)
        norm = engine.gradient_norm()
        each, norm_now = torch.stack(losses).cpu(), norm.item()
        self._check_finite(each[:, 0].tolist(), norm_now, group)
        if self.recipe.clip_gradients is not None:
            torch.nn.utils.clip_grads_with_norm_(engine.trained, self.recipe.clip_gradients, norm)
        engine.scaled_optimizer.step()
        if engine.world_size == 1:
            signal = self.request.number  # several processes exchange it in the next step
        parts = dict(zip(("loss", "identity_loss", "triplet_loss"), each.mean(dim=0).tolist(), strict=True))
        return {**parts, "gradient_norm": norm_now, "learning_rate": rate}, signal

    def _check_stepped(self) -> None:
        if not self.directory.position.step:
            wanted = "fewer identities or tracklets in a batch, or another choice of batches"
            raise ValueError(f"{len(self.clips)} tracklets make no batch of {self.recipe.batch}, wanted {wanted}")

    def _check_finite(self, losses: list[float], norm: float, group: list[list[int]]) -> None:
        """Raises: Diverged for a loss or gradient that is not finite. Under fp16 the scaler skips such gradients."""
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and (math.isfinite(norm) or self.recipe.precision == "fp16"):
            return
        what = f"the gradient is {norm}" if bad is None else f"the loss is {losses[bad]}"
        rows = [row for batch in group for row in batch] if bad is None else group[bad]
        seen = [self.clips.tracklets[row].where for row in rows]
        step, last = self.directory.position.step + 1, self.directory.last
        self.directory.log.write("stop", step, {"error": what, "rows": rows, "tracklets": seen})
        saved = f"the last checkpoint is {last}" if last else "there is no checkpoint yet"
        named = (
            f"{', '.join(seen[:4])} and {len(seen) - 4} more, all in log.jsonl" if len(seen) > 4 else ", ".join(seen)
        )
        raise Diverged(f"{what} in step {step}, of the rows {rows} ({named}); the step was not made, and {saved}")

    def _after_step(self, done: int, batches: int, values: Mapping[str, Any], signal: int) -> None:
        """Count and log the step, save if it is due, and stop if a signal requests it."""
        at, last = self.directory.position, done == batches
        self.directory.log.write("step", at.step + 1, {"epoch": at.epoch, "batch": done, **values})
        at = replace(at, step=at.step + 1, epoch=at.epoch + last, batch=0 if last else done)
        self.directory.position = at
        every = self.recipe.save_every
        if last or signal or (every is not None and at.step % every == 0):
            self.directory.save()
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


def _training_clips(tracklets: Sequence[Tracklet], labels: Sequence[int], recipe: Recipe) -> TrainingClips:
    return TrainingClips(
        tracklets,
        labels,
        seed=recipe.seed,
        frames=recipe.frames,
        sampling=recipe.sampling,
        stride=recipe.stride,
        size=(recipe.height, recipe.width),
        interpolation=recipe.interpolation,
        augmentation=Augmentation(recipe.flip, recipe.crop, recipe.erasing, per_frame=recipe.per_frame),
    )


def _check_classes(output: ReIDOutput, labels: Sequence[int]) -> None:
    classes = max(labels) + 1
    if output.logits is not None and output.logits.shape[-1] < classes:
        raise ValueError(f"the network has logits of {output.logits.shape[-1]} identities, wanted at least {classes}")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
