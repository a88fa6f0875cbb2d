"""The tiny run of `resume.py`: what it trains, how, and what remains of it when it has ended."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

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
    model="killed_run:network_with_dropout",
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


def unsaved(folder: Path) -> list[str]:
    """What a run that stopped by a signal has logged and not saved."""
    log = folder / "log.jsonl"
    steps = [line["step"] for line in read_log(log) if line["kind"] == "step"] if log.exists() else []
    saved = CheckpointStore(folder / "checkpoints").numbers()
    return [f"step {steps[-1]} is not saved"] if steps[-1:] > saved[-1:] else []
