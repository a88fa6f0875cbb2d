"""The frame-pooling baseline, NVAN, its two reductions, and both of them: STE-NVAN.

Source: Liu et al., BMVC 2019, and the published code: no ReLU in the stem, last stride 1, a BN neck whose
bias stays zero, a classifier without bias. Our reading: "max-FPL" takes the maximum over frames and pixels.
"""

from functools import partial
from typing import Any

from torch import nn

from strfnet.inflation.inflation import inflate
from strfnet.inflation.splicing import splice
from strfnet.layers.head import Head
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.pooling import Pooling
from strfnet.layers.reduction import TemporalReduction
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import last_stride, map_channels, resnet_maps


def frame_pooling_resnet(
    depth: str, num_classes: int | None, weights: Any, *, pooling: Pooling = "mean"
) -> ReIDNetwork:
    """A ResNet on every frame, pooled over the clip by "mean" or "max"."""
    maps = resnet_maps(depth, weights=weights, stem_relu=False)
    backbone = inflate(maps, temporal="c2d", unit=None, last_stride=last_stride(maps))
    return ReIDNetwork(backbone, _head(maps, num_classes, pooling))


def nvan_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    striped: bool = False,
    window: int | None = None,
    merge_frames: bool = False,
) -> ReIDNetwork:
    """A ResNet with non-local blocks after the last two blocks of stage 2 and the last three of stage 3.

    ``depth`` and ``weights`` are those of `resnet_maps`, ``num_classes`` of `Head`, ``window`` of `NonLocalBlock`.
    With ``striped`` the blocks attend to 16 stripes of a frame (8 in a resnet8, whose maps are smaller). With
    ``merge_frames`` pairs of frames are merged after stage 2 and again after stage 3.
    """
    maps = resnet_maps(depth, weights=weights, stem_relu=False)
    backbone = inflate(maps, temporal="c2d", unit=None, last_stride=last_stride(maps))
    stripes = (8 if depth == "resnet8" else 16) if striped else None
    places = _last_blocks(maps, 2, 2) + _last_blocks(maps, 3, 3)
    backbone = splice(backbone, dict.fromkeys(places, partial(NonLocalBlock, stripes=stripes, window=window)))
    if merge_frames:
        backbone = splice(backbone, {"layer2": TemporalReduction(), "layer3": TemporalReduction()})
    return ReIDNetwork(backbone, _head(maps, num_classes, "mean"))


def _last_blocks(network: nn.Sequential, stage: int, count: int) -> list[str]:
    blocks = len(getattr(network, f"layer{stage}"))
    return [f"layer{stage}.{block}" for block in range(max(blocks - count, 0), blocks)]


def _head(network: nn.Sequential, num_classes: int | None, pooling: Pooling) -> Head:
    return Head(map_channels(network), num_classes, pooling=pooling, neck_bias=False, classifier_bias=False)
