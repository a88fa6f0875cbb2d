"""FAM: the mask that weighs a factorized feature."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip

MASKS = ("product", "time", "space", "joint")


class FAM(nn.Module):
    """A feature weighed by a mask in (0, 1) over frames and places, made from a feature's magnitude.

    The mask is a sigmoid over frames (three taps over the mean of all places) times a sigmoid over places
    (one tap over the mean of all frames). Magnitudes are averaged, not values: what is a difference has a mean
    near zero, which would leave the mask nothing to see.

    Args:
        channels: c of the clip.
        mask: "product" as above; "time" or "space" for one of the two factors alone; "joint" for one sigmoid
            at every place of every frame.
        time_padding: what the taps over frames see beyond the first and last: "replicate" (those frames
            again, so that a clip of equal frames gets equal masks) or "zeros".

    Shape: (b, c, t, h, w) to the same.
    Raises: ValueError for an unknown form or padding, or a clip of other channels.
    Source: the name and the task are of Aich et al., STRF, ICCV 2021. The equations are our reconstruction.
    """

    def __init__(self, channels: int, *, mask: str = "product", time_padding: str = "replicate") -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {', '.join(MASKS)}, got {mask!r}")
        check_time_padding(time_padding)
        self.channels, self.kind, self.time_padding = channels, mask, time_padding
        self.over_time = nn.Conv1d(channels, 1, 3) if mask in ("product", "time") else None
        self.over_space = nn.Conv2d(channels, 1, 1) if mask in ("product", "space") else None
        self.over_both = nn.Conv2d(channels, 1, 1) if mask == "joint" else None

    def forward(self, x: Tensor, band: Tensor | None = None) -> Tensor:
        """``x`` weighed by the mask of ``band``, a clip of the same shape, or by its own."""
        if band is not None and band.shape != x.shape:
            raise ValueError(f"band must have the shape of x, {tuple(x.shape)}, got {tuple(band.shape)}")
        return x * self.mask(x if band is None else band)

    def mask(self, x: Tensor) -> Tensor:
        """The mask of a clip, (b, 1, t, h, w), in (0, 1)."""
        check_clip(x, self.channels, weight=next(self.parameters(), None))  # replicas of DataParallel have none
        t, h, w = x.shape[2:]
        magnitude = x.abs()
        if self.over_both is not None:
            frames = self.over_both(magnitude.transpose(1, 2).flatten(0, 1))
            return frames.unflatten(0, (-1, t)).transpose(1, 2).sigmoid()
        mask = x.new_ones(())
        if self.over_time is not None:
            means = pad_time(magnitude.mean(dim=(3, 4)), 1, self.time_padding)
            mask = mask * self.over_time(means).sigmoid()[..., None, None]
        if self.over_space is not None:
            mask = mask * self.over_space(magnitude.mean(dim=2)).sigmoid()[:, :, None]
        return mask.expand(-1, -1, t, h, w)

    def extra_repr(self) -> str:
        return f"{self.channels}, mask={self.kind!r}, time_padding={self.time_padding!r}"


def check_time_padding(time_padding: str) -> None:
    """Refuse anything but the two paddings in time."""
    if time_padding not in ("replicate", "zeros"):
        raise ValueError(f'time_padding must be "replicate" or "zeros", got {time_padding!r}')


def pad_time(x: Tensor, frames: int, time_padding: str) -> Tensor:
    """``frames`` more frames before and after a feature whose axis 2 is time."""
    if time_padding == "zeros":
        return F.pad(x, (0, 0) * (x.ndim - 3) + (frames, frames))
    return torch.cat([x[:, :, :1]] * frames + [x] + [x[:, :, -1:]] * frames, dim=2)
