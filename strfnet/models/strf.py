"""C2D, I3D, P3D and AP3D networks, with and without STRF or non-local blocks.

Source: the placement, head and baselines of AP3D (Gu et al., ECCV 2020), on which the STRF paper builds.
"""

from functools import partial
from typing import Any

from strfnet.inflation.inflation import Temporal, inflate
from strfnet.inflation.splicing import splice
from strfnet.layers.head import Head
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import last_stride, map_channels, resnet_maps


def temporal_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    temporal: Temporal,
    strf: bool = False,
    non_local: bool = False,
) -> ReIDNetwork:
    """A ResNet whose every second block of stages 2 and 3, from the first, has a temporal convolution.

    ``depth`` and ``weights`` are those of `resnet_maps`, ``num_classes`` of `Head`, ``temporal`` of
    `strfnet.inflate`. With ``strf``, an STRF unit follows each of those convolutions; with ``non_local``,
    non-local blocks with sub-sampled keys follow the blocks between, or the only block of a stage. In the narrow
    resnet8 the units have a quarter of its channels, not a sixteenth.
    """
    maps = resnet_maps(depth, weights=weights)
    unit = partial(STRF, reduction=4 if depth == "resnet8" else 16) if strf else None
    backbone = inflate(maps, temporal=temporal, unit=unit, last_stride=last_stride(maps))
    if non_local:
        blocks = {stage: len(getattr(maps, f"layer{stage}")) for stage in (2, 3)}
        others = [f"layer{s}.{b}" for s, n in blocks.items() for b in (range(1, n, 2) or [0])]
        backbone = splice(backbone, dict.fromkeys(others, partial(NonLocalBlock, subsample=True)))
    head = Head(map_channels(maps), num_classes, pooling="max_mean")
    return ReIDNetwork(backbone, head)
