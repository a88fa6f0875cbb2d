"""Pooling of feature maps over frames and pixels, (b, c, t, h, w) to (b, c), by name or as a module."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.lengths import check_lengths, existing, mean_over_time, zero_past_end
from strfnet.system.names import check_count, check_flags, check_number

Pooling = Literal["mean", "max", "max_mean", "gem", "attention"]
Pooler = Callable[..., Tensor]


class GeM(nn.Module):
    """Generalised mean over frames and pixels: ``mean(max(x, eps) ** p) ** (1 / p)``.

    ``p = 1`` is the mean of positive maps. With growing p the output approaches their maximum, which ``math.inf``
    gives.

    Args:
        p: exponent, above 0.
        trained: whether p is a parameter that is trained.
        eps: lower bound of the values.

    Shape: (b, c, t, h, w) -> (b, c); with ``lengths`` (b,), over the frames that exist.
    Raises: ValueError for ``p`` or ``eps`` of 0 or less.
    Source: Radenovic et al., TPAMI 2018, arXiv:1711.02512. Ours: the mean runs over frames too; values are divided
    by their maximum first, so that no power overflows.
    """

    def __init__(self, p: float = 3.0, *, trained: bool = True, eps: float = 1e-6) -> None:
        super().__init__()
        if not (isinstance(p, float) and p == math.inf):  # the maximum
            check_number("p", p, least=0, above=True)
        check_number("eps", eps, least=0, above=True)
        check_flags(trained=trained)
        self.eps = eps
        self.p = nn.Parameter(torch.tensor(float(p)), requires_grad=trained)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_clip(x)
        values = _checked(x, lengths).clamp(min=self.eps)
        scale = values.detach().amax(dim=(2, 3, 4), keepdim=True)
        powers = (values / scale).pow(self.p).mean(dim=(3, 4))
        return scale.flatten(1) * mean_over_time(powers, lengths).pow(1 / self.p)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"


class FrameAttention(nn.Module):
    """Mean over pixels, then a mean over frames whose weights are a softmax of a linear score of each frame.

    It starts as the mean, because the weight of ``score`` is zero.

    Args:
        channels: number of channels, c.

    Shape: (b, c, t, h, w) -> (b, c); with ``lengths`` (b,), over the frames that exist.
    Source: temporal attention of Gao and Nevatia, 2018, arXiv:1805.02104, in its simplest form, which is ours.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_count("channels", channels)
        self.channels = channels
        self.score = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_clip(x, self.channels, weight=self.score.weight)
        frames = _checked(x, lengths).mean(dim=(3, 4))
        scores = self.score(frames.mT).mT
        if lengths is not None:
            scores = scores.masked_fill(~existing(scores, lengths), -math.inf)
        return (frames * scores.softmax(dim=2)).sum(dim=2)


def mean(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The mean over frames and pixels."""
    return (
        x.mean(dim=(2, 3, 4)) if lengths is None else mean_over_time(_checked(x, lengths).mean(dim=(3, 4)), lengths)
    )


def maximum(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The maximum over frames and pixels."""
    if lengths is not None:
        x = x.masked_fill(~existing(_checked(x, lengths), lengths), -math.inf)
    return x.amax(dim=(2, 3, 4))


def mean_of_maxima(x: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The maximum over pixels, then the mean over frames."""
    frames = flatten_time(_checked(x, lengths))
    maxima = F.max_pool2d(frames, x.shape[3:])  # ten times as fast as a reduction over two axes
    return mean_over_time(unflatten_time(maxima, x.shape[2]), lengths).flatten(1)


def make_pooler(pooling: Pooling, channels: int) -> Pooler:
    """Returns the pooling of that name, for maps of ``channels`` channels."""
    functions: dict[str, Pooler] = {"mean": mean, "max": maximum, "max_mean": mean_of_maxima}
    if pooling in functions:
        return functions[pooling]
    return GeM() if pooling == "gem" else FrameAttention(channels)


def _checked(x: Tensor, lengths: Tensor | None) -> Tensor:
    if lengths is not None:
        check_lengths(lengths, x)
    return zero_past_end(x, lengths)
