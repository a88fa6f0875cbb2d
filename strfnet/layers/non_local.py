"""Non-local attention over the pixels or the stripes of a clip, in windows of frames."""

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.system.compat import is_exporting

PAIRINGS = ("softmax", "dot")
POOLS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "mean": (F.avg_pool2d,),
    "max": (F.max_pool2d,),
    "both": (F.avg_pool2d, F.max_pool2d),
}
# CPUs that multiply bfloat16 matrices themselves do so faster than PyTorch's fused attention, which does not ask
# them to: there queries go in chunks (2.5 times the speed of float32 instead of 1.9, in whole networks).
MULTIPLIES_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
CHUNK = 512


class NonLocalBlock(nn.Module):
    """Every token of a window of frames gathers from all tokens of that window; the clip gets it added.

    ``x + norm(out(A value(x)))`` with ``A = softmax(query(x) key(x)^T)``, unscaled. A new block is the
    identity (its norm starts at zero), so it can join a trained network. The matrix A, of (t h w)^2 entries,
    is never held: memory grows linearly with t. `attention` makes it on request. The four linear layers may be
    used by their weights alone, without being called: hooks belong on the block. A layer of another class that is
    put in their place is called.

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
        return self._added(x, *self._gathered(x))

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

    def _gathered(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What every token gathers, (b, t, n, d), and None; or two factors of it, the second a matrix (b, d, d).

        Dot pairs over the whole clip have such a matrix: multiplied by the weights of ``out`` first, it saves a
        product over all tokens. What `project` made is free again when this returns.
        """
        query, key, value = self.project(x)  # b t n d
        t, n = query.shape[1:3]
        exists = self._exists(key)
        key, value = self._windows(key), self._windows(value)
        if self.pairing == "softmax":
            return self._frames(attend(self._windows(query), key, value, exists), t, n), None
        matrix = (key.mT @ value) / self._queries(t, n, query.device)
        if self.window is None:
            return query, matrix.squeeze(1)
        return self._frames(self._windows(query) @ matrix, t, n), None

    def _frames(self, tokens: Tensor, t: int, n: int) -> Tensor:
        """(b, windows, frames n, d) to (b, t, n, d), without the frames that the last window lacks."""
        if self.window is None:
            return tokens.squeeze(1).unflatten(1, (t, n))
        frames = torch.arange(t, device=tokens.device)
        return tokens.unflatten(2, (self.window, n))[:, frames // self.window, frames % self.window]

    def project(self, x: Tensor) -> list[Tensor]:
        """Query, key and value of every token, (b, t, n, d) each."""
        check_clip(x, self.channels, weight=self.query.weight)
        h, w = x.shape[3:]
        layers = (self.query, self.key, self.value)
        if self.stripes is not None:
            bands = _striped(x, self.stripes, self.pool)
            return [layer(bands) for layer in layers]
        tokens = rearrange(x, "b c t h w -> b t (h w) c")
        if all(type(layer) is nn.Linear for layer in layers):  # one product of many tokens is quicker than three
            weight, bias = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])
            query, key, value = F.linear(tokens, weight, bias).chunk(3, dim=-1)
        else:
            query, key, value = (layer(tokens) for layer in layers)
        return [query, _pooled(key, h, w), _pooled(value, h, w)] if self.subsample else [query, key, value]

    def _windows(self, tokens: Tensor) -> Tensor:
        """(b, t, n, d) to (b, windows, frames n, d), with zeros for the frames that the last window lacks."""
        b, t, n, d = tokens.shape
        if self.window is None:
            if is_exporting():  # by way of one axis: so it can be proved for merged frames too
                return tokens.flatten().view(b, 1, t * n, d)
            return tokens.flatten(1, 2)[:, None]
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

    def _added(self, x: Tensor, gathered: Tensor, matrix: Tensor | None) -> Tensor:
        """``x`` and what `_gathered` gives, brought back to the channels and places of ``x``.

        On pixels, the norm of evaluation goes into the weights, and their product is added onto ``x`` and the bias
        as it is made: passes over the largest tensors are dear. Stripes are few, and get the layers as they are.
        """
        b, c, t, h, w = x.shape
        folded = None if self.stripes is not None else self._folded()
        if folded is not None and gathered.dtype == x.dtype == self.out.weight.dtype:  # they differ under autocast
            weight, bias = folded
            rows, merged = x.movedim(1, -1), None if matrix is None else matrix @ weight.mT
            if rows.is_contiguous() and not torch.compiler.is_compiling():  # only then the memory order stays
                tokens = (rows + bias).reshape(b, t * h * w, c)
                weight = weight.mT.expand(b, -1, -1) if merged is None else merged
                tokens.baddbmm_(gathered.reshape(b, t * h * w, gathered.shape[3]), weight)
                return tokens.view(b, t, h, w, c).movedim(-1, 1)
            out = F.linear(gathered, weight, bias) if merged is None else gathered @ merged[:, None] + bias
            return x + rearrange(out, "b t (h w) c -> b c t h w", h=h, w=w)
        out = self.out(gathered if matrix is None else gathered @ matrix[:, None])
        if self.norm is not None:
            out = self.norm(out.flatten(0, 2)).view_as(out)
        if self.stripes is None:
            return x + rearrange(out, "b t (h w) c -> b c t h w", h=h, w=w)
        if h % self.stripes == 0 and not torch.compiler.is_compiling():
            bands = x.movedim(1, -1).unflatten(2, (self.stripes, -1)).flatten(3, 4)  # b t s (r w) c
            return (bands + out[:, :, :, None]).unflatten(3, (-1, w)).flatten(2, 3).movedim(-1, 1)
        stripe_of_row = torch.arange(h, device=x.device) * self.stripes // h
        return x + rearrange(out.index_select(2, stripe_of_row), "b t h c -> b c t h 1")

    def _folded(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of ``out`` with the norm inside; None if it looks at each batch, or ``out`` is more."""
        if type(self.out) is not nn.Linear:
            return None
        weight, bias, norm = self.out.weight, self.out.bias, self.norm
        if norm is None:
            return weight, bias
        if norm.training or norm.running_var is None or norm.running_mean is None:
            return None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return weight * scale[:, None], (bias - norm.running_mean) * scale + norm.bias

    def extra_repr(self) -> str:
        pixels = "" if self.stripes is None else f", stripes={self.stripes}, pool={self.pool!r}"
        window = "" if self.window is None else f", window={self.window}"
        return f"{self.channels}, pairing={self.pairing!r}{pixels}{window}"


def attend(query: Tensor, key: Tensor, value: Tensor, exists: Tensor | None) -> Tensor:
    """``softmax(query key^T) value`` over the keys that exist, never holding all pairs at once.

    Shape: (b, windows, queries, d), (b, windows, keys, d) twice and (1, windows, 1, keys) to the first.
    """
    in_chunks = query.device.type == "cpu" and query.dtype == torch.bfloat16 and MULTIPLIES_BFLOAT16
    if not in_chunks or torch.is_grad_enabled() or is_exporting():
        return F.scaled_dot_product_attention(query, key, value, exists, scale=1.0)
    gathered = []
    for chunk in query.split(CHUNK, dim=2):
        affinity = chunk @ key.mT
        if exists is not None:
            affinity = affinity.masked_fill(~exists, float("-inf"))
        gathered.append(affinity.softmax(dim=-1) @ value)
    return torch.cat(gathered, dim=2)


def _striped(x: Tensor, stripes: int, pool: str) -> Tensor:
    """A clip pooled over horizontal stripes, (b, t, stripes, c), or 2 c channels if ``pool`` is "both"."""
    t, h, w = x.shape[2:]
    if stripes > h:
        raise ValueError(f"{stripes} stripes need as many rows at least, but x has a height of {h}: {tuple(x.shape)}")
    # Windows of whole stripes: many times as fast as reductions over two axes.
    if h % stripes == 0:
        maps = [pooling(flatten_time(x), (h // stripes, w)) for pooling in POOLS[pool]]
    else:
        edges = [-(-h * stripe // stripes) for stripe in range(stripes + 1)]
        bands = [flatten_time(x[:, :, :, i:j]) for i, j in itertools.pairwise(edges)]
        maps = [torch.cat([pooling(band, band.shape[2:]) for band in bands], dim=2) for pooling in POOLS[pool]]
    pooled = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)  # the copy that even one would be costs
    return unflatten_time(pooled, t).flatten(3).movedim(1, -1)


def _pooled(tokens: Tensor, h: int, w: int) -> Tensor:
    """The maxima over 2 x 2 pixels, (b, t, h w, d) to (b, t, (h // 2) (w // 2), d); a single row or column stays."""
    b, t = tokens.shape[:2]
    frames = tokens.flatten(0, 1).mT.unflatten(2, (h, w))
    pooled = F.max_pool2d(frames, (min(2, h), min(2, w)))
    return pooled.flatten(2).mT.unflatten(0, (b, t))
