"""One network trained and tested on one task of drawn walkers: the recipe of the synthetic comparison."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synthetic_arms import Run, build
from torch import Tensor, nn

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD
from strfnet.data.synthetic.walker_tasks import Scene, WalkerTask, asked_and_searched, plan_task
from strfnet.evaluation import ranking
from strfnet.evaluation.distances import cosine_distances
from strfnet.losses.objective import ReIDLoss
from strfnet.losses.triplet import BatchHardTriplet

Clips = NDArray[np.uint8]  # (tracklets, 16, 64, 32, 3)

CLIPS = 3  # of every identity in a batch
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 4e-3, 5e-4, 0.15


@dataclass(frozen=True)
class Window:
    """Which frames make a clip: ``frames`` of them, each ``stride`` after the one before."""

    frames: int
    stride: int

    @property
    def steps(self) -> NDArray[np.integer]:
        return np.arange(self.frames) * self.stride


WINDOWS = {"mixed": Window(8, 1), "gait": Window(8, 1), "badge": Window(4, 2), "layout": Window(4, 2)}


def draw(name: str, data: int, folder: Path) -> None:
    """The tracklets of a task as files, so that processes share them; one file for training and each test."""
    task = plan_task(name, data)
    for part, scenes in _parts(task).items():
        np.save(folder / f"{name} {data} {part}.npy", np.stack([scene.draw() for scene in scenes]))


def perform(run: Run, folder: Path) -> dict[str, Any]:
    """One line of the results: what was run, its scores in percent, and what it took."""
    task = plan_task(run.task, run.data)
    clips = {part: np.load(folder / f"{run.task} {run.data} {part}.npy", mmap_mode="r") for part in _parts(task)}
    torch.manual_seed(run.seed)
    network = build(run.host, run.arm, len({scene.identity for scene in task.train}))
    begun = time.process_time()
    losses = train(network, task, clips["train"], seed=run.seed, steps=run.steps)
    trained = time.process_time()
    return {
        **asdict(run),
        "scores": test(network, task, clips),
        "loss": round(float(np.mean(losses[-10:])), 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "cpu_seconds": round(trained - begun, 1),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def train(network: nn.Module, task: WalkerTask, clips: Clips, *, seed: int, steps: int) -> list[float]:
    """The loss of every step. Equal seeds give equal batches, whatever is trained."""
    # Mined before the neck; behind it, as `strf_loss` does, no trial learned the gait in as many steps.
    objective = ReIDLoss(BatchHardTriplet("cosine", 0.3), mined_on="feature", smoothing=0.1)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=WARM_UP)
    losses = []
    network.train()
    for batch, labels in batches(task, clips, seed=seed, steps=steps):
        loss = objective(network(batch), labels).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def batches(task: WalkerTask, clips: Clips, *, seed: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Clips of 8 identities and their labels; half are twins, of each factor in turn, where the task has them."""
    rng = np.random.default_rng([6, seed])
    names, labels = np.unique([scene.identity for scene in task.train], return_inverse=True)
    rows = np.argsort(labels, kind="stable").reshape(len(names), -1)
    twins = [np.searchsorted(names, groups) for groups in task.twins]
    window = WINDOWS[task.name]
    for step in range(steps):
        chosen = np.empty(0, int)
        if twins:
            groups = twins[step % len(twins)]
            chosen = groups[rng.integers(len(groups))]
        others = np.setdiff1d(np.arange(len(names)), chosen)
        chosen = np.concatenate([rng.choice(others, 8 - len(chosen), replace=False), chosen])
        picked = np.concatenate([rng.choice(rows[label], CLIPS, replace=False) for label in chosen])
        starts = rng.integers(clips.shape[1] - window.steps[-1], size=len(picked))
        yield normalised(clips[picked[:, None], starts[:, None] + window.steps]), torch.from_numpy(labels[picked])


def normalised(clips: Clips) -> Tensor:
    """(b, t, h, w, 3) in bytes to (b, 3, t, h, w), in that order in memory."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return ((torch.from_numpy(clips) / 255 - mean) / std).permute(0, 4, 1, 2, 3)


def test(network: nn.Module, task: WalkerTask, clips: Mapping[str, Clips]) -> dict[str, list[float]]:
    """For every test mAP and R1 in percent, each the mean over its groups, of the middle frames of every tracklet."""
    window = WINDOWS[task.name]
    scores = {}
    for name, groups in task.tests.items():
        tracklets = clips[name]
        start = (tracklets.shape[1] - window.steps[-1]) // 2
        embeddings = embed(network, tracklets[:, start + window.steps])
        parts = zip(embeddings.split([len(group) for group in groups]), groups, strict=True)
        figures = np.mean([rank(part, group) for part, group in parts], axis=0)
        scores[name] = [round(100 * float(figure), 2) for figure in figures]
    return scores


def embed(network: nn.Module, clips: Clips) -> Tensor:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(normalised(clips[at : at + 48])).embedding for at in range(0, len(clips), 48)])


def rank(embeddings: Tensor, group: Sequence[Scene]) -> tuple[float, float]:
    """Mean AP and R1 of the queries of a group, by cosine distance."""
    query, gallery = map(list, asked_and_searched(group))
    distances = cosine_distances(embeddings[query].double(), embeddings[gallery].double())
    found = ranking.rank(distances, [group[row].identity for row in query], [group[row].identity for row in gallery])
    return found.mean_average_precision, float(found.cmc[0])


def _parts(task: WalkerTask) -> dict[str, tuple[Scene, ...]]:
    return {"train": task.train, **{name: sum(groups, ()) for name, groups in task.tests.items()}}
