"""FFM: one factor of a feature, static or dynamic over time, coarse or fine over space."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.fam import FAM, Mask, TimePadding, pad_time
from strfnet.layers.lengths import check_lengths, existing, hold_last, mean_over_time, zero_past_end
from strfnet.system.names import check_choice, check_count, check_flags

Unit = Literal["static", "dynamic", "coarse", "fine"]
Dynamic = Literal["difference", "remainder"]


class FFM(nn.Module):
    """One factor of a feature: ``relu(conv(component)) * mask(component)``.

    ========= ============================================================ ===================
    unit      component of a feature z                                     convolution
    ========= ============================================================ ===================
    static    mean over ``window`` frames, over those that exist           3 taps over time
    dynamic   the next frame minus this one, zero in the last              3 taps over time
    coarse    means over ``grid`` x ``grid`` pixels, at that resolution    3 x 3 over space
    fine      z minus its coarse component, repeated over each cell        3 x 3 over space
    ========= ============================================================ ===================

    The output of the coarse unit is repeated over each cell. The dynamic factor of a clip of equal frames is exactly
    zero, and so is the fine factor of a clip that is constant in every cell.

    Args:
        channels: number of channels, c.
        unit: "static", "dynamic", "coarse" or "fine".
        window: odd number of frames of the static mean. None: the whole clip.
        grid: pixels of a cell along each side, or (rows, columns). Larger than the frame: the whole frame.
        dynamic: "difference" as above, or "remainder": z minus its static component, so that both add up to z.
        split: False convolves z itself, an ablation with the same parameters.
        mask: mask of the `FAM`. None: no mask.
        time_padding: "replicate" or "zeros", for all taps over time.

    Shape: (b, c, t, h, w) -> (b, c, t, h, w).
    Raises: ValueError for an unknown unit or value, or a clip with other channels.
    Source: names and tasks of the four units, Aich et al., STRF, ICCV 2021. Components, convolutions and their
    sizes are our reconstruction; it meets the paper's parameter counts.
    """

    def __init__(
        self,
        channels: int,
        unit: Unit = "static",
        *,
        window: int | None = 3,
        grid: int | tuple[int, int] = 2,
        dynamic: Dynamic = "difference",
        split: bool = True,
        mask: Mask | None = "product",
        time_padding: TimePadding = "replicate",
    ) -> None:
        super().__init__()
        cell = (grid, grid) if isinstance(grid, int) else grid
        check_count("channels", channels)
        check_choice("unit", unit, get_args(Unit))
        check_count("window", window, none="the whole clip")
        if window is not None and window % 2 == 0:
            raise ValueError(f"window must be an odd number of frames, or None for the whole clip, got {window}")
        right = isinstance(cell, Sequence) and len(cell) == 2 and all(type(one) is int and one > 0 for one in cell)
        if not right:
            raise ValueError(f"grid must be one or two numbers of pixels of at least 1, got {grid!r}")
        check_flags(split=split)
        check_choice("dynamic", dynamic, get_args(Dynamic))
        check_choice("time_padding", time_padding, get_args(TimePadding))
        self.channels, self.unit, self.window, self.cell = channels, unit, window, tuple(cell)
        self.dynamic, self.split, self.time_padding = dynamic, split, time_padding
        self.in_time = unit in ("static", "dynamic")
        if self.in_time:
            self.conv = nn.Conv2d(channels, channels, (3, 1), bias=False)
        else:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = None if mask is None else FAM(channels, mask=mask, time_padding=time_padding)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        component = self.component(x, lengths)
        feature = self._convolve(component, lengths).relu()
        if self.attention is not None:
            feature = self.attention(feature, component, lengths)
        return self._repeat(zero_past_end(feature, lengths), x)

    def mask(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the mask of this factor of ``x``, (b, 1, t, h, w)."""
        if self.attention is None:
            raise ValueError("this unit was built with mask=None and has no mask to show")
        return self._repeat(self.attention.mask(self.component(x, lengths), lengths), x)

    def component(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the component of a clip, (b, c, t, h, w); "coarse" has the resolution of its cells."""
        check_clip(x, self.channels, weight=self.conv.weight)
        if lengths is not None:
            check_lengths(lengths, x)
            x = hold_last(x, lengths)
        if not self.split:
            return x
        if self.unit == "static":
            return static_component(x, self.window, lengths)
        if self.unit == "dynamic" and self.dynamic == "difference":
            return next_frame(x) - x
        if self.unit == "dynamic":
            return x - static_component(x, self.window, lengths)
        coarse = coarse_component(x, self.cell)
        return coarse if self.unit == "coarse" else x - self._repeat(coarse, x)

    def _convolve(self, component: Tensor, lengths: Tensor | None) -> Tensor:
        if self.in_time:
            h, w = component.shape[3:]
            return self.conv(pad_time(component.flatten(3), 1, self.time_padding, lengths)).unflatten(3, (h, w))
        return unflatten_time(self.conv(flatten_time(component)), component.shape[2])

    def _repeat(self, feature: Tensor, like: Tensor) -> Tensor:
        """Repeats cells up to the resolution of ``like``; cells at the border are cut."""
        h, w = like.shape[3:]
        if feature.shape[3:] == (h, w):
            return feature
        rows, columns = min(self.cell[0], h), min(self.cell[1], w)
        cells = feature.permute(0, 2, 3, 4, 1)  # the copy below is in channels-last order
        repeated = cells[:, :, :, None, :, None].expand(-1, -1, -1, rows, -1, columns, -1)
        return repeated.flatten(2, 3).flatten(3, 4)[:, :, :h, :w].permute(0, 4, 1, 2, 3)

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.unit!r}"


def static_component(x: Tensor, window: int | None, lengths: Tensor | None = None) -> Tensor:
    """Mean over the ``window`` frames around each frame, over those that exist; None: over all frames."""
    if window is None:
        return mean_over_time(x, lengths).unsqueeze(2).expand_as(x)
    h, w = x.shape[3:]
    means = _window_means(zero_past_end(x, lengths).flatten(3), window)
    if lengths is not None:  # each mean also counts the zeros past the end
        share = _window_means(existing(x, lengths).to(x.dtype).flatten(3), window)
        means = means / share.clamp(min=1 / (2 * window))
    return means.unflatten(3, (h, w))


def _window_means(x: Tensor, window: int) -> Tensor:
    return F.avg_pool2d(x, (window, 1), 1, (window // 2, 0), count_include_pad=False)


def next_frame(x: Tensor) -> Tensor:
    """The clip shifted by one frame; its last frame is repeated."""
    return torch.cat([x, x[:, :, -1:]], dim=2)[:, :, 1:]


def coarse_component(x: Tensor, cell: tuple[int, ...]) -> Tensor:
    """Means over cells of pixels, (b, c, t, ceil(h / rows), ceil(w / columns)); cells at the border are smaller."""
    size = [min(side, pixels) for side, pixels in zip(cell, x.shape[3:], strict=True)]
    return unflatten_time(
        F.avg_pool2d(flatten_time(x), size, size, ceil_mode=True, count_include_pad=False), x.shape[2]
    )
