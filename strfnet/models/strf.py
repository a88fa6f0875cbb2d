"""C2D, I3D, P3D and AP3D networks, with and without STRF or non-local blocks.

Source: the placement, head and baselines of AP3D (Gu et al., ECCV 2020), on which the STRF paper builds.
"""

from functools import partial
from typing import Any

from strfnet.heads import Head
from strfnet.inflation import inflate
from strfnet.layers.non_local import NonLocalBlock
from strfnet.models.backbones import map_channels, resnet_maps
from strfnet.models.network import ReIDNetwork
from strfnet.splicing import splice


def temporal_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    temporal: str,
    unit: str | None = None,
    non_local: bool = False,
) -> ReIDNetwork:
    """A ResNet whose every second block of stages 2 and 3, from the first, has a temporal convolution.

    ``depth`` and ``weights`` are those of `resnet_maps`, ``num_classes`` of `Head`, ``temporal`` and ``unit`` of
    `strfnet.inflate`. With ``non_local``, non-local blocks with sub-sampled keys follow the blocks between.
    """
    maps = resnet_maps(depth, weights=weights)
    backbone = inflate(maps, temporal=temporal, unit=unit, last_stride=1)
    if non_local:
        others = [f"layer{s}.{b}" for s in (2, 3) for b in range(1, len(getattr(maps, f"layer{s}")), 2)]
        backbone = splice(backbone, dict.fromkeys(others, partial(NonLocalBlock, subsample=True)))
    head = Head(map_channels(maps), num_classes, pooling="max_mean")
    return ReIDNetwork(backbone, head)
