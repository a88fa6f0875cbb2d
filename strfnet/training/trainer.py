"""A training run, step by step, on one process or several; it goes on where the last one in its folder stopped."""

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
from strfnet.heads.head import ReIDOutput
from strfnet.system.signals import Asked, Stopped, hearing_signals
from strfnet.training.accelerator import Engine, arithmetic, make_engine, undisturbed
from strfnet.training.distributed import gather_bytes, join, share_buffers
from strfnet.training.optimization import learning_rate
from strfnet.training.recipe import Recipe
from strfnet.training.run_directory import Outcome, RunFolder

if TYPE_CHECKING:
    from strfnet.losses.objective import Objective

Evaluate = Callable[[nn.Module], Mapping[str, float]]


class Diverged(ValueError):
    """A loss or gradient that is NaN or infinite; no step was made by it."""


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
    """Train a network by a recipe, or go on with it from the newest checkpoint in the folder.

    Going on is exact: where the arithmetic itself repeats (on one machine, with the kernels that ``deterministic``
    asks for), the weights at the end are bit for bit those of a run that was never stopped, wherever it was
    killed. Started by ``torchrun``, the processes share each batch; loss, mining and gradient are those of the
    whole batch.

    SIGTERM and SIGINT let the step finish, save, and raise `Stopped`, whose exit code is 143 or 130; a second
    SIGINT ends the process at once. Torch's, NumPy's and Python's global generators are seeded.

    Args:
        network: trained in place, on the recipe's device; in training it returns a ``ReIDOutput``. With
            ``sync_batchnorm`` its batch norms are replaced.
        objective: of its output and labels; all processes call it with the whole batch.
        tracklets: to train on. Classes are their identities in sorted order, see `identity_labels`.
        recipe: how.
        folder: of the run, see `strfnet.training.run_directory`.
        evaluate: figures by name, called on all processes with the network, every so many epochs and after the
            last one; the first figure, higher being better, says which weights are kept as the best.
        progress: whether to draw a bar on stderr.

    Returns: the figures after the last epoch, which are the result, and where everything is.
    Raises: ValueError for what does not fit together, before the first step; `Diverged` with the step and its
    tracklets if a loss or gradient is not finite; `Stopped`.
    """
    labels = identity_labels(tracklets)
    clips = _training_clips(tracklets, labels, recipe)
    with arithmetic(recipe), hearing_signals() as asked:
        engine = make_engine(network, recipe)
        if recipe.batch < engine.ranks:
            raise ValueError(f"batch must be at least {engine.ranks}, one clip a process, got {recipe.batch}")
        place = RunFolder(Path(folder), recipe, engine, tracklets, max(labels) + 1)
        try:
            return place.finished() or _Run(engine, objective, clips, recipe, place, asked).go(evaluate, progress)
        except Stopped as stopped:
            place.log.write("stop", place.position.step, {"signal": stopped.name})
            if engine.rank == 0:
                told = f"stopped by {stopped.name} after step {place.position.step}; all is saved in {place.last}"
                print(f"strfnet: {told}; the same command goes on from there", file=sys.stderr)
            raise
        finally:
            place.close()


def identity_labels(tracklets: Sequence[Tracklet]) -> list[int]:
    """The class of each tracklet: the place of its identity among all of them in sorted order, numbers first.

    Raises: ValueError if there are no tracklets.
    """
    if not tracklets:
        raise ValueError("there are no tracklets to train on, wanted at least two identities")
    identities = {item.identity for item in tracklets}
    order = sorted(identities, key=lambda identity: (isinstance(identity, str), identity))
    place = {identity: label for label, identity in enumerate(order)}
    return [place[item.identity] for item in tracklets]


@dataclass
class _Run:
    """The steps of a run, from its folder's position to the end."""

    engine: Engine
    objective: Callable[[ReIDOutput, Tensor], "Objective"]
    clips: TrainingClips
    recipe: Recipe
    place: RunFolder
    asked: Asked

    def go(self, evaluate: Evaluate | None, progress: bool) -> Outcome:
        self.place.begin()
        if not self.place.restore_random_states():
            _seed(self.recipe.seed + self.engine.rank)
        figures: dict[str, float] = {}
        with _bar(progress and self.engine.rank == 0) as bar:
            while True:
                at = self.place.position
                last = at.epoch >= self.recipe.epochs
                due = last or (at.epoch > 0 and at.epoch % self.recipe.evaluate_every == 0)
                # A run that was stopped while evaluating stands here again, since it was saved before.
                if evaluate is not None and due and at.batch == 0:
                    figures = self._evaluate(evaluate)
                if last:
                    self._check_stepped()
                    return self.place.finish(figures)
                self._epoch(bar)

    def _epoch(self, bar: Any) -> None:
        """The steps of an epoch that are not done yet; of few tracklets, an epoch may be without any."""
        recipe, engine, start = self.recipe, self.engine, self.place.position
        batches = self._batches(start.epoch)
        plan = draws(batches, start.epoch, rank=engine.rank, ranks=engine.ranks)[start.batch :]
        loader = load(self.clips, plan, workers=recipe.workers, pin_memory=engine.device.type == "cuda")
        self.place.position = replace(start, epoch=start.epoch + (not plan))
        bar.total = bar.n + len(plan) + len(batches) * (recipe.epochs - start.epoch - 1)
        with closing(cast(Any, iter(loader))) as stream:  # a generator, whose end is that of its workers
            for first in range(start.batch, len(batches), recipe.accumulate):
                group, began = batches[first : first + recipe.accumulate], time.perf_counter()
                facts, signal = self._step(stream, group, start.epoch + first / len(batches))
                images = sum(map(len, group)) * recipe.frames / (time.perf_counter() - began)
                facts |= {"images_per_second": round(images, 1)}
                bar.set_postfix_str(f"loss {facts['loss']:.4f}, {images:.0f} images/s", refresh=False)
                bar.update(len(group))
                self._after_step(first + len(group), len(batches), facts, signal)

    def _batches(self, epoch: int) -> list[list[int]]:
        """Rows of the batches of an epoch."""
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
        """One step of the optimizer; what to log of it, and the signal that any process had heard."""
        engine, rate, signal = self.engine, learning_rate(self.recipe, at), 0
        for settings in engine.optimizer.param_groups:
            settings["lr"] = rate
        engine.optimizer.zero_grad()
        losses: list[Tensor] = []
        for number in range(len(group)):
            batch, last = next(stream), number == len(group) - 1
            with nullcontext() if last else engine.accelerator.no_sync(engine.answering):
                output = engine.answering(batch.clips.to(engine.device, engine.dtype, non_blocking=True))
                joined = join(output, batch.labels.to(engine.device), self.asked.number)
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
        engine.stepping.step()
        if engine.ranks == 1:
            signal = self.asked.number  # else the next step will tell all processes
        parts = dict(zip(("loss", "identity_loss", "triplet_loss"), each.mean(dim=0).tolist(), strict=True))
        return {**parts, "gradient_norm": norm_now, "learning_rate": rate}, signal

    def _check_stepped(self) -> None:
        if not self.place.position.step:
            wanted = "fewer identities or tracklets in a batch, or another form of batches"
            raise ValueError(f"{len(self.clips)} tracklets make no batch of {self.recipe.batch}, wanted {wanted}")

    def _check_finite(self, losses: list[float], norm: float, group: list[list[int]]) -> None:
        """Refuse to step by what is not finite; a gradient may be so under fp16, whose scaler skips the step."""
        bad = next((number for number, loss in enumerate(losses) if not math.isfinite(loss)), None)
        if bad is None and (math.isfinite(norm) or self.recipe.precision == "fp16"):
            return
        what = f"the gradient is {norm}" if bad is None else f"the loss is {losses[bad]}"
        rows = [row for batch in group for row in batch] if bad is None else group[bad]
        seen = [self.clips.tracklets[row].where for row in rows]
        step, last = self.place.position.step + 1, self.place.last
        self.place.log.write("stop", step, {"error": what, "rows": rows, "tracklets": seen})
        good = f"the last checkpoint is {last}" if last else "there is no checkpoint yet"
        named = (
            f"{', '.join(seen[:4])} and {len(seen) - 4} more, all in log.jsonl" if len(seen) > 4 else ", ".join(seen)
        )
        raise Diverged(f"{what} in step {step}, of the rows {rows} ({named}); it was not made, and {good}")

    def _after_step(self, done: int, batches: int, facts: Mapping[str, Any], signal: int) -> None:
        """Count the step, log it, save if it is time to, and stop if a signal has asked for it."""
        at, last = self.place.position, done == batches
        told = {"epoch": at.epoch, "batch": done, **facts}
        at = replace(at, step=at.step + 1, epoch=at.epoch + last, batch=0 if last else done)
        self.place.position = at
        self.place.log.write("step", at.step, told)
        every = self.recipe.save_every
        if last or signal or (every is not None and at.step % every == 0):
            self.place.save()
        if signal:
            raise Stopped(signal)

    def _evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        """Figures of the network as it stands, and its weights kept if they are the best."""
        network, device, at = self.engine.network, self.engine.device, self.place.position
        share_buffers(network)
        with self.asked.leaving_at_once(), undisturbed(network, device):
            told = {name: float(value) for name, value in evaluate(network).items()}
        figures: dict[str, float] = json.loads(gather_bytes(json.dumps(told).encode(), device)[0])
        self.place.log.write("evaluation", at.step, {"epoch": at.epoch, **figures})
        figure = next(iter(figures.values()), math.nan)
        if math.isfinite(figure) and (at.best is None or figure > at.best):
            self.place.position = replace(at, best=figure, best_step=at.step)
            self.place.save_best(figures)
        return figures


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
    if output.logits is not None and output.logits.shape[1] < classes:
        raise ValueError(f"the network tells {output.logits.shape[1]} identities apart, wanted {classes} or more")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _bar(shown: bool) -> Any:
    """A bar of all batches on stderr, with the time that is left; a line every 10 s where nobody sees it move."""
    from tqdm import tqdm

    seldom = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(desc="training", unit="batch", disable=not shown, mininterval=seldom, dynamic_ncols=True)
