"""STRF: the static, dynamic, coarse and fine factors of a feature, brought together."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.ffm import FFM, UNITS


class STRF(nn.Module):
    """Four factors of a feature, over time and over space, added to it.

    ``f + expand(sum of units(relu(norm(squeeze(f)))))``, the units being `FFM`. A new unit is the identity
    (its expansion starts at zero), so it can join a trained network, between any two layers.

    Args:
        channels: c of the clip, kept by the unit.
        reduction: the units work on ``channels // reduction`` channels, at least one.
        units: those to keep, of "static", "dynamic", "coarse" and "fine".
        window, grid, dynamic, split, mask, time_padding: see `FFM`.
        residual: whether the feature itself is added; without it a new unit answers zero.

    Shape: (b, c, t, h, w) to the same; any t, h and w of at least 1.
    Raises: ValueError for an unknown unit or value, or a clip of other channels.
    Source: Aich et al., Spatio-Temporal Representation Factorization, ICCV 2021: four units on one feature,
    each an FFM aided by a FAM, their outputs integrated. The equations inside are our reconstruction: it meets
    the published parameter counts, and every choice of ours is an argument.
    """

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        units: Sequence[str] = UNITS,
        window: int | None = 3,
        grid: int | tuple[int, int] = 2,
        dynamic: str = "difference",
        split: bool = True,
        mask: str | None = "product",
        time_padding: str = "replicate",
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
        nn.init.zeros_(self.expand.weight)

    def forward(self, x: Tensor) -> Tensor:
        z = self._squeezed(x)
        factors = sum(unit(z) for unit in self.units.values())
        added = unflatten_time(self.expand(flatten_time(factors)), x.shape[2])
        if not self.residual:
            return added
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling() or added.dtype != x.dtype
        if plain or added.stride() != x.stride():
            return x + added
        return added.add_(x)  # getting memory for the answer takes longer than adding

    def masks(self, x: Tensor) -> dict[str, Tensor]:
        """The mask of each unit on a clip, (b, 1, t, h, w) each, in (0, 1)."""
        z = self._squeezed(x)
        return {name: cast(FFM, unit).mask(z) for name, unit in self.units.items()}

    def _squeezed(self, x: Tensor) -> Tensor:
        check_clip(x, self.channels, weight=self.squeeze.weight)
        return unflatten_time(self.norm(self.squeeze(flatten_time(x))).relu(), x.shape[2])

    def extra_repr(self) -> str:
        return f"{self.channels}" + ("" if self.residual else ", residual=False")
