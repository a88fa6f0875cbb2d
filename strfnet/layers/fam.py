"""FAM: the mask that weighs a factorized feature."""

from functools import reduce
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import check_lengths, hold_last, mean_over_time, zero_past_end
from strfnet.system.names import check_choice, check_count

Mask = Literal["product", "time", "space", "joint"]
TimePadding = Literal["replicate", "zeros"]


class FAM(nn.Module):
    """A feature multiplied by a mask in (0, 1) over frames and pixels, computed from a feature's magnitude.

    ``x * sigmoid(over_time(mean of |x| over pixels)) * sigmoid(over_space(mean of |x| over frames))``, with three
    taps over time and a 1x1 convolution over space. Magnitudes are averaged, not values, because a difference has a
    mean near zero.

    Args:
        channels: number of channels, c.
        mask: "product" as above; "time" or "space" for one of the two factors; "joint" for one sigmoid at every
            pixel of every frame.
        time_padding: values of the taps beyond the first and last frame: "replicate" (that frame again, so that a
            clip of equal frames gets equal masks) or "zeros".

    Shape: (b, c, t, h, w) -> (b, c, t, h, w).
    Raises: ValueError for an unknown mask or padding, or a clip with other channels.
    Source: name and purpose, Aich et al., STRF, ICCV 2021. The equations are our reconstruction.
    """

    def __init__(self, channels: int, *, mask: Mask = "product", time_padding: TimePadding = "replicate") -> None:
        super().__init__()
        check_count("channels", channels)
        check_choice("mask", mask, get_args(Mask))
        check_choice("time_padding", time_padding, get_args(TimePadding))
        self.channels, self.kind, self.time_padding = channels, mask, time_padding
        self.over_time = nn.Conv1d(channels, 1, 3) if mask in ("product", "time") else None
        self.over_space = nn.Conv2d(channels, 1, 1) if mask in ("product", "space") else None
        self.over_both = nn.Conv2d(channels, 1, 1) if mask == "joint" else None

    def forward(self, x: Tensor, component: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        """``x`` multiplied by the mask of ``component``, a clip of the same shape. Default: the mask of ``x``."""
        if component is not None and component.shape != x.shape:
            raise ValueError(f"component must have the shape of x, {tuple(x.shape)}, got {tuple(component.shape)}")
        mask = self.mask(x if component is None else component, lengths)
        return zero_past_end(x, lengths) * mask

    def mask(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the mask of a clip, (b, 1, t, h, w), in (0, 1)."""
        conv = self.over_time or self.over_space or self.over_both
        check_clip(x, self.channels, weight=getattr(conv, "weight", None))
        t, h, w = x.shape[2:]
        if lengths is not None:
            check_lengths(lengths, x)
        magnitude = zero_past_end(x, lengths).abs()
        if self.over_both is not None:
            frames = self.over_both(magnitude.transpose(1, 2).flatten(0, 1))
            return frames.unflatten(0, (-1, t)).transpose(1, 2).sigmoid()
        masks = []
        if self.over_time is not None:
            means = pad_time(magnitude.mean(dim=(3, 4)), 1, self.time_padding, lengths)
            masks.append(self.over_time(means).sigmoid()[..., None, None])
        if self.over_space is not None:
            masks.append(self.over_space(mean_over_time(magnitude, lengths)).sigmoid()[:, :, None])
        return reduce(torch.mul, masks).expand(-1, -1, t, h, w)

    def extra_repr(self) -> str:
        return f"{self.channels}, mask={self.kind!r}, time_padding={self.time_padding!r}"


def pad_time(x: Tensor, frames: int, time_padding: TimePadding, lengths: Tensor | None = None) -> Tensor:
    """Pads a feature whose axis 2 is time by ``frames`` frames on either side, and in all frames past the end."""
    if time_padding == "zeros":
        return F.pad(zero_past_end(x, lengths), (0, 0) * (x.ndim - 3) + (frames, frames))
    x = hold_last(x, lengths)
    return torch.cat([x[:, :, :1]] * frames + [x] + [x[:, :, -1:]] * frames, dim=2)
