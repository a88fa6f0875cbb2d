"""3x3 convolutions with a quarter of the multiplications, for evaluation.

Winograd's F(4x4, 3x3), as Lavin and Gray brought it to convolutional networks (CVPR 2016): a tile of 6x6 pixels
and the kernel are both evaluated at five points and at infinity in either direction, multiplied there, and the tile
of 4x4 answers is interpolated. That is 36 products for a tile and a pair of channels in place of 144, done as 36
products of matrices.

The points are ours: 0, ±5/7, ±7/5 and infinity. With the usual 0, ±1 and ±2 the answers are five times as far from
the exact ones; with these they are as close as those of a direct convolution in float32.
"""

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.deployment.fusion import CONVOLUTIONS
from strfnet.inflation.extension import Extension, extend, own_class

Network = TypeVar("Network", bound=nn.Module)
POINTS = (0, 5 / 7, -5 / 7, 7 / 5, -7 / 5)
TILE, SEEN = 4, 6  # pixels of answers in a row of a tile, and those that they look at
FEWEST = 128  # channels on either side; with fewer, changing to the points and back takes longer than is saved
AT_A_TIME = 4096  # pixels, or one frame: what is held at the points stays small, and near


def with_winograd(network: Network) -> Network | None:
    """A copy of ``network`` with Winograd's algorithm in each convolution it suits; other weights are shared.

    It suits 3x3 convolutions in float32 on the CPU, in single steps, with zeros around and at least 128 channels on
    either side. None if there are none.
    """
    tensors = [*network.parameters(), *network.buffers()]
    tiled = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
    suited = [module for module in tiled.modules() if suits(module)]
    for conv in suited:
        tile(conv)
    return tiled if suited else None


def suits(module: nn.Module) -> bool:
    """Whether Winograd's algorithm may stand in for this convolution."""
    # Known classes alone, as heirs may compute otherwise; those of layers over time call `_conv_forward` for space.
    return (
        isinstance(module, nn.Conv2d)
        and own_class(module) in CONVOLUTIONS
        and module.weight.shape[2:] == (3, 3)
        and module.weight.dtype == torch.float32
        and module.weight.device.type == "cpu"
        and module.padding_mode == "zeros"
        and (module.stride, module.padding, module.dilation, module.groups) == ((1, 1), (1, 1), (1, 1), 1)
        and min(module.in_channels, module.out_channels) >= FEWEST
    )


def tile(conv: Any) -> None:
    """Lay `Winograd` over ``conv``, in place."""
    given, kernel, answered = matrices()
    points = torch.einsum("pa,qb,oiab->pqio", kernel, kernel, conv.weight.detach().double())
    conv.weight = nn.Parameter(points.flatten(0, 1).float(), requires_grad=False)
    conv.register_buffer("given", torch.kron(given, given).float(), persistent=False)
    conv.register_buffer("answered", torch.kron(answered, answered).float(), persistent=False)
    extend(conv, Winograd)


class Winograd(Extension):
    """A convolution whose ``weight`` holds its kernel at the 36 points, (36, i, o)."""

    given: Tensor
    answered: Tensor

    def _conv_forward(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
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
        given = self.given @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(SEEN**2, -1)
        products = given.view(SEEN**2, -1, c) @ weight
        answers = (self.answered @ products.flatten(1)).view(TILE, TILE, n, rows, columns, -1)
        maps = answers.permute(2, 3, 0, 4, 1, 5).reshape(n, TILE * rows, TILE * columns, -1)
        maps = maps[:, :h, :w].permute(0, 3, 1, 2)
        return maps if bias is None else maps + bias[:, None, None]


def matrices() -> tuple[Tensor, Tensor, Tensor]:
    """What takes six pixels to the points, (6, 6), a kernel, (6, 3), and the points to four answers, (4, 6)."""

    def at_points(terms: int) -> Tensor:
        """Each power of x below ``terms`` at the points; at infinity only the highest counts."""
        highest = torch.zeros(1, terms, dtype=torch.float64)
        highest[0, -1] = 1
        powers = torch.tensor(POINTS, dtype=torch.float64)[:, None] ** torch.arange(terms)
        return torch.cat([powers, highest])

    return torch.linalg.inv(at_points(SEEN)).T, at_points(3), at_points(TILE).T
