"""Neighbouring frames merged into one between the stages of a network."""

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import check_lengths, existing, zero_past_end
from strfnet.system.names import check_count


class TemporalReduction(nn.Module):
    """Maximum over groups of ``factor`` neighbouring frames, value by value; t frames become ceil(t / factor).

    Groups are counted from the first frame. The last group is shorter if t is not a multiple of ``factor``.

    Args:
        factor: number of frames in a group.

    Shape: (b, c, t, h, w) -> (b, c, ceil(t / factor), h, w).
    Raises: ValueError for a factor below 1, or for lengths outside 1..t.
    Source: Liu et al., STE-NVAN, BMVC 2019, arXiv:1908.01683 (pairs). Ours: any factor, any t, ragged clips.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        check_count("factor", factor)
        self.factor = factor

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Merges frames; with ``lengths`` (b,), only the first ``lengths[i]`` frames of clip i are valid.

        A group without a valid frame becomes zeros. `lengths_after` returns the lengths of the output.
        """
        check_clip(x)
        t = x.shape[2]
        if lengths is not None:
            check_lengths(lengths, x)
            x = x.masked_fill(~existing(x, lengths), float("-inf"))
        first = torch.arange(0, t, self.factor, device=x.device)
        merged = x[:, :, :: self.factor]
        for step in range(1, self.factor):
            merged = torch.maximum(merged, x.index_select(2, (first + step).clamp(max=t - 1)))
        return merged if lengths is None else zero_past_end(merged, self.lengths_after(lengths))

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the number of valid frames in each clip of the output."""
        return (lengths + self.factor - 1) // self.factor

    def extra_repr(self) -> str:
        return f"factor={self.factor}"
