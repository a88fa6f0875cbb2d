"""FFM: one factor of a feature, static or dynamic over time, coarse or fine over space."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.fam import FAM, check_time_padding, pad_time

UNITS = ("static", "dynamic", "coarse", "fine")
DYNAMICS = ("difference", "remainder")


class FFM(nn.Module):
    """One factor of a feature: its band, a small convolution, and the mask of that band.

    ========= ============================================================ ===================
    unit      band b of a feature z                                        convolution
    ========= ============================================================ ===================
    static    mean over ``window`` frames, over those that exist           3 taps over time
    dynamic   the next frame minus this one, zero in the last              3 taps over time
    coarse    means over ``grid`` x ``grid`` pixels, at that resolution    3 x 3 over space
    fine      z minus its coarse band, each cell's mean repeated           3 x 3 over space
    ========= ============================================================ ===================

    The answer is ``relu(convolution(b)) * mask(b)``; that of the coarse unit is repeated over each cell. A
    clip that does not change has a dynamic factor of exactly zero, one that is constant in every cell a fine one.

    Args:
        channels: c of the clip.
        unit: "static", "dynamic", "coarse" or "fine".
        window: frames of the static mean, odd; None for the whole clip.
        grid: pixels of a cell along each side, or (rows, columns); no more than the frame has.
        dynamic: "difference" as above, or "remainder": z minus its static band, so that both add up to z.
        split: False leaves the band out and convolves z itself, an ablation of the same size.
        mask: form of the `FAM`, or None to weigh by nothing.
        time_padding: "replicate" or "zeros", for the taps over time, the mask's included.

    Shape: (b, c, t, h, w) to the same.
    Raises: ValueError for an unknown unit or value, or a clip of other channels.
    Source: the names and tasks of the four units are of Aich et al., STRF, ICCV 2021. Bands, convolutions and
    their sizes are our reconstruction, with the paper's parameter counts as its measure.
    """

    def __init__(
        self,
        channels: int,
        unit: str = "static",
        *,
        window: int | None = 3,
        grid: int | tuple[int, int] = 2,
        dynamic: str = "difference",
        split: bool = True,
        mask: str | None = "product",
        time_padding: str = "replicate",
    ) -> None:
        super().__init__()
        cell = (grid, grid) if isinstance(grid, int) else tuple(grid)
        if channels < 1:
            raise ValueError(f"channels must be at least 1, got {channels}")
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
        if window is not None and (window < 1 or window % 2 == 0):
            raise ValueError(f"window must be an odd number of frames, or None for the whole clip, got {window}")
        if len(cell) != 2 or min(cell) < 1:
            raise ValueError(f"grid must be one or two numbers of pixels of at least 1, got {grid}")
        if dynamic not in DYNAMICS:
            raise ValueError(f"dynamic must be one of {', '.join(DYNAMICS)}, got {dynamic!r}")
        check_time_padding(time_padding)
        self.channels, self.unit, self.window, self.cell = channels, unit, window, cell
        self.dynamic, self.split, self.time_padding = dynamic, split, time_padding
        self.in_time = unit in ("static", "dynamic")
        if self.in_time:
            self.conv = nn.Conv2d(channels, channels, (3, 1), bias=False)
        else:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = None if mask is None else FAM(channels, mask=mask, time_padding=time_padding)

    def forward(self, x: Tensor) -> Tensor:
        band = self.band(x)
        feature = self._convolved(band).relu()
        if self.attention is not None:
            feature = self.attention(feature, band)
        return self._repeated(feature, x)

    def mask(self, x: Tensor) -> Tensor:
        """The mask that weighs this factor of ``x``, (b, 1, t, h, w)."""
        if self.attention is None:
            raise ValueError("this unit was built with mask=None and has no mask to show")
        return self._repeated(self.attention.mask(self.band(x)), x)

    def band(self, x: Tensor) -> Tensor:
        """What the unit sees of a clip: (b, c, t, h, w), the coarse one at the resolution of its cells."""
        check_clip(x, self.channels, weight=self.conv.weight)
        if not self.split:
            return x
        if self.unit == "static":
            return static_band(x, self.window)
        if self.unit == "dynamic":
            return next_frame(x) - x if self.dynamic == "difference" else x - static_band(x, self.window)
        coarse = coarse_band(x, self.cell)
        return coarse if self.unit == "coarse" else x - self._repeated(coarse, x)

    def _convolved(self, band: Tensor) -> Tensor:
        if self.in_time:
            h, w = band.shape[3:]
            return self.conv(pad_time(band.flatten(3), 1, self.time_padding)).unflatten(3, (h, w))
        return unflatten_time(self.conv(flatten_time(band)), band.shape[2])

    def _repeated(self, feature: Tensor, like: Tensor) -> Tensor:
        """``feature`` at the resolution of ``like``: cells repeated, those at the border cut."""
        h, w = like.shape[3:]
        if feature.shape[3:] == (h, w):
            return feature
        for axis, size, cell in ((3, h, self.cell[0]), (4, w, self.cell[1])):
            pixels = torch.arange(size, device=feature.device) // min(cell, size)
            feature = feature.index_select(axis, pixels)
        return feature

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.unit!r}"


def static_band(x: Tensor, window: int | None) -> Tensor:
    """The mean over ``window`` frames around each, over those that exist; over all if None."""
    if window is None:
        return x.mean(dim=2, keepdim=True).expand_as(x)
    h, w = x.shape[3:]
    means = F.avg_pool2d(x.flatten(3), (window, 1), 1, (window // 2, 0), count_include_pad=False)
    return means.unflatten(3, (h, w))


def next_frame(x: Tensor) -> Tensor:
    """The clip one frame on; its last frame stays."""
    t = x.shape[2]
    return x.index_select(2, torch.arange(1, t + 1, device=x.device).clamp(max=t - 1))


def coarse_band(x: Tensor, cell: tuple[int, ...]) -> Tensor:
    """Means over cells of pixels, (b, c, t, ceil(h / rows), ceil(w / columns)); smaller cells at the border."""
    size = [min(side, pixels) for side, pixels in zip(cell, x.shape[3:], strict=True)]
    return unflatten_time(
        F.avg_pool2d(flatten_time(x), size, size, ceil_mode=True, count_include_pad=False), x.shape[2]
    )
