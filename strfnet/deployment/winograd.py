"""The pass that computes 3x3 convolutions with a quarter of the multiplications.

Winograd's F(4x4, 3x3), as in Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016,
arXiv:1509.09308: a tile of 6x6 pixels and the kernel are evaluated at five points and at infinity in either direction
and multiplied there, and the tile of 4x4 outputs is interpolated. A tile takes 36 products a pair of channels instead
of 144, computed as 36 products of matrices.

The points are ours: 0, ±3/4, ±3/2 and infinity. With the usual 0, ±1 and ±2 the error is five times as large; with
these it is that of a direct convolution in float32. In bfloat16 it is 1.3 % of the output, and 0.2 % of a direct one;
of points with as small an error, these have transforms that bfloat16 rounds least.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.deployment.fusion import CONVOLUTIONS
from strfnet.inflation.extension import Extension, extend, own_class
from strfnet.system.compat import CustomConvolution

POINTS = (0, 3 / 4, -3 / 4, 3 / 2, -3 / 2)
DTYPES = (torch.float32, torch.bfloat16)
TILE, SEEN = 4, 6  # pixels along a side of a tile of outputs, and of its inputs
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
    input_transform, kernel, output_transform = matrices()
    points = torch.einsum("pa,qb,oiab->pqio", kernel, kernel, conv.weight.detach().double())
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(points.flatten(0, 1).to(dtype), requires_grad=False)
    for name, matrix in {"input_transform": input_transform, "output_transform": output_transform}.items():
        conv.register_buffer(name, torch.kron(matrix, matrix).to(dtype), persistent=False)
    extend(conv, Winograd)


class Winograd(Extension, CustomConvolution):
    """A convolution whose ``weight`` holds its kernel at the 36 points, (36, i, o)."""

    input_transform: Tensor
    output_transform: Tensor

    def convolve_frames(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        at_a_time = max(1, AT_A_TIME // (frames.shape[2] * frames.shape[3]))
        with torch.autocast(frames.device.type, enabled=False):  # products in half precision would be far off
            parts = [self._convolved(part, weight, bias) for part in frames.to(weight.dtype).split(at_a_time)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _convolved(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        n, c, h, w = frames.shape
        rows, columns = -(-h // TILE), -(-w // TILE)
        around = (0, 0, 1, TILE * columns - w + 1, 1, TILE * rows - h + 1)
        pixels = F.pad(frames.permute(0, 2, 3, 1), around)
        tiles = pixels.unfold(1, SEEN, TILE).unfold(2, SEEN, TILE)  # n, rows, columns, c, 6, 6
        points = self.input_transform @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(SEEN**2, -1)
        products = points.view(SEEN**2, -1, c) @ weight
        outputs = (self.output_transform @ products.flatten(1)).view(TILE, TILE, n, rows, columns, -1)
        maps = outputs.permute(2, 3, 0, 4, 1, 5).reshape(n, TILE * rows, TILE * columns, -1)
        maps = maps[:, :h, :w].permute(0, 3, 1, 2)
        return maps if bias is None else maps + bias[:, None, None]


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Transforms of six pixels (6, 6) and of a kernel (6, 3) to the points, and of points to four outputs (4, 6)."""

    def at_points(terms: int) -> Tensor:
        """Each power of x below ``terms`` at the points; at infinity only the highest counts."""
        highest = torch.zeros(1, terms, dtype=torch.float64)
        highest[0, -1] = 1
        powers = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(terms)
        return torch.cat([powers, highest])

    return torch.linalg.inv(at_points(SEEN)).T, at_points(3), at_points(TILE).T
