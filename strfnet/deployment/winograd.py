"""The pass that computes 3x3 convolutions with a quarter of the multiplications.

Winograd's F(4x4, 3x3), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016,
arXiv:1509.09308: a tile of 6x6 pixels and the kernel are evaluated at five points and at infinity in either direction
and multiplied there, and the tile of 4x4 outputs is interpolated. A tile takes 36 products a pair of channels instead
of 144, computed as 36 products of matrices. Where a map has two rows or columns at most, a tile has two outputs along
that side and takes the products at four of the points: 0, the first pair and infinity.

The points are ours: 0, ±3/4, ±3/2 and infinity. With the usual 0, ±1 and ±2 the error is five times as large; with
these it is that of a direct convolution in float32. In bfloat16 it is 1.3 % of the output, and 0.2 % of a direct one;
of points with as small an error, these have transforms that bfloat16 rounds least.
"""

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.deployment.fusion import CONVOLUTIONS
from strfnet.inflation.extension import Extension, extend, own_class
from strfnet.system.compat import CustomConvolution

POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
DTYPES = (torch.float32, torch.bfloat16)
TILE, NARROW = 4, 2  # outputs along a side of a tile, and on maps that are as narrow
SEEN = TILE + 2  # points along a side of a kernel
FEWEST = 128  # channels; with fewer, the transforms take longer than the products save
AT_A_TIME = 4096  # pixels, or one frame: what is transformed at a time stays in the cache


def use_winograd(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Computes 3x3 convolutions by Winograd's algorithm; kernels take four times the memory.

    The algorithm applies to 3x3 convolutions in float32 or bfloat16 on the CPU with stride 1, zero padding of 1 and
    at least 128 input and output channels. Returns the number of convolutions that were changed.
    """
    found = [module for module in network.modules() if is_suited(module)]
    for conv in found:
        transform(conv)
    return len(found)


def is_suited(module: nn.Module) -> bool:
    """Whether Winograd's algorithm applies to this convolution. Subclasses may compute something else."""
    return (
        isinstance(module, nn.Conv2d)
        and own_class(module) in CONVOLUTIONS
        and module.weight.shape[2:] == (3, 3)
        and module.weight.dtype in DTYPES
        and module.weight.device.type == "cpu"
        and module.padding_mode == "zeros"
        and (module.stride, module.padding, module.dilation, module.groups) == ((1, 1), (1, 1), (1, 1), 1)
        and min(module.in_channels, module.out_channels) >= FEWEST
    )


def transform(conv: Any) -> None:
    """Replaces the kernel of ``conv`` by its values at the points and extends it by `Winograd`, in place."""
    kernel = matrices()[1]
    points = torch.einsum("pa,qb,oiab->pqio", kernel, kernel, conv.weight.detach().double())
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(points.flatten(0, 1).to(dtype), requires_grad=False)
    for down, across in product((NARROW, TILE), repeat=2):
        for name, at in (("input", 0), ("output", 2)):
            both = torch.kron(matrices(down)[at], matrices(across)[at]).to(dtype)
            conv.register_buffer(f"{name}_{down}x{across}", both, persistent=False)
    extend(conv, Winograd)


class Winograd(Extension, CustomConvolution):
    """A convolution whose ``weight`` holds its kernel at the 36 points, (36, i, o)."""

    def convolve_frames(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        at_a_time = max(1, AT_A_TIME // (frames.shape[2] * frames.shape[3]))
        with torch.autocast(frames.device.type, enabled=False):  # products in half precision would be far off
            parts = [self._convolved(part, weight, bias) for part in frames.to(weight.dtype).split(at_a_time)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _convolved(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, c, h, w = frames.shape
        down, across = (NARROW if size <= NARROW else TILE for size in (h, w))
        rows, columns = -(-h // down), -(-w // across)
        around = (0, 0, 1, across * columns - w + 1, 1, down * rows - h + 1)
        pixels = F.pad(frames.permute(0, 2, 3, 1), around)
        tiles = pixels.unfold(1, down + 2, down).unfold(2, across + 2, across)  # n, rows, columns, c, 6, 6
        at = [SEEN * y + x for y in points_of(down) for x in points_of(across)]
        points = getattr(self, f"input_{down}x{across}") @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(len(at), -1)
        points = points.view(len(at), -1, c)
        if len(at) == len(weight):
            products = points @ weight
        else:  # without a copy of these kernels
            products = torch.stack([one @ weight[point] for one, point in zip(points, at, strict=True)])
        outputs = getattr(self, f"output_{down}x{across}") @ products.flatten(1)
        outputs = outputs.view(down, across, n, rows, columns, -1)
        maps = outputs.permute(2, 3, 0, 4, 1, 5).reshape(n, down * rows, across * columns, -1)
        maps = maps[:, :h, :w].permute(0, 3, 1, 2)
        return maps if bias is None else maps + bias[:, None, None]


def points_of(outputs: int) -> list[int]:
    """Returns the points along a side with so many outputs, as indices of ``POINTS``; the last is infinity."""
    return [*range(outputs + 1), len(POINTS)]


def matrices(outputs: int = TILE) -> tuple[Tensor, Tensor, Tensor]:
    """Transforms of k pixels (k, k) and of a kernel (k, 3) to k points, and of points to k - 2 outputs (k - 2, k)."""

    def at_points(terms: int) -> Tensor:
        """Each power of x below ``terms`` at the points; at infinity only the highest counts."""
        highest = torch.zeros(1, terms, dtype=torch.float64)
        highest[0, -1] = 1
        powers = torch.tensor(POINTS[: outputs + 1], dtype=torch.float64)[:, None] ** torch.arange(terms)
        return torch.cat([powers, highest])

    return torch.linalg.inv(at_points(outputs + 2)).T, at_points(3), at_points(outputs).T
