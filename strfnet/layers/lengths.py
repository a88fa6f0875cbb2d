"""Ragged clips: a batch (b, c, t, h, w) in which only the first ``lengths[i]`` frames of clip i exist.

Layers on clips take ``lengths`` (b,). For the frames that exist, their output and gradients equal those of the clip
alone, whatever the frames past the end hold, NaN included. In the output, frames past the end are zeros. No operation
here branches on the values of ``lengths``, so layers can be exported with lengths as an input.
"""

import torch
from torch import Tensor, nn


def check_lengths(lengths: Tensor, x: Tensor) -> None:
    """Checks that ``lengths`` holds the number of frames of each clip in ``x``; values only where they are known.

    Raises: TypeError if it is no tensor; ValueError if it is not one integer in 1..t for each clip.
    """
    b, t = x.shape[0], x.shape[2]
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths must be a tensor of {b} integers, one a clip, got {type(lengths).__name__}")
    if lengths.shape != (b,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ValueError(f"lengths must be {b} integers, one a clip, got {lengths.dtype} {tuple(lengths.shape)}")
    if are_known(lengths) and (lengths.min() < 1 or lengths.max() > t):
        raise ValueError(f"lengths must lie in 1..{t}, the frames of the clips, got {lengths.tolist()}")


def are_known(lengths: Tensor) -> bool:
    """Whether ``lengths`` holds values: under compilers and tracers, and on the meta device, it does not."""
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return not (traced or lengths.is_meta) and type(lengths) in (Tensor, nn.Parameter)


def existing(x: Tensor, lengths: Tensor) -> Tensor:
    """Which frames of ``x``, whose axis 2 is time, exist: (b, 1, t, 1, ...)."""
    frames = torch.arange(x.shape[2], device=x.device)
    return frames.view(-1, *[1] * (x.ndim - 3)) < _beside(lengths, x)


def _beside(lengths: Tensor, x: Tensor) -> Tensor:
    """``lengths`` on the device of ``x`` and with as many axes, (b, 1, 1, ...)."""
    return lengths.to(x.device).view(-1, *[1] * (x.ndim - 1))


def zero_past_end(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x``, whose axis 2 is time, with zeros in the frames past the end; itself without ``lengths``."""
    return x if lengths is None else x.masked_fill(~existing(x, lengths), 0)


def hold_last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """``x``, whose axis 2 is time, with the last existing frame in all frames past the end."""
    if lengths is None:
        return x
    last = x.gather(2, (_beside(lengths, x).long() - 1).expand_as(x[:, :, :1]))
    return torch.where(existing(x, lengths), x, last)


def mean_over_time(x: Tensor, lengths: Tensor | None) -> Tensor:
    """The mean over the existing frames of ``x``, (b, c, t, ...) to (b, c, ...)."""
    if lengths is None:
        return x.mean(dim=2)
    return zero_past_end(x, lengths).sum(dim=2) / _beside(lengths, x).squeeze(2)


def norm_of_existing(norm: nn.Module, rows: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
    """``norm`` of rows (b t n, c, ...); in training, its statistics leave out the rows of frames past the end.

    Args:
        norm: a batch norm, or what stands for it.
        rows: n tokens of each frame of ``x``, in the order of clips, frames, tokens.
        x: the clips, (b, c, t, h, w).
        lengths: their numbers of frames, (b,), or None.
    """
    if lengths is None or not norm.training:
        return norm(rows)
    frames = existing(x, lengths).flatten()
    exists = frames[:, None].expand(-1, len(rows) // len(frames)).flatten()
    normed = norm(rows[exists])
    return normed.new_zeros(rows.shape).index_put((exists,), normed)
