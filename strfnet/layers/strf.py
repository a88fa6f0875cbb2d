"""STRF: the static, dynamic, coarse and fine factors of a feature, added to it."""

from collections.abc import Sequence
from functools import reduce
from typing import cast, get_args

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.fam import Mask, TimePadding
from strfnet.layers.ffm import FFM, Dynamic, Unit

UNITS: tuple[Unit, ...] = get_args(Unit)


class STRF(nn.Module):
    """Four factors of a feature, over time and over space, added to it.

    ``x + expand(sum of units(relu(norm(squeeze(x)))))``; each unit is an `FFM`. The unit starts as the identity,
    because the weight of ``expand`` is zero. It can be inserted between any two layers of a trained network.

    Args:
        channels: number of input and output channels, c.
        reduction: the units work on ``channels // reduction`` channels, at least one.
        units: which of "static", "dynamic", "coarse" and "fine" to use.
        window, grid, dynamic, split, mask, time_padding: see `FFM`.
        residual: add the input. False: a new unit returns zeros.

    Shape: (b, c, t, h, w) -> (b, c, t, h, w); t, h and w at least 1.
    Raises: ValueError for an unknown unit or value, or a clip with other channels.
    Source: Aich et al., Spatio-Temporal Representation Factorization, ICCV 2021: four units on one feature,
    each an FFM with a FAM. The equations inside are our reconstruction: it meets the published parameter counts,
    and every choice of ours is an argument.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        units: Sequence[Unit] = UNITS,
        window: int | None = 3,
        grid: int | tuple[int, int] = 2,
        dynamic: Dynamic = "difference",
        split: bool = True,
        mask: Mask | None = "product",
        time_padding: TimePadding = "replicate",
        residual: bool = True,
    ) -> None:
        super().__init__()
        if channels < 1 or reduction < 1:
            raise ValueError(f"channels and reduction must be at least 1, got {channels} and {reduction}")
        if isinstance(units, str) or not units or len(set(units)) != len(units):
            raise ValueError(f"units must be some of {UNITS}, each once, got {units!r}")
        inner = max(channels // reduction, 1)
        self.channels, self.residual = channels, residual
        self.squeeze = nn.Conv2d(channels, inner, 1, bias=False)
        self.norm = nn.BatchNorm2d(inner)
        self.units = nn.ModuleDict(
            {
                unit: FFM(
                    inner,
                    unit,
                    window=window,
                    grid=grid,
                    dynamic=dynamic,
                    split=split,
                    mask=mask,
                    time_padding=time_padding,
                )
                for unit in units
            }
        )
        self.expand = nn.Conv2d(inner, channels, 1, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes the unit the identity; its other layers have a ``reset_parameters`` of their own."""
        nn.init.zeros_(self.expand.weight)

    def forward(self, x: Tensor) -> Tensor:
        added = self.factors(x)
        return x + added if self.residual else added

    def factors(self, x: Tensor) -> Tensor:
        """Returns the sum of the units, expanded to (b, c, t, h, w)."""
        z = self._squeeze(x)
        total = reduce(torch.add, [unit(z) for unit in self.units.values()])
        return unflatten_time(self.expand(flatten_time(total)), x.shape[2])

    def masks(self, x: Tensor) -> dict[str, Tensor]:
        """Returns the mask of each unit on a clip, (b, 1, t, h, w) each, in (0, 1)."""
        z = self._squeeze(x)
        return {name: cast(FFM, unit).mask(z) for name, unit in self.units.items()}

    def _squeeze(self, x: Tensor) -> Tensor:
        check_clip(x, self.channels, weight=self.squeeze.weight)
        return unflatten_time(self.norm(self.squeeze(flatten_time(x))).relu(), x.shape[2])

    def extra_repr(self) -> str:
        return f"{self.channels}" + ("" if self.residual else ", residual=False")
