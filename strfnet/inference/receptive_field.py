"""Which frames of a clip an answer depends on, layer by layer."""

from dataclasses import dataclass
from typing import cast

from torch import nn

from strfnet.inflation.extension import own_class
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.ffm import FFM
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.reduction import TemporalReduction
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a layer on clips looks.

    A frame of the answer depends on ``past`` frames before its own and ``future`` frames after it; what the
    layer puts beyond the ends of a clip is seen from no farther. Or, with a ``group``, on the frames of its group,
    counted from the first frame of the clip; ``merged`` says whether a group becomes one frame.
    """

    past: int = 0
    future: int = 0
    group: int = 1
    merged: bool = False

    def final(self, frames: int) -> int:
        """Frames of the answer that later ones cannot change, when that is so of the first ``frames`` given."""
        complete = max(frames - self.future, 0) // self.group
        return complete if self.merged else complete * self.group

    def total(self, frames: int) -> int:
        """Frames in the answer to a clip of ``frames``."""
        return -(-frames // self.group) if self.merged else frames

    def first_needed(self, frames: int) -> int:
        """The first frame given that matters to those of the answer from ``final(frames)`` on."""
        return max(max(frames - self.future, 0) // self.group * self.group - self.past, 0)


NEIGHBOURS = Reach(past=1, future=1)
CONVOLUTIONS = {C2D: Reach(), **dict.fromkeys((I3D, P3DA, P3DB, P3DC, AP3DI, AP3DA, AP3DB, AP3DC), NEIGHBOURS)}


def reach_of(layer: nn.Module, path: str) -> Reach:
    """How far ``layer``, which takes clips, looks.

    Raises: ValueError naming ``path``, the class and the reason, where it looks at all frames or is not known.
    """
    kind = own_class(layer)
    if kind in CONVOLUTIONS:
        return CONVOLUTIONS[kind]
    if kind is TemporalReduction:
        return Reach(group=cast(int, layer.factor), merged=True)
    if kind is NonLocalBlock:
        if layer.window is None:
            raise refusal(layer, path, "attends over all frames (window=None)")
        return Reach(group=cast(int, layer.window))
    if kind is STRF:
        children = cast(nn.ModuleDict, layer.units).values()
        units = [_reach_of_unit(cast(FFM, unit), cast(STRF, layer), path) for unit in children]
        return Reach(past=max(unit.past for unit in units), future=max(unit.future for unit in units))
    raise refusal(layer, path, "is not a layer of strfnet, and what it does with other frames cannot be known")


def refusal(module: nn.Module, path: str, reason: str) -> ValueError:
    """What is raised where frames cannot be embedded one by one."""
    return ValueError(
        f"{path or 'the network'} ({type(module).__name__}) {reason}, so frames cannot be embedded one by one "
        "exactly; Stream(network, frames=8) embeds a clip of 8 chosen frames instead"
    )


def _reach_of_unit(unit: FFM, layer: STRF, path: str) -> Reach:
    """The band's reach, and one frame more on either side for taps over the bands of neighbouring frames."""
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
    return Reach(past=past + taps, future=future + taps)
