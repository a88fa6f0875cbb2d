"""Training on a GPU: whether runs of `train` repeat bit for bit, and where the host waits for the device."""

import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState
from cases import Settings
from torch import nn

import strfnet
from strfnet.data import Tracklet
from strfnet.losses import nvan_loss, strf_loss
from strfnet.training import Recipe, train

STEPS = 4  # of a run


def repeated(settings: Settings, name: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Two runs from one start: whether their weights are equal, their seconds, and how often the host waits, by line.

    Clips are changed on the device while the next ones are copied. The host reads one value a step, a step late, and
    what a checkpoint holds.
    """
    recipe = Recipe(
        model=name,
        device=settings.device,
        height=settings.frame[0],
        width=settings.frame[1],
        frames=4,
        stride=1,
        batch=8,
        identities=4,
        tracklets=2,
        loss="nvan" if "nvan" in name else "strf",
        epochs=1,
        steps_per_epoch=STEPS,
        crop=0.5,
        erasing=0.5,
        workers=0,
        **changes,
    )
    clips = [tracklet(settings, identity, number) for identity in range(4) for number in range(2)]
    waited: Counter[str] = Counter()
    began = time.monotonic()
    one, other = (trained(recipe, clips, waited) for _ in range(2))
    return {
        "repeats": all(torch.equal(value, other[key]) for key, value in one.items()),
        "seconds": time.monotonic() - began,
        "the host waits": dict(waited),
    }


def tracklet(settings: Settings, identity: int, number: int = 0) -> Tracklet:
    """Frames of noise in memory."""
    noise = np.random.default_rng([identity, number])
    frames = noise.integers(0, 256, (settings.frames, *settings.frame, 3), np.uint8)
    return Tracklet(tuple(frames), str(identity), number)


def trained(recipe: Recipe, clips: list[Tracklet], waited: Counter[str]) -> dict[str, torch.Tensor]:
    """The weights after a run; the lines at which the host waited are added to ``waited``."""
    torch.manual_seed(recipe.seed)
    network = strfnet.create_model(recipe.model, num_classes=4)
    objective = nvan_loss() if recipe.loss == "nvan" else strf_loss()
    with TemporaryDirectory() as folder:
        run = partial(train, network, objective, clips, recipe, folder, progress=False)
        waited.update(waits(str(recipe.device), run))
    AcceleratorState._reset_state(reset_partial_state=True)  # else the next run could have no other precision
    return network.cpu().state_dict()


def training_step(
    network: nn.Module, objective: Any, optimizer: torch.optim.Optimizer, clips: torch.Tensor, labels: torch.Tensor
) -> None:
    optimizer.zero_grad()
    objective(network(clips), labels).total.backward()
    optimizer.step()


def waits(device: str, call: Callable[[], Any]) -> list[str]:
    """File and line of each host sync that PyTorch reports."""
    if device != "cuda":
        call()
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return [f"{line.filename}:{line.lineno}" for line in caught if "synchroniz" in str(line.message)]
