"""An image network whose layers over time keep their last frames, so that it goes on where it stopped.

Frames are folded into the batch as in an inflated network. Here each layer over time takes the frames that are
not yet final at its place, puts those it has kept before them, and hands on those that are not yet final in its
answer. That is more frames than it got, so the shortcut of a residual block is held back as much.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from strfnet.inference.receptive_field import Reach, reach_of, refusal
from strfnet.inflation.extension import own_class, retract
from strfnet.inflation.splicing import Followed, Replacement
from strfnet.layers.ap3d import AP3DA, AP3DC
from strfnet.layers.clip import flatten_time, unflatten_time
from strfnet.layers.temporal import P3DA, P3DC, TemporalConv

# The shortcut of these passes ``downsample``, if there is one, and is added behind the last norm. Named, as these
# libraries are not imported here.
RESIDUAL = {
    f"{library}.models.resnet.{block}"
    for library in ("torchvision", "timm")
    for block in ("BasicBlock", "Bottleneck")
}
CALLED_ONCE = (nn.Conv2d, nn.modules.batchnorm._BatchNorm, Replacement)  # of what such a block has
SPACE_FIRST = (P3DA, P3DC, AP3DA, AP3DC)


@dataclass(frozen=True)
class Span:
    """Frames that one layer hands to the next, counted from the start of the tracklet at that place.

    They run from ``before``, up to where frames were final before this pass, to ``end``; up to ``final`` no
    later frame can change them any more.
    """

    before: int
    final: int
    end: int

    def after(self, reach: Reach, *, ending: bool) -> "Span":
        """Those of the answer of a layer; without ``ending`` only what is final."""
        final = reach.final(self.final)
        return Span(reach.final(self.before), final, reach.total(self.end) if ending else final)


@dataclass
class Progress:
    """What the layers share: where the running pass stands, and what each keeps for the next one."""

    span: Span = Span(0, 0, 0)
    reaches: list[Reach] = field(default_factory=list)  # of the layers, in order
    placed: set[nn.Module] = field(default_factory=set)  # what they stand for in the network
    ending: bool = True  # whether frames are handed on that later ones may change
    kept: Mapping[nn.Module, Tensor] = field(default_factory=dict)  # from the last pass
    keeping: dict[nn.Module, Tensor] = field(default_factory=dict)  # for the next one

    def begin(self, span: Span, kept: Mapping[nn.Module, Tensor], *, ending: bool) -> None:
        self.span, self.kept, self.ending, self.keeping = span, kept, ending, {}

    def joined(self, layer: nn.Module, clip: Tensor) -> Tensor:
        """What ``layer`` has kept, and ``clip`` behind it, in channels-last order."""
        if layer not in self.kept:
            return clip
        parts = [part.permute(0, 2, 3, 4, 1) for part in (self.kept[layer], clip)]
        return torch.cat(parts, dim=1).permute(0, 4, 1, 2, 3)

    def keep(self, layer: nn.Module, clip: Tensor) -> None:
        """Keep ``clip`` for the next pass; a copy, or all that it is a part of would be held."""
        if clip.shape[2]:
            self.keeping[layer] = clip.clone()


class Delaying(nn.Module):
    """A layer on clips inside an image network, which goes on behind the frames it has kept."""

    def __init__(self, layer: nn.Module, reach: Reach, progress: Progress) -> None:
        super().__init__()
        self.layer, self.reach = layer, reach
        self._progress = progress

    def forward(self, frames: Tensor) -> Tensor:
        progress, given = self._progress, self._progress.span
        window = progress.joined(self, self._each(unflatten_time(frames, given.end - given.before)))
        first = given.end - window.shape[2]
        progress.keep(self, window[:, :, self.reach.first_needed(given.final) - first : given.final - first])
        progress.span = answered = given.after(self.reach, ending=progress.ending)
        skipped = answered.before - self.reach.total(first)
        return _folded(self._over(window)[:, :, skipped : skipped + answered.end - answered.before])

    def _each(self, clip: Tensor) -> Tensor:
        """What the layer does to every frame first; frames are kept behind it, and it is not done again."""
        return self.layer.spatial(clip) if own_class(self.layer) in SPACE_FIRST else clip  # type: ignore[operator]

    def _over(self, clip: Tensor) -> Tensor:
        """The rest."""
        if own_class(self.layer) not in SPACE_FIRST:
            return self.layer(clip)
        over = self.layer.over_time(clip)  # type: ignore[operator]
        return clip + over if isinstance(self.layer, P3DC) else over


class FrameByFrame(nn.Module):
    """A layer on clips that does not look at other frames, inside an image network."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, frames: Tensor) -> Tensor:
        return flatten_time(self.layer(unflatten_time(frames, 1)))


class Shortcut(nn.Module):
    """The shortcut of a residual block, held back until the main path hands on the same frames."""

    def __init__(self, downsample: nn.Module | None, progress: Progress) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self._progress = progress
        self._entered = progress.span

    def enter(self, *_: Any) -> None:
        """Called when the block is."""
        self._entered = self._progress.span

    def forward(self, frames: Tensor) -> Tensor:
        """Called when the main path is through."""
        given, wanted = self._entered, self._progress.span
        window = self._progress.joined(self, unflatten_time(self.downsample(frames), given.end - given.before))
        self._progress.keep(self, window[:, :, wanted.final - wanted.before : given.final - wanted.before])
        return _folded(window[:, :, : wanted.end - wanted.before])


def delay(module: nn.Module, progress: Progress, path: str) -> nn.Module:
    """``module``, a part of an image network, with all its layers on clips delaying; changed in place.

    Args:
        module: takes folded frames; its layers and units on clips are those of an inflated network.
        progress: what the layers are to share; their reaches are added to it, in order.
        path: of the module, for messages.

    Raises: ValueError naming a module that looks at all frames, that cannot be known, or that stands where the
    order of what happens cannot be known.
    """
    if module in progress.placed:
        raise refusal(module, path, "stands at several places")
    if isinstance(module, Followed):
        units = module.after
        retract(module, Followed)
        parts = [delay(module, progress, path)]
        parts += [_delaying(unit, progress, f"{path}.after.{name}") for name, unit in units.named_children()]
        progress.placed.add(module)
        return nn.Sequential(*parts)
    if isinstance(module, Replacement | TemporalConv):
        progress.placed.add(module)
        if isinstance(module, Replacement):
            return _delaying(module.unit, progress, f"{path}.unit")
        return _delaying(module, progress, path)
    over_time = []
    for name, child in list(module._modules.items()):
        before = len(progress.reaches)
        if child is not None:
            module._modules[name] = delay(child, progress, f"{path}.{name}")
        if len(progress.reaches) > before:
            over_time.append((name, child))
    if over_time and not isinstance(module, nn.Sequential):
        _hold_back(module, over_time, progress, path)
    return module


def _delaying(layer: nn.Module, progress: Progress, path: str) -> nn.Module:
    reach = reach_of(layer, path)
    if reach == Reach():
        return FrameByFrame(layer)
    progress.reaches.append(reach)
    return Delaying(layer, reach, progress)


def _hold_back(block: nn.Module, over_time: list[tuple[str, Any]], progress: Progress, path: str) -> None:
    """Let the shortcut of a residual block wait for its main path, in place."""
    if f"{type(block).__module__}.{type(block).__name__}" not in RESIDUAL:
        raise refusal(block, path, "is no residual block of torchvision or timm and has layers over time inside")
    for name, child in over_time:
        if name == "downsample" or not isinstance(child, CALLED_ONCE):
            raise refusal(child, f"{path}.{name}", "stands where a layer over time cannot be followed")
    shortcut = Shortcut(cast(Any, block.downsample), progress)
    block.downsample = shortcut
    block.register_forward_pre_hook(shortcut.enter)


def _folded(clip: Tensor) -> Tensor:
    """The frames of all clips in the batch, in channels-last order."""
    return clip.permute(0, 2, 3, 4, 1).flatten(0, 1).permute(0, 3, 1, 2)
