"""Non-local attention over the pixels or the stripes of a clip, in windows of frames."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.attention import Attending, AttentionForm, width_of
from strfnet.layers.clip import bands_of, check_clip, flatten_time, unflatten_time
from strfnet.layers.lengths import check_lengths, norm_of_existing, zero_past_end
from strfnet.system.names import check_choice, check_count, check_flags

Pairing = Literal["softmax", "dot"]
Pool = Literal["mean", "max", "both"]
POOLS: dict[str, tuple[Callable[..., Tensor], ...]] = {
    "mean": (F.avg_pool2d,),
    "max": (F.max_pool2d,),
    "both": (F.avg_pool2d, F.max_pool2d),
}


class NonLocalBlock(Attending):
    """Self-attention over all tokens of a window of frames, added to the input.

    ``x + norm(out(A value(x)))`` with ``A = softmax(query(x) key(x)^T)``, without scaling. The block starts as the
    identity, because the norm's weight is zero. The matrix A, of (t h w)^2 entries, is never held, so memory grows
    linearly with t. `attention` computes it on request.

    Args:
        channels: number of input and output channels, c.
        inner_channels: width of query, key and value, d. Default: ``channels // 2``.
        pairing: "softmax" as above, or "dot": A = query key^T divided by the number of queries in the window; its
            cost is linear in t h w.
        stripes: tokens are this many horizontal stripes of each frame, pooled, instead of pixels. The output of a
            stripe is added to each of its pixels. Row r of h belongs to stripe ``r * stripes // h``, so stripes
            differ by one row at most.
        pool: pooling of a stripe: "mean", "max" or "both" (means and maxima, concatenated).
        window: number of frames that attend to each other, counted from the first; the last window may be shorter.
            None: all frames of the clip.
        subsample: max-pool keys and values over 2 x 2 pixels (a last odd row or column is dropped).
        norm: batch norm behind ``out``. Without it, the weight of ``out`` starts at zero.
        attention: form in which softmax pairs are computed, one of `Attending`'s: "fused", "chunked", "recomputed",
            "rounded" or "plain". All hold less than A except "plain", which supports ``torch.func`` and gradients of
            gradients.

    Shape: (b, c, t, h, w) -> (b, c, t, h, w).
    Raises: ValueError for more stripes than rows, for stripes with ``subsample``, or a clip with other channels.
    Source: Wang et al., Non-local Neural Networks, CVPR 2018, arXiv:1711.07971; stripes and pairs of frames, Liu et
    al., STE-NVAN, BMVC 2019, arXiv:1908.01683; definitions as in their published code. Ours: uneven stripes, any
    window, the names.
    """

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        pairing: Pairing = "softmax",
        stripes: int | None = None,
        pool: Pool = "mean",
        window: int | None = None,
        subsample: bool = False,
        norm: bool = True,
        attention: AttentionForm = "fused",
    ) -> None:
        super().__init__()
        check_count("channels", channels)
        inner = max(channels // 2, 1) if inner_channels is None else inner_channels
        check_count("inner_channels", inner)
        check_choice("pairing", pairing, get_args(Pairing))
        check_choice("pool", pool, POOLS)
        check_choice("attention", attention, get_args(AttentionForm))
        check_count("stripes", stripes, none="all pixels")
        check_count("window", window, none="all frames")
        check_flags(subsample=subsample, norm=norm)
        if stripes is not None and subsample:
            raise ValueError("subsample pools pixels and stripes has none left: choose one of the two")
        self.channels, self.pairing, self.stripes, self.pool = channels, pairing, stripes, pool
        self.window, self.subsample, self.attention_form = window, subsample, attention
        width = 2 * channels if stripes is not None and pool == "both" else channels
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(width, inner)
        self.value = nn.Linear(width, inner)
        self.out = nn.Linear(inner, channels)
        self.norm = nn.BatchNorm1d(channels) if norm else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Makes the block the identity; its other layers have a ``reset_parameters`` of their own."""
        last = self.out if self.norm is None else self.norm
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        # No name holds the projections, so their memory is free again.
        out = self.out(self.gather(*self.project(x, lengths), lengths))
        if self.norm is not None:
            out = norm_of_existing(self.norm, out.flatten(0, 2), x, lengths).view_as(out)
        return zero_past_end(x, lengths) + zero_past_end(self.restore(out, x), lengths)

    def attention(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the matrix A of each window, (b, windows, queries, keys); frames that do not exist have zeros.

        It holds all the entries that `forward` avoids: (t h w)^2 for one window over all frames.
        """
        query, key, _ = self.project(x, lengths)
        affinity = self._windows(query) @ self._windows(key).mT
        exists, asks = self._exists(key, lengths), self._exists(query, lengths)
        if self.pairing == "dot":
            affinity = affinity / self._queries(query, lengths)
        elif exists is None:
            affinity = affinity.softmax(dim=-1)
        else:
            affinity = affinity.masked_fill(~_or_all(exists), float("-inf")).softmax(dim=-1)
        return affinity if exists is None or asks is None else affinity * asks.mT * exists

    def project(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value of the n tokens of each frame, (b, t, n, d) each."""
        check_clip(x, self.channels, weight=getattr(self.query, "weight", None))
        if lengths is not None:
            check_lengths(lengths, x)
            x = zero_past_end(x, lengths)
        h, w = x.shape[3:]
        tokens = pixels(x) if self.stripes is None else striped(x, self.stripes, self.pool)
        query, key, value = self.query(tokens), self.key(tokens), self.value(tokens)
        return (query, _subsampled(key, h, w), _subsampled(value, h, w)) if self.subsample else (query, key, value)

    def gather(self, query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns ``A value`` for each token, (b, t, n, d)."""
        t, n = query.shape[1:3]
        queries, keys, values = self._windows(query), self._windows(key), self._windows(value)
        exists = self._exists(key, lengths)
        if self.pairing == "softmax":
            gathered = self.attend(queries, keys, values, None if exists is None else _or_all(exists))
        else:  # the product of keys and values first, which is linear in the tokens; float16 would overflow undivided
            keys = keys / self._queries(query, lengths)
            if lengths is not None and exists is not None:
                keys = keys.masked_fill(~exists.mT, 0)
            gathered = queries @ (keys.mT @ values)
        if self.window is None:
            return gathered.squeeze(1).unflatten(1, (t, n))
        frames = torch.arange(t, device=query.device)
        return gathered.unflatten(2, (self.window, n))[:, frames // self.window, frames % self.window]

    def attention_sizes(self) -> tuple[int, int, bool] | None:
        if self.pairing == "dot":
            return None
        return width_of(self.query), width_of(self.value), self.window is not None

    def restore(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Returns tokens (b, t, n, c) as a clip that can be added to ``x``."""
        h, w = x.shape[3:]
        if self.stripes is None:
            return tokens.unflatten(2, (h, w)).movedim(-1, 1)
        stripe_of_row = torch.arange(h, device=x.device) * self.stripes // h
        return tokens.index_select(2, stripe_of_row).movedim(-1, 1).unsqueeze(-1)

    def _windows(self, tokens: Tensor) -> Tensor:
        """(b, t, n, d) -> (b, windows, frames n, d); frames that the last window lacks are zero."""
        b, t, n, d = tokens.shape
        if self.window is None:  # through one axis: torch.export then proves it for any number of frames
            return tokens.flatten().view(b, 1, t * n, d)
        count = (t + self.window - 1) // self.window
        tokens = F.pad(tokens, (0, 0, 0, 0, 0, count * self.window - t))
        return tokens.unflatten(1, (count, self.window)).flatten(2, 3)

    def _exists(self, tokens: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Which tokens of a window belong to a frame of the clip, (b or 1, windows, 1, frames n); None if all do.

        The mask has four axes, because the fused attention takes no mask of three and would hold the matrix.
        """
        if self.window is None and lengths is None:
            return None
        t, n = tokens.shape[1:3]
        end = t if lengths is None else lengths.to(tokens.device).view(-1, 1, 1, 1)
        window, count = (t, 1) if self.window is None else (self.window, (t + self.window - 1) // self.window)
        frames = torch.arange(count * window * n, device=tokens.device) // n
        return frames.view(1, count, 1, window * n) < end

    def _queries(self, query: Tensor, lengths: Tensor | None) -> Tensor | int:
        """The number of queries in each window, by which dot pairs are divided; 1 for a window past the end."""
        t, n = query.shape[1:3]
        if self.window is None and lengths is None:
            return t * n
        end = t if lengths is None else lengths.to(query.device).view(-1, 1, 1, 1)
        window, count = (t, 1) if self.window is None else (self.window, (t + self.window - 1) // self.window)
        first = (torch.arange(count, device=query.device) * window).view(1, count, 1, 1)
        return (n * (end - first).clamp(max=window)).clamp(min=1)

    def extra_repr(self) -> str:
        pixels = "" if self.stripes is None else f", stripes={self.stripes}, pool={self.pool!r}"
        window = "" if self.window is None else f", window={self.window}"
        return f"{self.channels}, pairing={self.pairing!r}{pixels}{window}"


def _or_all(exists: Tensor) -> Tensor:
    """The keys that exist, or all keys of a window that has none, because a softmax needs one at least."""
    return exists | ~exists.any(dim=-1, keepdim=True)


def pixels(x: Tensor) -> Tensor:
    """The pixels of a clip as tokens, (b, t, h w, c); a view of a channels-last clip."""
    return x.flatten(3).permute(0, 2, 3, 1)


def striped(x: Tensor, stripes: int, pool: Pool) -> Tensor:
    """A clip pooled over horizontal stripes, (b, t, stripes, c), or 2 c channels if ``pool`` is "both"."""
    t, h, w = x.shape[2:]
    # Pooling by windows is many times as fast as a reduction over two axes.
    if h % stripes == 0 and stripes <= h:
        maps = [pooling(flatten_time(x), (h // stripes, w)) for pooling in POOLS[pool]]
    else:
        bands = [flatten_time(band) for band in bands_of(x, stripes)]
        maps = [torch.cat([pooling(band, band.shape[2:]) for band in bands], dim=2) for pooling in POOLS[pool]]
    return pixels(unflatten_time(torch.cat(maps, dim=1), t))


def _subsampled(tokens: Tensor, h: int, w: int) -> Tensor:
    """Maxima over 2 x 2 pixels, (b, t, h w, d) -> (b, t, (h // 2) (w // 2), d); a single row or column stays."""
    b, t = tokens.shape[:2]
    frames = tokens.flatten(0, 1).mT.unflatten(2, (h, w))
    pooled = F.max_pool2d(frames, (min(2, h), min(2, w)))
    return pooled.flatten(2).mT.unflatten(0, (b, t))
