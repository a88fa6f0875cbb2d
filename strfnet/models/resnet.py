"""2-D backbones from torchvision, cut to their feature maps. This is the only file here that imports torchvision."""

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strfnet.system.names import check_name

DEPTHS = ("resnet8", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


def resnet_maps(depth: str, *, weights: Any = None, stem_relu: bool = True) -> nn.Sequential:
    """A torchvision ResNet up to its last feature maps, under torchvision's own parameter names.

    Args:
        depth: "resnet18" to "resnet152", or "resnet8": ours, for small images such as synthetic walkers.
        weights: as torchvision takes them, e.g. "IMAGENET1K_V2"; None starts at random.
        stem_relu: whether a ReLU follows the first norm. The published NVAN networks have none there.

    Shape: (n, 3, h, w) to (n, 512 or 2048, h / 32, w / 32); resnet8 to (n, 64, h / 8, w / 8).
    Raises: ValueError for weights that torchvision does not have, such as those of a resnet8.
    """
    with torch.device("cpu"):  # PyTorch 2.8 and older cannot import torchvision while the meta device is the default
        from torchvision.models import get_model, get_model_weights

    if depth == "resnet8":
        if weights is not None:
            raise ValueError(f"weights are {weights!r}, but a resnet8 has none; wanted None")
        network = _resnet8()
    else:
        known = get_model_weights(depth)
        named = weights.removeprefix(f"{known.__name__}.") if isinstance(weights, str) else None
        if not (weights is None or isinstance(weights, known) or named in known.__members__):
            wanted = f"{', '.join(known.__members__)} or None for a {depth}; a file is pretrained="
            raise ValueError(f"weights are {weights!r}, wanted {wanted}")
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


def stages_of(network: nn.Sequential) -> list[str]:
    """Returns the module paths of the stages."""
    return [name for name, _ in network.named_children() if name.startswith("layer")]


def blocks_of(network: nn.Sequential, stage: str) -> list[str]:
    """Returns the module paths of the residual blocks of a stage."""
    return [f"{stage}.{name}" for name, _ in network.get_submodule(stage).named_children()]


def check_blocks(option: str, paths: Iterable[str], network: nn.Sequential) -> list[str]:
    """Returns module paths of residual blocks in the order of the network.

    Raises: ValueError naming the ``option`` for a path that is none, with the nearest, or that occurs twice.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    known = [path for stage in stages_of(network) for path in blocks_of(network, stage)]
    for path in given:
        check_name(f"residual block for {option},", path, known)
    if len(set(given)) != len(given):
        raise ValueError(f"{option} must name different blocks, got {given}")
    return sorted(given, key=known.index)


def stride_of(network: nn.Sequential, last_stride: int) -> int | None:
    """Returns ``last_stride`` for `strfnet.inflate`; both papers use 1, which keeps the resolution.

    Raises: ValueError for another number than 1 where there is no fourth stage.
    """
    if hasattr(network, "layer4"):
        return last_stride
    if last_stride != 1:
        raise ValueError(f"last_stride is {last_stride!r}, but a resnet8 has no fourth stage; wanted 1")
    return None
