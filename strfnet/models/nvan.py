"""The frame-pooling baseline, NVAN, its two reductions, and both of them: STE-NVAN.

Source: Liu et al., BMVC 2019, and the published code: no ReLU in the stem, last stride 1, a BN neck whose
bias stays zero, a classifier without bias. It names the options ``non_layers`` (non_local, as the number of last
blocks of each stage) and ``stripes``. Our reading: "max-FPL" takes the maximum over frames and pixels.
"""

from collections.abc import Iterable, Sequence
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
from strfnet.models.resnet import blocks_of, check_blocks, map_channels, resnet_maps, stages_of, stride_of


def frame_pooling_resnet(
    depth: str, num_classes: int | None, weights: Any, *, last_stride: int = 1, pooling: Pooling = "mean"
) -> ReIDNetwork:
    """A ResNet on every frame, pooled over the clip."""
    maps = resnet_maps(depth, weights=weights, stem_relu=False)
    backbone = inflate(maps, temporal="c2d", unit=None, last_stride=stride_of(maps, last_stride))
    return ReIDNetwork(backbone, _head(maps, num_classes, pooling))


def nvan_resnet(
    merge_frames: bool,
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    non_local: Iterable[str] | None = None,
    window: int | None = None,
    last_stride: int = 1,
    pooling: Pooling = "mean",
) -> ReIDNetwork:
    """A ResNet with non-local blocks on pixels.

    - ``merge_frames``: whether pairs of frames are merged after stage 2 and again after stage 3.
    - ``depth``, ``weights``: of `resnet_maps`.
    - ``num_classes``, ``pooling``: of `Head`.
    - ``non_local``: residual blocks, such as "layer2.2", followed by a non-local block. None: the last two blocks of
      stage 2 and the last three of stage 3. As published, a block in stage 1 sub-samples its keys, or attends
      in pairs of frames if these are merged.
    - ``window``: of `NonLocalBlock`.
    - ``last_stride``: stride of the fourth stage.
    """
    maps = resnet_maps(depth, weights=weights, stem_relu=False)
    settings: list[dict[str, Any]] = [{"window": window} for _ in stages_of(maps)]
    if not merge_frames:
        settings[0]["subsample"] = True
    elif window is None:
        settings[0]["window"] = 2
    return _network(maps, num_classes, settings, merge_frames, non_local, last_stride, pooling)


def striped_nvan_resnet(
    merge_frames: bool,
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    stripes: int | Sequence[int] | None = None,
    non_local: Iterable[str] | None = None,
    window: int | None = None,
    last_stride: int = 1,
    pooling: Pooling = "mean",
) -> ReIDNetwork:
    """A ResNet with non-local blocks on horizontal stripes; for the other arguments see `nvan_resnet`.

    ``stripes`` is their number in a frame, or one number for each stage. None: 16, or 8 in a resnet8, whose maps are
    smaller.
    """
    maps = resnet_maps(depth, weights=weights, stem_relu=False)
    stages = stages_of(maps)
    if stripes is None:
        stripes = 8 if depth == "resnet8" else 16
    counts = [stripes] * len(stages) if isinstance(stripes, int) else list(stripes)
    if len(counts) != len(stages):
        raise ValueError(f"stripes must be one number, or {len(stages)}, one for each stage, got {stripes}")
    settings = [{"window": window, "stripes": count} for count in counts]
    return _network(maps, num_classes, settings, merge_frames, non_local, last_stride, pooling)


def _network(
    maps: nn.Sequential,
    num_classes: int | None,
    settings: Sequence[dict[str, Any]],
    merge_frames: bool,
    non_local: Iterable[str] | None,
    last_stride: int,
    pooling: Pooling,
) -> ReIDNetwork:
    """The network whose non-local blocks have the ``settings`` of their stage."""
    if non_local is None:
        non_local = blocks_of(maps, "layer2")[-2:] + blocks_of(maps, "layer3")[-3:]
    of_stage = dict(zip(stages_of(maps), settings, strict=True))
    blocks = check_blocks("non_local", non_local, maps)
    backbone = inflate(maps, temporal="c2d", unit=None, last_stride=stride_of(maps, last_stride))
    backbone = splice(backbone, {path: partial(NonLocalBlock, **of_stage[path.split(".")[0]]) for path in blocks})
    if merge_frames:
        backbone = splice(backbone, {"layer2": TemporalReduction(), "layer3": TemporalReduction()})
    return ReIDNetwork(backbone, _head(maps, num_classes, pooling))


def _head(network: nn.Sequential, num_classes: int | None, pooling: Pooling) -> Head:
    return Head(map_channels(network), num_classes, pooling=pooling, neck_bias=False, classifier_bias=False)
