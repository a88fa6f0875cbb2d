"""Passes that need less memory at a time: outputs written over inputs, and attention in chunks of queries.

A pass changes a network for evaluation in place and returns how many modules it changed. Getting memory for a large
output takes longer than computing it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from strfnet.inflation.extension import Extension, extend
from strfnet.layers.attention import choose_attention
from strfnet.layers.strf import STRF


def norms_in_place(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Lets each remaining ``nn.BatchNorm2d`` on a CPU write its output over its input.

    The output is wrong where another layer reads the norm's input as well, so check it, as `optimize` does. On a GPU
    this would be seven kernels instead of one.
    """
    norms = [
        module
        for module in network.modules()
        if type(module) is nn.BatchNorm2d and module.running_mean is not None and module.running_mean.is_cpu
    ]
    for norm in norms:
        extend(norm, NormInPlace)
    return len(norms)


def add_in_place(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Lets each `STRF` add its input to its factors in place."""
    units = [module for module in network.modules() if type(module) is STRF and module.residual]
    for unit in units:
        extend(unit, SumInPlace)
    return len(units)


def chunk_attention(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Lets layers attend in chunks of queries where the device is slow at fused attention (see `attention_form`)."""
    return choose_attention(network)


class NormInPlace(Extension):
    """A batch norm that writes its output over its input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        scale = (self.running_var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.affine:
            shift = shift + self.bias
        out = None if torch.compiler.is_compiling() else x  # PyTorch 2.13 does not compile it for a channels-last x
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=out)


class SumInPlace(Extension):
    """An `STRF` that adds its input to its factors in place."""

    def forward(self: Any, x: Tensor) -> Tensor:
        added: Tensor = self.factors(x)
        return added.add_(x)
