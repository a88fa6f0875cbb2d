"""Training and test of one network on one task of synthetic walkers: the recipe of the comparison."""

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
from walker_tasks import Scene, WalkerTask, plan_task, queries_and_gallery

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD
from strfnet.evaluation import ranking
from strfnet.evaluation.distances import cosine_distances
from strfnet.losses.objective import ReIDLoss
from strfnet.losses.triplet import BatchHardTriplet

Clips = NDArray[np.uint8]  # (tracklets, 16, 64, 32, 3)

CLIPS = 3  # clips per identity in a batch
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 4e-3, 5e-4, 0.15


@dataclass(frozen=True)
class Window:
    """Frames of a clip: ``frames`` of them, ``stride`` apart."""

    frames: int
    stride: int

    @property
    def steps(self) -> NDArray[np.integer]:
        return np.arange(self.frames) * self.stride


WINDOWS = {"mixed": Window(8, 1), "gait": Window(8, 1), "badge": Window(4, 2), "layout": Window(4, 2)}


def draw(name: str, data: int, folder: Path) -> None:
    """Saves a task's tracklets for all processes, one file for training and one per test."""
    task = plan_task(name, data)
    for part, scenes in _parts(task).items():
        np.save(folder / f"{name} {data} {part}.npy", np.stack([scene.draw() for scene in scenes]))


def perform(run: Run, folder: Path) -> dict[str, Any]:
    """Returns one line of the results: the run, its scores in percent, and its cost."""
    task = plan_task(run.task, run.data)
    clips = {part: np.load(folder / f"{run.task} {run.data} {part}.npy", mmap_mode="r") for part in _parts(task)}
    torch.manual_seed(run.seed)
    network = build(run.host, run.arm, len({scene.identity for scene in task.train}))
    start = time.process_time()
    losses = train(network, task, clips["train"], seed=run.seed, steps=run.steps)
    trained = time.process_time()
    return {
        **asdict(run),
        "scores": test(network, task, clips),
        "loss": round(float(np.mean(losses[-10:])), 4),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "cpu_seconds": round(trained - start, 1),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def train(network: nn.Module, task: WalkerTask, clips: Clips, *, seed: int, steps: int) -> list[float]:
    """Trains in place and returns the loss of each step. Equal seeds give equal batches for every network."""
    # Triplets of the feature: with triplets of the embedding (behind the BN neck) no run learned the gait.
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
    """Yields clips of 8 identities, and labels. If the task has twins, half are twins, of each factor in turn."""
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
    """Returns normalised clips (b, 3, t, h, w), a view of (b, t, h, w, 3), from uint8 (b, t, h, w, 3)."""
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    return ((torch.from_numpy(clips) / 255 - mean) / std).permute(0, 4, 1, 2, 3)


def test(network: nn.Module, task: WalkerTask, clips: Mapping[str, Clips]) -> dict[str, list[float]]:
    """Returns mAP and R1 in percent per test, means over its groups, of the middle clip of each tracklet."""
    window = WINDOWS[task.name]
    scores = {}
    for name, groups in task.tests.items():
        tracklets = clips[name]
        start = (tracklets.shape[1] - window.steps[-1]) // 2
        embeddings = embed(network, tracklets[:, start + window.steps])
        parts = zip(embeddings.split([len(group) for group in groups]), groups, strict=True)
        metrics = np.mean([rank(part, group) for part, group in parts], axis=0)
        scores[name] = [round(100 * float(metric), 2) for metric in metrics]
    return scores


def embed(network: nn.Module, clips: Clips) -> Tensor:
    network.eval()
    with torch.inference_mode():
        return torch.cat([network(normalised(clips[at : at + 48])).embedding for at in range(0, len(clips), 48)])


def rank(embeddings: Tensor, group: Sequence[Scene]) -> tuple[float, float]:
    """Returns mAP and R1 of a group by cosine distance."""
    query, gallery = map(list, queries_and_gallery(group))
    distances = cosine_distances(embeddings[query].double(), embeddings[gallery].double())
    found = ranking.rank(distances, [group[row].identity for row in query], [group[row].identity for row in gallery])
    return found.mean_average_precision, float(found.cmc[0])


def _parts(task: WalkerTask) -> dict[str, tuple[Scene, ...]]:
    return {"train": task.train, **{name: sum(groups, ()) for name, groups in task.tests.items()}}
