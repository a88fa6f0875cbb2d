"""STRF: the static, dynamic, coarse and fine factors of a feature, added to it."""

from collections.abc import Collection, Sequence
from functools import reduce
from typing import cast, get_args

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.fam import Mask, TimePadding
from strfnet.layers.ffm import FFM, Dynamic, Unit
from strfnet.layers.lengths import check_lengths, norm_of_existing, zero_past_end
from strfnet.system.names import check_count, check_flags

UNITS: tuple[Unit, ...] = get_args(Unit)
DEFAULT_REDUCTION, FEWEST = 16, 2


class STRF(nn.Module):
    """Four factors of a feature, over time and over space, added to it.

    ``x + expand(sum of units(relu(norm(squeeze(x)))))``; each unit is an `FFM`. The unit starts as the identity,
    because the weight of ``expand`` is zero. It can be inserted between any two layers of a trained network.

    Args:
        channels: number of input and output channels, c.
        reduction: the units work on ``channels // reduction`` channels, at least one. Default: 16, but at least two
            channels are left.
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
        reduction: int | None = None,
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
        divisor = DEFAULT_REDUCTION if reduction is None else reduction
        check_count("channels", channels)
        check_count("reduction", divisor)
        check_flags(residual=residual)
        known = isinstance(units, Collection) and not isinstance(units, str) and all(one in UNITS for one in units)
        if not known or not units or len(set(units)) != len(units):
            raise ValueError(f"units must be some of {UNITS}, each once, got {units!r}")
        inner = max(channels // divisor, min(FEWEST, channels) if reduction is None else 1)
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

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        added = self.factors(x, lengths)
        return zero_past_end(x, lengths) + added if self.residual else added

    def factors(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the sum of the units, expanded to (b, c, t, h, w)."""
        z = self._squeeze(self._checked(x, lengths), lengths)
        total = reduce(torch.add, [unit(z, lengths) for unit in self.units.values()])
        return unflatten_time(self.expand(flatten_time(total)), x.shape[2])

    def masks(self, x: Tensor, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Returns the mask of each unit on a clip, (b, 1, t, h, w) each, in (0, 1)."""
        z = self._squeeze(self._checked(x, lengths), lengths)
        return {name: cast(FFM, unit).mask(z, lengths) for name, unit in self.units.items()}

    def _checked(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        check_clip(x, self.channels, weight=self.squeeze.weight)
        if lengths is not None:
            check_lengths(lengths, x)
        return zero_past_end(x, lengths)

    def _squeeze(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        squeezed = norm_of_existing(self.norm, self.squeeze(flatten_time(x)), x, lengths)
        return unflatten_time(squeezed.relu(), x.shape[2])

    def extra_repr(self) -> str:
        return f"{self.channels}" + ("" if self.residual else ", residual=False")
