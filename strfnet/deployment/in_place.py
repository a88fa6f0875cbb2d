"""Passes that need less memory at a time: outputs written over inputs, and attention in chunks of queries.

A pass changes a network for evaluation in place and returns how many modules it changed. Getting memory for a large
output takes longer than computing it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from strfnet.deployment.fusion import has_statistics
from strfnet.inflation.extension import Extension, extend, own_class
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.system.compat import multiplies_bfloat16

CHUNK = 512  # queries


def norms_in_place(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Lets each remaining ``nn.BatchNorm2d`` write its output over its input.

    The output is wrong where another layer reads the norm's input as well, so check it, as `optimize` does.
    """
    norms = [module for module in network.modules() if type(module) is nn.BatchNorm2d and has_statistics(module)]
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
    """Lets non-local blocks in bfloat16 attend in chunks of queries, on CPUs that multiply bfloat16 matrices.

    There a product of matrices is faster than PyTorch's fused attention.
    """
    if not multiplies_bfloat16():
        return 0
    blocks = [
        module
        for module in network.modules()
        if own_class(module) is NonLocalBlock
        and all(weight.dtype == torch.bfloat16 and weight.is_cpu for weight in module.parameters())
    ]
    for block in blocks:
        extend(block, ChunkedAttention)
    return len(blocks)


class NormInPlace(Extension):
    """A batch norm that writes its output over its input."""

    def forward(self: Any, x: Tensor) -> Tensor:
        scale = (self.running_var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.affine:
            shift = shift + self.bias
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


class SumInPlace(Extension):
    """An `STRF` that adds its input to its factors in place."""

    def forward(self: Any, x: Tensor) -> Tensor:
        added: Tensor = self.factors(x)
        return added.add_(x)


class ChunkedAttention(Extension):
    """A non-local block whose queries attend in chunks."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
        gathered = []
        for chunk in query.split(CHUNK, dim=2):
            affinity = chunk @ key.mT
            if exists is not None:
                affinity = affinity.masked_fill(~exists, float("-inf"))
            gathered.append(affinity.softmax(dim=-1) @ value)
        return torch.cat(gathered, dim=2)
