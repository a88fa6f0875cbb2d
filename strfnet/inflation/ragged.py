"""Ragged clips inside a 2-D network: flattened to the frames that exist, and unflattened for layers on clips."""

import functools
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strfnet.layers.clip import flatten_time
from strfnet.layers.lengths import are_known, existing, zero_past_end


@dataclass(frozen=True, eq=False)
class Ragged:
    """Clips of t frames at some place of a network, of which the first ``lengths[i]`` frames of clip i exist.

    2-D layers see only the frames that exist, so that batch statistics and cost leave out all others. Compilers and
    tracers cannot follow a number of frames that depends on values. There all frames stay, those past the end as
    zeros.

    Attributes:
        t: number of frames of the clips.
        lengths: (b,).
        rows: which of the flattened frames exist; None where all stay.
    """

    t: int
    lengths: Tensor
    rows: Tensor | None

    @classmethod
    def of(cls, clip: Tensor, lengths: Tensor) -> "Ragged":
        """Describes a clip."""
        known = are_known(lengths) and type(clip.shape[0]) is int and not clip.is_meta
        rows = existing(clip, lengths).flatten().nonzero().squeeze(1) if known else None
        return cls(clip.shape[2], lengths, rows)

    def flatten(self, clip: Tensor) -> Tensor:
        """Returns frames (n, c, h, w), in channels-last order."""
        if self.rows is None:
            return flatten_time(zero_past_end(clip, self.lengths))
        return clip.permute(0, 2, 3, 4, 1).flatten(0, 1).index_select(0, self.rows).permute(0, 3, 1, 2)

    def unflatten(self, frames: Tensor) -> Tensor:
        """Returns vectors (b, t, d) or clips (b, c, t, h, w) of such frames; those past the end are zeros."""
        b = self.lengths.shape[0]
        if frames.ndim == 4:
            clip = self.unflatten(frames.permute(0, 2, 3, 1).flatten(1))
            return clip.unflatten(2, (*frames.shape[2:], -1)).permute(0, 4, 1, 2, 3)
        if self.rows is None:
            return zero_past_end(frames.unflatten(0, (b, -1)).mT, self.lengths).mT
        return (
            frames.new_zeros(b * self.t, frames.shape[1]).index_copy(0, self.rows, frames).unflatten(0, (b, self.t))
        )

    def holds(self, frames: int) -> bool:
        """Whether so many flattened frames may be of these clips."""
        if self.rows is not None:
            return len(self.rows) == frames
        known = type(frames) is int and type(self.t) is int
        return not known or self.t * self.lengths.shape[0] == frames


def refuse_lengths(clip: Any, lengths: Any) -> Any:
    """Returns ``clip``, a symbol of ``torch.fx``; the traced network raises ValueError if it is given ``lengths``."""
    return _without_lengths(clip, lengths)


@torch.fx.wrap  # a traced network calls this function when it runs
def _without_lengths(clip: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        raise ValueError("lengths were given, but a network traced by torch.fx takes whole clips only")
    return clip


def run_ragged(layer: nn.Module, clip: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the output of a layer on ragged clips, and the lengths of the output.

    Raises: TypeError if ``forward`` of the layer takes no ``lengths``; ValueError if the layer changes the number of
    frames and has no method ``lengths_after``.
    """
    if type(layer) is nn.Sequential:
        for child in layer.children():
            clip, lengths = run_ragged(child, clip, lengths)
        return clip, lengths
    if not torch.compiler.is_compiling() and "lengths" not in inspect.signature(layer.forward).parameters:
        raise TypeError(
            f"{type(layer).__name__} cannot take ragged clips: its forward has no parameter lengths, as in "
            "forward(x, lengths=None)"
        )
    output, after = layer(clip, lengths=lengths), lengths_after(layer, lengths)
    if after is lengths and type(output.shape[2]) is int and output.shape[2] != clip.shape[2]:
        raise ValueError(
            f"{type(layer).__name__} cannot take ragged clips: it changes {clip.shape[2]} frames to "
            f"{output.shape[2]} and has no method lengths_after"
        )
    return output, after


def lengths_after(layer: Any, lengths: Tensor) -> Tensor:
    """Returns the lengths of the output of a layer for clips of ``lengths``: by its ``lengths_after``, if any."""
    if type(layer) is nn.Sequential:
        return functools.reduce(lambda given, child: lengths_after(child, given), layer, lengths)
    after = getattr(layer, "lengths_after", None)
    return lengths if after is None else after(lengths)
