"""Non-local attention over the pixels or the stripes of a clip, in windows of frames."""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from strfnet.clip import check_clip, fold, unfold

PAIRINGS = ("softmax", "dot")
POOLS = ("mean", "max", "both")
# CPUs that multiply bfloat16 matrices themselves do so faster than PyTorch's fused attention, which does not ask
# them to: there queries go in chunks (2.5 times the speed of float32 instead of 1.9, in whole networks).
MULTIPLIES_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
CHUNK = 512


class NonLocalBlock(nn.Module):
    """Every token of a window of frames gathers from all tokens of that window; the clip gets it added.

    ``x + norm(out(A value(x)))`` with ``A = softmax(query(x) key(x)^T)``, unscaled. A new block is the
    identity (its norm starts at zero), so it can join a trained network. The matrix A, of (t h w)^2 entries,
    is never held: memory grows linearly with t. `attention` makes it on request.

    Args:
        channels: c of the clip, kept by the block.
        inner_channels: width of query, key and value; half of ``channels`` if None.
        pairing: "softmax" as above, or "dot": A = query key^T divided by the number of queries in the window;
            its cost is linear in t h w.
        stripes: tokens are means over this many horizontal stripes of a frame instead of its pixels, and each
            pixel of a stripe gets the same added; None for pixels. Row r of h belongs to stripe
            ``r * stripes // h``, which splits uneven heights into stripes that differ by one row at most.
        pool: what a stripe is pooled by: "mean", "max" or "both" (the means, then the maxima).
        window: frames that attend together, counted from the first (the last window may be shorter); None for
            all frames of the clip.
        subsample: keys and values are max-pooled over 2 x 2 pixels (a last odd row or column is dropped).
        norm: whether a batch norm follows ``out``; without it ``out`` itself starts at zero.

    Shape: (b, c, t, h, w) to the same.
    Raises: ValueError for stripes that are more than the rows of a frame, for stripes with ``subsample``, or
    for a clip of other channels.
    Source: Wang et al., Non-local Neural Networks, CVPR 2018; stripes and frame pairs, Liu et al., STE-NVAN,
    BMVC 2019; definitions as in their published code. Ours: uneven stripes, any window, the names.
    """

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        pairing: str = "softmax",
        stripes: int | None = None,
        pool: str = "mean",
        window: int | None = None,
        subsample: bool = False,
        norm: bool = True,
    ) -> None:
        super().__init__()
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        if channels < 1 or inner < 1:
            raise ValueError(f"channels and inner_channels must be at least 1, got {channels} and {inner}")
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
        if pool not in POOLS:
            raise ValueError(f"pool must be one of {', '.join(POOLS)}, got {pool!r}")
        for name, number in (("stripes", stripes), ("window", window)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {number}")
        if stripes is not None and subsample:
            raise ValueError("subsample pools pixels and stripes has none left: choose one of the two")
        self.channels, self.pairing, self.stripes, self.pool = channels, pairing, stripes, pool
        self.window, self.subsample = window, subsample
        width = 2 * channels if stripes is not None and pool == "both" else channels
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, channels)
        self.norm = nn.BatchNorm1d(channels) if norm else None
        last = self.out if self.norm is None else self.norm
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self._added(x, self._gathered(x))

    def attention(self, x: Tensor) -> Tensor:
        """The matrix A of each window, (b, windows, queries, keys); frames that do not exist have zeros.

        It holds all the entries that `forward` avoids: (t h w)^2 for one window over all frames.
        """
        query, key, _ = self.project(x)
        t, n = query.shape[1:3]
        exists, asks = self._exists(key), self._exists(query)
        affinity = self._windows(query) @ self._windows(key).mT
        if self.pairing == "dot":
            return affinity / self._queries(t, n, affinity.device)
        if exists is None or asks is None:
            return affinity.softmax(dim=-1)
        return affinity.masked_fill(~exists, float("-inf")).softmax(dim=-1) * asks.mT

    def _gathered(self, x: Tensor) -> Tensor:
        """What every token gathers, (b, t, n, d); queries, keys and values are free again when it returns."""
        query, key, value = self.project(x)  # b t n d
        t, n = query.shape[1:3]
        exists = self._exists(key)
        query, key, value = self._windows(query), self._windows(key), self._windows(value)
        if self.pairing == "softmax":
            gathered = attend(query, key, value, exists)
        else:
            gathered = (query @ (key.mT @ value)) / self._queries(t, n, query.device)
        if self.window is None:
            return gathered.squeeze(1).unflatten(1, (t, n))
        frames = torch.arange(t, device=gathered.device)
        return gathered.unflatten(2, (self.window, n))[:, frames // self.window, frames % self.window]

    def project(self, x: Tensor) -> list[Tensor]:
        """Query, key and value of every token, (b, t, n, d) each."""
        check_clip(x, self.channels, weight=self.query.weight)
        h, w = x.shape[3:]
        if self.stripes is None:
            tokens = rearrange(x, "b c t h w -> b t (h w) c")
        else:
            tokens = rearrange(_striped(x, self.stripes, self.pool), "b c t s -> b t s c")
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        return [query, _pooled(key, h, w), _pooled(value, h, w)] if self.subsample else [query, key, value]

    def _windows(self, tokens: Tensor) -> Tensor:
        """(b, t, n, d) to (b, windows, frames n, d), with zeros for the frames that the last window lacks."""
        b, t, n, d = tokens.shape
        if self.window is None:  # by way of one axis: an exporter can prove that for merged frames too
            return tokens.flatten().view(b, 1, t * n, d)
        count = (t + self.window - 1) // self.window
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, count * self.window - t))
        return tokens.unflatten(1, (count, self.window)).flatten(2, 3)

    def _exists(self, tokens: Tensor) -> Tensor | None:
        """Which tokens of a window belong to a frame of the clip, (1, windows, 1, frames n); None if all do.

        Four axes, written out: the fused attention takes no mask of three and would hold the whole matrix.
        """
        if self.window is None:
            return None
        t, n = tokens.shape[1:3]
        count = (t + self.window - 1) // self.window
        exists = torch.arange(count * self.window, device=tokens.device) < t
        return exists.view(1, count, 1, self.window).repeat_interleave(n, dim=3)

    def _queries(self, t: int, n: int, device: torch.device) -> Tensor | int:
        """The number of queries in each window, by which dot pairs are divided."""
        if self.window is None:
            return t * n
        first = torch.arange(0, t, self.window, device=device)
        return (n * (t - first).clamp(max=self.window))[:, None, None]

    def _added(self, x: Tensor, gathered: Tensor) -> Tensor:
        """``x`` and what its tokens have gathered, (b, t, n, d), brought back to the channels and places of ``x``."""
        h, w = x.shape[3:]
        gathered = self._out(gathered)
        if self.stripes is None:
            return x + rearrange(gathered, "b t (h w) c -> b c t h w", h=h, w=w)
        stripe_of_row = torch.arange(h, device=x.device) * self.stripes // h
        return x + rearrange(gathered.index_select(2, stripe_of_row), "b t h c -> b c t h 1")

    def _out(self, gathered: Tensor) -> Tensor:
        """``out`` and the norm; in evaluation the norm is folded into the weights, which saves a pass."""
        if self.norm is None:
            return self.out(gathered)
        if self.norm.training or self.norm.running_var is None or self.norm.running_mean is None:
            out = self.out(gathered)
            return self.norm(out.flatten(0, 2)).view_as(out)
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        bias = (self.out.bias - self.norm.running_mean) * scale + self.norm.bias
        return F.linear(gathered, self.out.weight * scale[:, None], bias)

    def extra_repr(self) -> str:
        pixels = "" if self.stripes is None else f", stripes={self.stripes}, pool={self.pool!r}"
        window = "" if self.window is None else f", window={self.window}"
        return f"{self.channels}, pairing={self.pairing!r}{pixels}{window}"


def attend(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    """``softmax(query key^T) value`` over the keys that exist, never holding all pairs at once.

    Shape: (b, windows, queries, d), (b, windows, keys, d) twice and (1, windows, 1, keys) to the first.
    """
    in_chunks = query.device.type == "cpu" and query.dtype == torch.bfloat16 and MULTIPLIES_BFLOAT16
    if not in_chunks or torch.is_grad_enabled() or torch.compiler.is_exporting():
        return F.scaled_dot_product_attention(query, key, value, exists, scale=1.0)
    gathered = []
    for chunk in query.split(CHUNK, dim=2):
        affinity = chunk @ key.mT
        if exists is not None:
            affinity = affinity.masked_fill(~exists, float("-inf"))
        gathered.append(affinity.softmax(dim=-1) @ value)
    return torch.cat(gathered, dim=2)


def _striped(x: Tensor, stripes: int, pool: str) -> Tensor:
    """A clip pooled over horizontal stripes, (b, c, t, stripes), or 2 c channels if ``pool`` is "both"."""
    t, h, w = x.shape[2:]
    if stripes > h:
        raise ValueError(f"{stripes} stripes need as many rows at least, but x has a height of {h}: {tuple(x.shape)}")
    edges = [-(-h * stripe // stripes) for stripe in range(stripes + 1)]
    rows = [fold(x)] if h % stripes == 0 else [fold(x[:, :, :, i:j]) for i, j in itertools.pairwise(edges)]
    pools: dict[str, tuple[Callable[..., Tensor], ...]] = {
        "mean": (F.avg_pool2d,),
        "max": (F.max_pool2d,),
        "both": (F.avg_pool2d, F.max_pool2d),
    }
    pooled = []
    for pooling in pools[pool]:  # windows of whole stripes: many times as fast as reductions over two axes
        maps = [pooling(part, (part.shape[2] if len(rows) > 1 else h // stripes, w)) for part in rows]
        pooled.append(unfold(torch.cat(maps, dim=2), t).flatten(3))
    return torch.cat(pooled, dim=1)


def _pooled(tokens: Tensor, h: int, w: int) -> Tensor:
    """The maxima over 2 x 2 pixels, (b, t, h w, d) to (b, t, (h // 2) (w // 2), d); a single row or column stays."""
    b, t = tokens.shape[:2]
    frames = tokens.flatten(0, 1).mT.unflatten(2, (h, w))
    pooled = F.max_pool2d(frames, (min(2, h), min(2, w)))
    return pooled.flatten(2).mT.unflatten(0, (b, t))
