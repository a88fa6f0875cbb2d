"""Attention of each position over the frames of a clip, for networks of tokens and of maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import check_lengths, existing, zero_past_end
from strfnet.system.names import check_count, check_flags

WIDEST_HEAD = 64


class TemporalAttention(nn.Module):
    """Self-attention of each position over the frames of its clip, added to the input.

    ``x + out(softmax(query key^T / sqrt(d)) value)`` in heads of d channels; query and key are projections of
    ``norm(x) + position``, value of ``norm(x)``. The sinusoidal code of the frame's number, ``position``, makes the
    order of frames matter. The unit starts as the identity, because the weight of ``out`` is zero.

    Args:
        channels: number of input and output channels, c.
        inner_channels: width of query, key and value. Default: ``channels // 2``.
        heads: number of heads. Default: the fewest that divide the width into at most 64 channels each.
        positions: whether the frame's number is encoded. Without it, the unit is equivariant to the order of frames.

    Shape: (b, c, t, h, w) -> (b, c, t, h, w).
    Raises: ValueError for heads that do not divide the width, or a clip with other channels.
    Source: the temporal half of divided attention, Bertasius et al., TimeSformer, ICML 2021, arXiv:2102.05095; the
    code of positions, Vaswani et al., NeurIPS 2017, arXiv:1706.03762. Ours: the width, the code in place of learned
    vectors, so that t may be any, and the projection that starts at zero without a further one.
    """

    def __init__(
        self, channels: int, *, inner_channels: int | None = None, heads: int | None = None, positions: bool = True
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        check_count("inner_channels", inner)
        check_count("heads", heads, none="the fewest that are narrow")
        check_flags(positions=positions)
        if heads is None:
            heads = next(n for n in range(1, inner + 1) if inner % n == 0 and inner // n <= WIDEST_HEAD)
        if heads < 1 or inner % heads:
            raise ValueError(f"heads must divide inner_channels, {inner}, got {heads}")
        self.channels, self.heads, self.positions = channels, heads, positions
        self.norm = nn.LayerNorm(channels)
        self.query = nn.Linear(channels, inner)
        self.key = nn.Linear(channels, inner)
        self.value = nn.Linear(channels, inner)
        self.out = nn.Linear(inner, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        query, key, value = self.project(x, lengths)
        gathered = F.scaled_dot_product_attention(query, key, value, self._exists(x, lengths))
        b, h, w = x.shape[0], x.shape[3], x.shape[4]
        out = self.out(gathered.transpose(1, 2).flatten(2))  # (b h w, t, c)
        return zero_past_end(x, lengths) + zero_past_end(out.unflatten(0, (b, h, w)).permute(0, 4, 3, 1, 2), lengths)

    def attention(self, x: Tensor) -> Tensor:
        """Returns the weights of each position, (b, h, w, heads, t, t): of queries, then of keys."""
        query, key, _ = self.project(x)
        affinity = query @ key.mT / math.sqrt(query.shape[-1])
        return affinity.softmax(dim=-1).unflatten(0, (x.shape[0], x.shape[3], x.shape[4]))

    def project(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value of the frames of each position, (b h w, heads, t, d) each."""
        check_clip(x, self.channels, weight=self.query.weight)
        if lengths is not None:
            check_lengths(lengths, x)
            x = zero_past_end(x, lengths)
        value = self.norm(x.permute(0, 3, 4, 2, 1).flatten(0, 2))
        placed = value + frame_code(value) if self.positions else value
        projected = (self.query(placed), self.key(placed), self.value(value))
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in projected)
        return query, key, value

    def _exists(self, x: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Which frames of each position exist, as keys: (b h w, 1, 1, t); None if all do."""
        if lengths is None:
            return None
        return existing(x, lengths).permute(0, 3, 4, 1, 2).expand(-1, *x.shape[3:], -1, -1).flatten(0, 2)[:, None]

    def extra_repr(self) -> str:
        return f"{self.channels}, heads={self.heads}" + ("" if self.positions else ", positions=False")


def frame_code(tokens: Tensor) -> Tensor:
    """Sines and cosines of the number of each frame, (t, c), for tokens (n, t, c)."""
    t, c = tokens.shape[1:]
    rates = torch.exp(torch.arange(0, c, 2, device=tokens.device) * (-math.log(10_000) / c))
    angles = torch.arange(t, device=tokens.device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :c].to(tokens.dtype)
