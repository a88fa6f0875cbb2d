"""The temporal receptive field of each layer: on which frames of a clip its output depends."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from strfnet.inflation.extension import own_class
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.ffm import FFM
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.reduction import TemporalReduction
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC, TemporalConv
from strfnet.layers.temporal_attention import TemporalAttention


@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The temporal receptive field of a layer on clips.

    An output frame depends on ``past`` frames before it and ``future`` frames after it; padding at the ends of a clip
    affects no frame farther away. Or, with a ``group``, it depends on the frames of its group, counted from the first
    frame of the clip; ``merged`` says whether a group becomes one frame.
    """

    past: int = 0
    future: int = 0
    group: int = 1
    merged: bool = False

    def final(self, frames: int) -> int:
        """Returns how many output frames are final, when the first ``frames`` input frames are."""
        complete = max(frames - self.future, 0) // self.group
        return complete if self.merged else complete * self.group

    def total(self, frames: int) -> int:
        """Returns the number of output frames for a clip of ``frames``."""
        return -(-frames // self.group) if self.merged else frames

    def first_needed(self, frames: int) -> int:
        """Returns the first input frame on which output frames from ``final(frames)`` on depend."""
        return max(max(frames - self.future, 0) // self.group * self.group - self.past, 0)

    def is_inside(self, frames: int) -> bool:
        """Returns whether output frames from ``final(frames)`` on depend on no padding at the start of the clip."""
        return (frames - self.future) // self.group * self.group >= self.past


def cycle(layers: Sequence[ReceptiveField]) -> tuple[int, int]:
    """Returns after how many frames of a clip layers in a row leave the padding at its start, and their period.

    From there on, one period later the layers depend on frames at the same distances.
    """
    period, merged = 1, 1
    for extent in layers:
        period = math.lcm(period, merged * extent.group)
        merged *= extent.group if extent.merged else 1
    return next(frames for frames in itertools.count() if _all_inside(layers, frames)), period


def _all_inside(layers: Sequence[ReceptiveField], frames: int) -> bool:
    for extent in layers:
        if not extent.is_inside(frames):
            return False
        frames = extent.final(frames)
    return True


CONVOLUTIONS = (C2D, I3D, P3DA, P3DB, P3DC, AP3DI, AP3DA, AP3DB, AP3DC)


def receptive_field(layer: nn.Module, path: str) -> ReceptiveField:
    """Returns the receptive field of ``layer``, which takes clips.

    Raises: ValueError naming ``path``, the class and the reason, if the layer depends on all frames, is unknown, or
    has a stride in time.
    """
    kind = own_class(layer)
    if kind in CONVOLUTIONS:
        conv = cast(TemporalConv, layer)
        if conv.time_stride > 1:
            raise refusal(layer, path, f"returns fewer frames than it is given (time_stride={conv.time_stride})")
        reach = conv.time_dilation * (conv.time_kernel // 2)
        return ReceptiveField(past=reach, future=reach)
    if kind is TemporalReduction:
        return ReceptiveField(group=cast(int, layer.factor), merged=True)
    if kind is NonLocalBlock:
        if layer.window is None:
            raise refusal(layer, path, "attends over all frames (window=None)")
        return ReceptiveField(group=cast(int, layer.window))
    if kind is TemporalAttention:
        raise refusal(layer, path, "attends over all frames")
    if kind is STRF:
        children = cast(nn.ModuleDict, layer.units).values()
        units = [_receptive_field_of_unit(cast(FFM, unit), cast(STRF, layer), path) for unit in children]
        return ReceptiveField(past=max(unit.past for unit in units), future=max(unit.future for unit in units))
    raise refusal(layer, path, "is not a layer of strfnet, and what it does with other frames cannot be known")


def refusal(module: nn.Module, path: str, reason: str) -> ValueError:
    """Returns the error for a module that rules out incremental inference."""
    return ValueError(
        f"{path or 'the network'} ({type(module).__name__}) {reason}, so frames cannot be embedded one by one "
        "exactly; Stream(network, frames=8) embeds a clip of 8 chosen frames instead"
    )


def _receptive_field_of_unit(unit: FFM, layer: STRF, path: str) -> ReceptiveField:
    """Returns the receptive field of the component, widened by one frame on either side for taps over time."""
    past, future = 0, 0
    if unit.in_time and unit.split:
        if unit.unit == "dynamic" and unit.dynamic == "difference":
            future = 1
        elif unit.window is None:
            raise refusal(layer, path, f"averages all frames in its {unit.unit} unit (window=None)")
        else:
            past = future = unit.window // 2
    mask = None if unit.attention is None else unit.attention.kind
    if mask in ("product", "space"):
        raise refusal(layer, path, f'weighs places by their mean over all frames (mask="{mask}")')
    taps = 1 if unit.in_time or mask == "time" else 0
    return ReceptiveField(past=past + taps, future=future + taps)
