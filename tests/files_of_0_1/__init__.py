"""The data and networks of the files in this folder, see README.md; it ran with version 0.1 too."""

import numpy as np
import torch
from torch import nn

from strfnet.data.tracklet import Tracklet
from strfnet.layers import Head

RECIPE = {
    "model": "tiny",
    "height": 8,
    "width": 4,
    "frames": 2,
    "stride": 2,
    "batch": 4,
    "identities": 2,
    "tracklets": 2,
    "batches": "distinct",
    "epochs": 3,
    "milestones": (1,),
    "evaluate_every": 1,
    "workers": 0,
    "device": "cpu",
    "seed": 3,
}
CHANGES = {"model": "c2d_resnet8", "height": 64, "width": 32, "epochs": 1, "optimizer": "sgd", "keep": 1}
FROZEN_RECIPE = {**RECIPE, **CHANGES}


def tiny_network():
    """A convolution, a batch norm and a head, in float64, so that processors differ in the last digits alone."""
    torch.manual_seed(5)
    maps = nn.Sequential(nn.Conv3d(3, 4, (1, 3, 3), bias=False), nn.BatchNorm3d(4), nn.ReLU())
    return nn.Sequential(maps, Head(4, 4)).double()


def tracklets(count):
    """Small images of noise in memory: four identities, two cameras."""
    rng = np.random.default_rng(7)
    return [
        Tracklet(tuple(rng.integers(0, 256, (3, 8, 4, 3), dtype=np.uint8)), f"person{row % 4}", row // 4 % 2)
        for row in range(count)
    ]
