"""C2D, I3D, P3D and AP3D networks, with and without STRF or non-local blocks.

Source: the placement, head and baselines of AP3D (Gu et al., ECCV 2020), on which the STRF paper builds. Its
published code names the options ``c3d_idx`` (places), ``nl_idx`` (non_local), ``temperature``, ``contrastive_att``
(gate) and ``time_dim`` (time_kernel). Ours: dilation, and strides in time of whole networks.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from torch import nn

from strfnet.inflation.inflation import TemporalBuilder, inflate
from strfnet.inflation.splicing import splice
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.head import Head, Pooling
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import TemporalConv
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import blocks_of, check_blocks, map_channels, resnet_maps, stride_of
from strfnet.system.names import check_choice

Host = Literal["i3d", "p3d_a", "p3d_b", "p3d_c"]
HOSTS: dict[Host, Callable[..., TemporalConv]] = {"i3d": AP3DI, "p3d_a": AP3DA, "p3d_b": AP3DB, "p3d_c": AP3DC}


def frame_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    non_local: Iterable[str] | None = (),
    last_stride: int = 1,
    pooling: Pooling = "max_mean",
) -> ReIDNetwork:
    """A ResNet on every frame; for the arguments see `temporal_resnet`."""
    maps = resnet_maps(depth, weights=weights)
    return _network(maps, num_classes, "c2d", None, (), non_local, last_stride, pooling)


def strf_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    places: Iterable[str] | None = None,
    non_local: Iterable[str] | None = (),
    last_stride: int = 1,
    pooling: Pooling = "max_mean",
) -> ReIDNetwork:
    """A ResNet on every frame with STRF units; for the arguments see `temporal_resnet`."""
    maps = resnet_maps(depth, weights=weights)
    return _network(maps, num_classes, "c2d", _strf(depth), places, non_local, last_stride, pooling)


def temporal_resnet(
    conv: type[TemporalConv],
    strf: bool,
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    places: Iterable[str] | None = None,
    non_local: Iterable[str] | None = (),
    time_kernel: int = 3,
    time_stride: int = 1,
    time_dilation: int = 1,
    last_stride: int = 1,
    pooling: Pooling = "max_mean",
) -> ReIDNetwork:
    """A ResNet with temporal convolutions.

    - ``conv``: the temporal convolution.
    - ``strf``: whether an STRF unit follows each of them. In the narrow resnet8 it has a quarter of the channels, not
      a sixteenth.
    - ``depth``, ``weights``: of `resnet_maps`.
    - ``num_classes``, ``pooling``: of `Head`.
    - ``places``: residual blocks, such as "layer2.0", whose ``conv2`` becomes temporal. None: every second block of
      stages 2 and 3, from the first.
    - ``non_local``: residual blocks followed by a non-local block with sub-sampled keys. None: the blocks between
      those of ``places`` None, or the only block of a stage.
    - ``time_kernel``, ``time_stride``, ``time_dilation``: of the temporal convolutions, see `strfnet.layers.I3D`.
    - ``last_stride``: stride of the fourth stage.
    """
    maps = resnet_maps(depth, weights=weights)
    temporal = partial(conv, time_kernel=time_kernel, time_stride=time_stride, time_dilation=time_dilation)
    unit = _strf(depth) if strf else None
    return _network(maps, num_classes, temporal, unit, places, non_local, last_stride, pooling)


def ap3d_resnet(
    depth: str,
    num_classes: int | None,
    weights: Any,
    *,
    host: Host = "p3d_c",
    temperature: float = 4.0,
    gate: bool = True,
    places: Iterable[str] | None = None,
    non_local: Iterable[str] | None = (),
    time_kernel: int = 3,
    time_stride: int = 1,
    time_dilation: int = 1,
    last_stride: int = 1,
    pooling: Pooling = "max_mean",
) -> ReIDNetwork:
    """A ResNet with temporal convolutions over registered frames.

    ``host`` is the order of space and time. ``temperature`` and ``gate`` are those of `AppearancePreserving`. For the
    other arguments see `temporal_resnet`.
    """
    check_choice("host", host, HOSTS)
    maps = resnet_maps(depth, weights=weights)
    time = {"time_kernel": time_kernel, "time_stride": time_stride, "time_dilation": time_dilation}
    temporal = partial(HOSTS[host], temperature=temperature, gate=gate, **time)
    return _network(maps, num_classes, temporal, None, places, non_local, last_stride, pooling)


def _network(
    maps: nn.Sequential,
    num_classes: int | None,
    temporal: Literal["c2d"] | TemporalBuilder,
    unit: Any,
    places: Iterable[str] | None,
    non_local: Iterable[str] | None,
    last_stride: int,
    pooling: Pooling,
) -> ReIDNetwork:
    if places is not None:
        places = check_blocks("places", places, maps)
    if non_local is None:
        blocks = {stage: blocks_of(maps, stage) for stage in ("layer2", "layer3")}
        non_local = [path for paths in blocks.values() for path in (paths[1::2] or paths)]
    backbone = inflate(maps, temporal=temporal, unit=unit, places=places, last_stride=stride_of(maps, last_stride))
    attending = check_blocks("non_local", non_local, maps)
    backbone = splice(backbone, dict.fromkeys(attending, partial(NonLocalBlock, subsample=True)))
    return ReIDNetwork(backbone, Head(map_channels(maps), num_classes, pooling=pooling))


def _strf(depth: str) -> Any:
    return partial(STRF, reduction=4 if depth == "resnet8" else 16)
