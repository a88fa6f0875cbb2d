"""Incremental inference: a 2-D backbone whose temporal layers cache their last frames and continue from them.

Frames are flattened into the batch, as in an inflated network. Each temporal layer receives the frames that are not
yet final in its input, prepends its cached frames, and returns the frames that are not yet final in its output. These
are earlier frames than it received. The shortcut of a residual block has to be delayed by the same number of frames.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from strfnet.inference.receptive_field import ReceptiveField, receptive_field, refusal
from strfnet.inflation.extension import own_class
from strfnet.inflation.layout import MAPS
from strfnet.inflation.splicing import Followed, Replacement, unfollow
from strfnet.layers.ap3d import AP3DA, AP3DC
from strfnet.layers.clip import flatten_time, unflatten_time
from strfnet.layers.temporal import P3DA, P3DC, TemporalConv
from strfnet.system.compat import BatchNorm, children_of

# The shortcut of these passes ``downsample``, if there is one, and is added behind the last norm. Named, as these
# libraries are not imported here.
RESIDUAL = {
    f"{library}.models.resnet.{block}"
    for library in ("torchvision", "timm")
    for block in ("BasicBlock", "Bottleneck")
}
CALLED_ONCE = (nn.Conv2d, BatchNorm, Replacement)  # of what such a block has
SPACE_FIRST = (P3DA, P3DC, AP3DA, AP3DC)


@dataclass(frozen=True)
class Span:
    """The frames that one layer passes to the next, counted from the start of the tracklet.

    They run from ``before``, where the final frames of earlier passes end, to ``end``. Frames up to ``final`` are
    final: no later frame changes them.
    """

    before: int
    final: int
    end: int

    def after(self, extent: ReceptiveField, *, ending: bool) -> "Span":
        """Returns the span of a layer's output; without ``ending`` it holds final frames only."""
        final = extent.final(self.final)
        return Span(extent.final(self.before), final, extent.total(self.end) if ending else final)


@dataclass
class Progress:
    """State that the layers share: the span of the current pass, and the frames cached for the next."""

    span: Span = Span(0, 0, 0)
    fields: list[ReceptiveField] = field(default_factory=list)  # of the layers, in order
    placed: set[nn.Module] = field(default_factory=set)  # what they stand for in the network
    ending: bool = True  # whether frames are handed on that later ones may change
    kept: Mapping[nn.Module, Tensor] = field(default_factory=dict)  # from the last pass
    keeping: dict[nn.Module, Tensor] = field(default_factory=dict)  # for the next one

    def begin(self, span: Span, kept: Mapping[nn.Module, Tensor], *, ending: bool) -> None:
        self.span, self.kept, self.ending, self.keeping = span, kept, ending, {}

    def joined(self, layer: nn.Module, clip: Tensor) -> Tensor:
        """Returns the cached frames of ``layer`` followed by ``clip``, in channels-last order."""
        if layer not in self.kept:
            return clip
        parts = [part.permute(0, 2, 3, 4, 1) for part in (self.kept[layer], clip)]
        return torch.cat(parts, dim=1).permute(0, 4, 1, 2, 3)

    def keep(self, layer: nn.Module, clip: Tensor) -> None:
        """Caches a copy of ``clip`` for the next pass; a view would hold the whole tensor."""
        if clip.shape[2]:
            self.keeping[layer] = clip.clone()


class IncrementalLayer(nn.Module):
    """A temporal layer inside a 2-D backbone, which continues from its cached frames."""

    def __init__(self, layer: Any, extent: ReceptiveField, progress: Progress) -> None:
        super().__init__()
        self.layer: Any = layer
        self.extent = extent
        self._progress = progress

    def forward(self, frames: Tensor) -> Tensor:
        progress, given = self._progress, self._progress.span
        window = progress.joined(self, self._each(unflatten_time(frames, given.end - given.before)))
        first = given.end - window.shape[2]
        progress.keep(self, window[:, :, self.extent.first_needed(given.final) - first : given.final - first])
        progress.span = answered = given.after(self.extent, ending=progress.ending)
        skipped = answered.before - self.extent.total(first)
        return _flattened(self._over(window)[:, :, skipped : skipped + answered.end - answered.before])

    def _each(self, clip: Tensor) -> Tensor:
        """Applies the spatial part of the layer, whose output is cached and not computed again."""
        return self.layer.spatial(clip) if own_class(self.layer) in SPACE_FIRST else clip

    def _over(self, clip: Tensor) -> Tensor:
        """Applies the temporal part of the layer."""
        if own_class(self.layer) not in SPACE_FIRST:
            return self.layer(clip)
        over = self.layer.over_time(clip)
        return clip + over if isinstance(self.layer, P3DC) else over


class FrameByFrame(nn.Module):
    """A layer on clips inside a 2-D backbone that treats each frame alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, frames: Tensor) -> Tensor:
        return flatten_time(self.layer(unflatten_time(frames, 1)))


class Shortcut(nn.Module):
    """The shortcut of a residual block, delayed until the main path returns the same frames."""

    def __init__(self, downsample: nn.Module | None, progress: Progress) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self._progress = progress
        self._entered = progress.span

    def enter(self, *_: Any) -> None:
        """Stores the span of the block's input."""
        self._entered = self._progress.span

    def forward(self, frames: Tensor) -> Tensor:
        """Returns the frames of the shortcut that the main path returns in this pass."""
        given, wanted = self._entered, self._progress.span
        window = self._progress.joined(self, unflatten_time(self.downsample(frames), given.end - given.before))
        self._progress.keep(self, window[:, :, wanted.final - wanted.before : given.final - wanted.before])
        return _flattened(window[:, :, : wanted.end - wanted.before])


def delay(module: nn.Module, progress: Progress, path: str) -> nn.Module:
    """Makes all layers on clips in ``module``, a part of a 2-D backbone, incremental, in place; returns ``module``.

    Args:
        module: takes flattened frames; its layers and units on clips are those of an inflated network.
        progress: what the layers are to share; their receptive fields are appended to it, in order.
        path: of the module, for messages.

    Raises: ValueError naming a module that depends on all frames, is unknown, or is called at an unknown point of the
    forward pass.
    """
    layout = getattr(children_of(module).get("after", module), "_layout", MAPS)
    if layout != MAPS:
        raise refusal(module, path, f"returns {layout} and not maps")
    if module in progress.placed:
        raise refusal(module, path, "stands at several places")
    if isinstance(module, Followed):
        units = unfollow(module)
        parts = [delay(module, progress, path)]
        parts += [_incremental(unit, progress, f"{path}.after.{name}") for name, unit in units.named_children()]
        progress.placed.add(module)
        return nn.Sequential(*parts)
    if isinstance(module, Replacement | TemporalConv):
        progress.placed.add(module)
        if isinstance(module, Replacement):
            return _incremental(module.unit, progress, f"{path}.unit")
        return _incremental(module, progress, path)
    over_time = []
    for name, child in list(children_of(module).items()):
        before = len(progress.fields)
        if child is not None:
            module.add_module(name, delay(child, progress, f"{path}.{name}"))
        if len(progress.fields) > before:
            over_time.append((name, child))
    if over_time and not isinstance(module, nn.Sequential):
        _hold_back(module, over_time, progress, path)
    return module


def _incremental(layer: nn.Module, progress: Progress, path: str) -> nn.Module:
    extent = receptive_field(layer, path)
    if extent == ReceptiveField():
        return FrameByFrame(layer)
    progress.fields.append(extent)
    return IncrementalLayer(layer, extent, progress)


def _hold_back(block: nn.Module, over_time: list[tuple[str, Any]], progress: Progress, path: str) -> None:
    """Delays the shortcut of a residual block, in place."""
    if f"{type(block).__module__}.{type(block).__name__}" not in RESIDUAL:
        raise refusal(block, path, "is no residual block of torchvision or timm and has layers over time inside")
    for name, child in over_time:
        if name == "downsample" or not isinstance(child, CALLED_ONCE):
            raise refusal(child, f"{path}.{name}", "stands where a layer over time cannot be followed")
    shortcut = Shortcut(cast(Any, block.downsample), progress)
    block.downsample = shortcut
    block.register_forward_pre_hook(shortcut.enter)


def _flattened(clip: Tensor) -> Tensor:
    """Returns the frames of all clips in the batch axis, in channels-last order."""
    return clip.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)
