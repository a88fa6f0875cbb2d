"""A training run that takes seconds: synthetic walkers in memory, the smallest network, batches of 2 x 2 clips."""

from dataclasses import replace

import torch

from strfnet import create_model
from strfnet.data.synthetic import draw_camera, draw_walker, render
from strfnet.data.tracklet import Tracklet
from strfnet.layers.head import Head
from strfnet.losses.objective import nvan_loss, strf_loss
from strfnet.training.recipe import Recipe
from strfnet.weights.store import CheckpointStore

TINY = {
    "model": "strf_c2d_resnet8",
    "height": 64,
    "width": 32,
    "frames": 2,
    "stride": 2,
    "batch": 4,
    "identities": 2,
    "tracklets": 2,
    "epochs": 2,
    "milestones": (1,),
    "workers": 0,
    "device": "cpu",
    "seed": 3,
}


def tiny_recipe(**changes):
    return Recipe(**{**TINY, **changes})


def walkers(identities=4, cameras=2, tracklets=2, frames=6):
    return [
        Tracklet(
            tuple(
                render(draw_walker(0, one), draw_camera(0, camera), frames=frames, seed=(3, one, camera, tracklet))
            ),
            f"walker{one}",
            camera,
        )
        for one in range(identities)
        for camera in range(cameras)
        for tracklet in range(tracklets)
    ]


def ragged_walkers():
    """Sixteen tracklets of 2 to 6 frames, of four identities."""
    return [replace(item, frames=item.frames[: 2 + row % 5]) for row, item in enumerate(walkers())]


def network_for(recipe, classes=4):
    torch.manual_seed(recipe.seed)
    return create_model(recipe.model, num_classes=classes)


def network_with_dropout(num_classes):
    """A network whose training draws random numbers; no name of `create_model` builds it."""
    network = create_model(TINY["model"], num_classes=num_classes)
    network.name = None
    network.head.classifier = torch.nn.Sequential(torch.nn.Dropout(0.5), network.head.classifier)
    return network


def network_with_stripes(num_classes):
    """A network whose head pools four stripes, each with a classifier of its own."""
    network = create_model(TINY["model"], num_classes=num_classes)
    network.name = None
    network.head = Head(64, num_classes, pooling="gem", stripes=4)
    return network


def objective_for(recipe):
    return {"strf": strf_loss, "nvan": nvan_loss}[recipe.loss](smoothing=recipe.smoothing)


def checkpoints(folder):
    """The checkpoints in a folder, the newest last."""
    store = CheckpointStore(folder)
    return [store.path(number) for number in store.numbers()]


def metadata_of(checkpoint):
    return CheckpointStore(checkpoint.parent).metadata(int(checkpoint.name))
