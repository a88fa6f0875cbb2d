"""Image networks from torchvision, cut to their feature maps; the one file that asks for torchvision."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEPTHS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def resnet_maps(depth: str, *, weights: Any = None, stem_relu: bool = True) -> nn.Sequential:
    """A torchvision ResNet up to its last feature maps, under torchvision's own parameter names.

    Args:
        depth: "resnet18" to "resnet152".
        weights: as torchvision takes them, e.g. "IMAGENET1K_V2"; None starts at random.
        stem_relu: whether a ReLU follows the first norm; the published NVAN networks have none there.

    Shape: (n, 3, h, w) to (n, 512 or 2048, h / 32, w / 32).
    """
    from torchvision.models import get_model

    network = get_model(depth, weights=weights)
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers if stem_relu or name != "relu"))


def weights_at_hand(depth: str) -> str | None:
    """The torchvision name of weights for ``depth`` that lie in torch.hub's folder already; nothing is downloaded."""
    from torchvision.models import get_model_weights

    folder = Path(torch.hub.get_dir(), "checkpoints")
    found = (weights.name for weights in get_model_weights(depth) if (folder / Path(weights.url).name).is_file())
    return next(found, None)


def map_channels(network: nn.Sequential) -> int:
    """Channels of the maps: those of the last norm on the main path of the last block."""
    last = list(network.get_submodule("layer4").children())[-1]
    norms = [child for child in last.children() if isinstance(child, nn.BatchNorm2d)]
    return norms[-1].num_features
