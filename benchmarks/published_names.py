"""The published names of our parameters, so that published code and its restatements take the same weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.temporal import I3D

NON_LOCAL = {"query": "theta", "key": "phi", "value": "g", "out": "W.0", "norm": "W.1"}


def published_state(network: Any) -> dict[str, Tensor]:
    """The state dict of a network or of a `NonLocalBlock` under the published names; the values are not copied.

    Kernels keep our shapes, which differ from the published ones by axes of length one.
    """
    return published(network, network.state_dict())


def published(network: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Anything that we hold by parameter, such as gradients, by published name."""
    return {published_name(network, key): value for key, value in values.items()}


def published_name(network: Any, key: str) -> str:
    """The name in the code of STE-NVAN (without "module.") or AP3D of what we call ``key``.

    A residual block's non-local block stands beside the stage there, and its place in it is not part of the name.
    """
    if isinstance(network, NonLocalBlock):
        return _non_local(key)
    of_ap3d = network.head.pooling == "max_mean"
    after = re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.after\.0\.(.+)", key)
    if after and not of_ap3d:
        stage, block = after[1], int(after[2])
        attending = [n for n, b in enumerate(network.backbone.get_submodule(f"layer{stage}")) if hasattr(b, "after")]
        return f"features.backbone.NL_{stage}.{attending.index(block)}.{_non_local(after[3])}"
    key = re.sub(
        r"^head\.neck\.", "bn." if of_ap3d else "bottleneck.", key.replace("head.classifier.", "classifier.")
    )
    key = key.replace("backbone.", "" if of_ap3d else "features.backbone.", 1)
    if not of_ap3d or not _temporal(network, key):
        return key
    spatial = "conv3d" if isinstance(_temporal(network, key), I3D) else "spatial_conv3d"
    return re.sub(r"\.conv2\.weight$", f".conv2.{spatial}.weight", key.replace(".temporal.", ".temporal_conv3d."))


def _non_local(key: str) -> str:
    part, _, field = key.partition(".")
    return f"{NON_LOCAL[part]}.{field}"


def _temporal(network: Any, key: str) -> nn.Module | None:
    """The convolution with an extent in time to which ``key`` belongs."""
    place = re.match(r"layer\d\.\d+\.conv2", key)
    conv = network.backbone.get_submodule(place[0]) if place else None
    return None if type(conv) is nn.Conv2d else conv
