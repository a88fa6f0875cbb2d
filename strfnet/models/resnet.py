"""2-D backbones from torchvision, cut to their feature maps. This is the only file here that imports torchvision."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import nn

DEPTHS = ("resnet8", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def resnet_maps(depth: str, *, weights: Any = None, stem_relu: bool = True) -> nn.Sequential:
    """A torchvision ResNet up to its last feature maps, under torchvision's own parameter names.

    Args:
        depth: "resnet18" to "resnet152", or "resnet8": ours, for small images such as synthetic walkers.
        weights: as torchvision takes them, e.g. "IMAGENET1K_V2"; None starts at random.
        stem_relu: whether a ReLU follows the first norm. The published NVAN networks have none there.

    Shape: (n, 3, h, w) to (n, 512 or 2048, h / 32, w / 32); resnet8 to (n, 64, h / 8, w / 8).
    Raises: ValueError for weights of a resnet8, which torchvision does not have.
    """
    with torch.device("cpu"):  # PyTorch 2.8 and older cannot import torchvision while the meta device is the default
        from torchvision.models import get_model

    if depth == "resnet8":
        if weights is not None:
            raise ValueError(f"weights are {weights!r}, but a resnet8 has none; wanted None")
        network = _resnet8()
    else:
        network = get_model(depth, weights=weights)
    layers = [(name, layer) for name, layer in network.named_children() if name not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers if stem_relu or name != "relu"))


def _resnet8() -> nn.Module:
    """The ResNet-8 of the CIFAR family (one basic block each of 16, 32 and 64 channels), at half the resolution:
    its stem and its first block have stride 2 too. Weights are initialised as torchvision's are.
    """
    from torchvision.models.resnet import BasicBlock

    def stage(channels: int, wider: int, stride: int) -> nn.Sequential:
        shortcut = nn.Sequential(nn.Conv2d(channels, wider, 1, stride, bias=False), nn.BatchNorm2d(wider))
        return nn.Sequential(BasicBlock(channels, wider, stride, shortcut))

    layers = {
        "conv1": nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(16),
        "relu": nn.ReLU(inplace=True),
        "layer1": stage(16, 16, 2),
        "layer2": stage(16, 32, 1),
        "layer3": stage(32, 64, 2),
    }
    network = nn.Sequential(OrderedDict(layers))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def cached_weights(depth: str) -> str | None:
    """Returns the name of torchvision's weights for ``depth`` that torch.hub has cached, or None."""
    from torchvision.models import get_model_weights

    if depth == "resnet8":
        return None
    folder = Path(torch.hub.get_dir(), "checkpoints")
    found = (weights.name for weights in get_model_weights(depth) if (folder / Path(weights.url).name).is_file())
    return next(found, None)


def map_channels(network: nn.Sequential) -> int:
    """Channels of the maps: those of the last norm on the main path of the last block."""
    last = list(list(network.children())[-1].children())[-1]
    norms = [child for child in last.children() if isinstance(child, nn.BatchNorm2d)]
    return norms[-1].num_features


def last_stride(network: nn.Sequential) -> int | None:
    """Returns ``last_stride`` for `strfnet.inflate`: both papers keep the resolution in the fourth stage."""
    return 1 if hasattr(network, "layer4") else None
