"""Neighbouring frames merged into one between the stages of a network."""

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip


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
        if factor < 1:
            raise ValueError(f"factor must be at least 1 frame, got {factor}")
        self.factor = factor

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Merges frames; with ``lengths`` (b,), only the first ``lengths[i]`` frames of clip i are valid.

        A group without a valid frame becomes zeros. `lengths_after` returns the lengths of the output.
        """
        check_clip(x)
        b, _, t = x.shape[:3]
        if lengths is not None:
            self._check_lengths(lengths, b, t)
            valid = torch.arange(t, device=x.device) < lengths[:, None]
            x = x.masked_fill(~valid[:, None, :, None, None], float("-inf"))
        first = torch.arange(0, t, self.factor, device=x.device)
        merged = x[:, :, :: self.factor]
        for step in range(1, self.factor):
            merged = torch.maximum(merged, x.index_select(2, (first + step).clamp(max=t - 1)))
        if lengths is None:
            return merged
        return merged.masked_fill(~(first < lengths[:, None])[:, None, :, None, None], 0.0)

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the number of valid frames in each clip of the output."""
        return (lengths + self.factor - 1) // self.factor

    @staticmethod
    def _check_lengths(lengths: Tensor, b: int, t: int) -> None:
        if not isinstance(lengths, Tensor):
            raise TypeError(f"lengths must be a tensor of {b} integers, one a clip, got {type(lengths).__name__}")
        if lengths.shape != (b,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ValueError(f"lengths must be {b} integers, one a clip, got {lengths.dtype} {tuple(lengths.shape)}")
        if lengths.min() < 1 or lengths.max() > t:
            raise ValueError(f"lengths must lie in 1..{t}, the frames of the clips, got {lengths.tolist()}")

    def extra_repr(self) -> str:
        return f"factor={self.factor}"
