"""The nearest items of a gallery, exactly, in blocks of rows that may lie on disk."""

import math
from collections.abc import Iterator
from typing import Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import unit_length
from strfnet.evaluation.protocols import Distance
from strfnet.system.compat import allow_tf32
from strfnet.system.names import check_choice

_GRID = 2.0**-30  # of cosine distances, as in `StreamedDistances`
_QUERIES = 1024  # queries of a pass over the gallery
_CACHED = 2**22  # bytes of the rows of a product or a comparison, which then stay in the processor's cache


class Rows(Protocol):
    """Rows of floats (m, d) that are read by slices and by lists of rows, such as a tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


def nearest_items(
    query: Tensor,
    gallery: Tensor | Rows,
    count: int,
    *,
    distance: Distance = "cosine",
    allowed: Tensor | None = None,
    unit: bool = False,
    byte_budget: int = 2**26,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Finds the nearest gallery items of each query, with their distances.

    Blocks of the gallery are multiplied in float32. Each item whose float32 product may belong to the nearest, by
    the bound of its rounding error, is compared again in float64. So the result is exact, and it does not depend on
    blocks, threads or the order of sums: of equally distant items, the first row is the nearest.

    Args:
        query: (n, d) on the CPU.
        gallery: (m, d), a tensor on the CPU, or rows on disk, which are read block by block.
        count: largest number of items, k.
        distance: "cosine" (1 - cos, rounded to 2^-30 as in `StreamedDistances`) or "euclidean".
        allowed: bool (m,), the items that are searched; None for all.
        unit: whether all gallery rows have length 1, which saves the computation of their lengths for "cosine".
        byte_budget: memory for a block and its products.

    Returns: float32 distances and int64 rows, both (n, k), nearest first; k is the number of allowed items if it is
    below ``count``.
    Raises: ValueError for other shapes, NaN or infinity (naming the row), or a number below 1.
    Source: ours.
    """
    check_choice("distance", distance, get_args(Distance))
    sizes = tuple(query.shape), tuple(gallery.shape)
    if len(sizes[0]) != 2 or len(sizes[1]) != 2 or sizes[0][1] != sizes[1][1] or not sizes[0][1]:
        raise ValueError(f"query is {sizes[0]} and gallery {sizes[1]}, wanted (n, d) and (m, d)")
    if count < 1 or byte_budget < 1:
        raise ValueError(f"got {count=} and {byte_budget=}, wanted at least 1")
    if allowed is not None and (allowed.dtype != torch.bool or allowed.shape != sizes[1][:1]):
        raise ValueError(f"allowed is {tuple(allowed.shape)} of {allowed.dtype}, wanted bool ({sizes[1][0]},)")
    vectors = query.detach().double()
    if not (finite := vectors.isfinite().all(dim=1)).all():
        raise ValueError(f"query holds NaN or infinity in row {_first_false(finite)}")
    k = min(count, sizes[1][0] if allowed is None else int(allowed.sum()))
    distances, rows = np.empty((len(query), k), np.float32), np.empty((len(query), k), np.int64)
    for start in range(0, len(query) if k else 0, _QUERIES):
        part = slice(start, start + _QUERIES)
        best = _Best(vectors[part], k, distance)
        with allow_tf32(False):
            for first, block in _blocks(gallery, max(1, byte_budget // (4 * sizes[1][1] + 32 * len(best.query)))):
                best.add(first, block, allowed, unit, max(1, min(byte_budget, _CACHED) // (64 * sizes[1][1])))
        distances[part], rows[part] = best.distances.reshape(-1, k), best.rows.reshape(-1, k)
    return distances, rows


class _Best:
    """The nearest items of each query in the blocks so far.

    A score is larger for nearer items: the cosine q g / |g|, or 2 q g - g^2.
    """

    def __init__(self, query: Tensor, k: int, distance: Distance) -> None:
        self.cosine, self.k = distance == "cosine", k
        self.query = unit_length(query) if self.cosine else query
        self.squares = self.query.square().sum(dim=1)
        # A sum of d products is wrong by at most d 2^-24 of the product of the lengths, a length by half as much.
        self.error = (2 * query.shape[1] + 32) * 2.0**-24
        self.owners, self.rows = np.empty(0, np.int64), np.empty(0, np.int64)
        self.distances = np.empty(0, np.float32)

    def add(self, first: int, block: Tensor, allowed: Tensor | None, unit: bool, pairs: int) -> None:
        """Adds the gallery rows from ``first`` on; ``pairs`` are compared at a time in float64."""
        scores, slack = self._scores(block, unit)
        if not scores.sum().isfinite() and not (finite := scores.isfinite().all(dim=0)).all():
            row = first + _first_false(finite)
            raise ValueError(f"gallery holds NaN, infinity or numbers too large to compare in row {row}")
        if allowed is not None:
            scores.masked_fill_(~allowed[first : first + len(block)], -math.inf)
        owners, columns = (scores >= self._least(scores, slack)[:, None]).nonzero(as_tuple=True)
        for start in range(0, len(owners), pairs):
            owner, column = owners[start : start + pairs], columns[start : start + pairs]
            self._keep(owner.numpy(), first + column.numpy(), self._distances(owner, block[column].double()))

    def _scores(self, block: Tensor, unit: bool) -> tuple[Tensor, Tensor]:
        """Scores in float32, and by how much those of a query may be wrong."""
        query, block = self.query.float(), block.float()
        if not self.cosine:
            squares = block.square().sum(dim=1)
            scores = _products(query, block).mul_(2).sub_(squares)
            return scores, self.error * (self.squares.sqrt() + squares.max().double().sqrt()).square()
        lengths = None if unit else torch.linalg.vector_norm(block, dim=1)
        if lengths is not None and not (lengths.min() > 1e-15 and lengths.max() < 1e15):  # squares leave float32
            block, lengths = unit_length(block.double()).float(), None
        scores = _products(query, block)
        return (scores if lengths is None else scores.div_(lengths)), torch.full_like(self.squares, self.error)

    def _least(self, scores: Tensor, slack: Tensor) -> Tensor:
        """The score from which an item may be one of the nearest."""
        if len(self.rows) == len(self.query) * self.k:
            last = torch.from_numpy(self.distances.reshape(-1, self.k)[:, -1]).double()
            return ((1 - last if self.cosine else self.squares - last.square()) - slack).float()
        if scores.shape[1] < self.k:
            return torch.full((len(scores),), torch.finfo(torch.float32).min)
        of_block = scores.topk(self.k).values[:, -1].double() - 2 * slack
        return of_block.float().clamp_(min=torch.finfo(torch.float32).min)  # what is not allowed has -inf

    def _distances(self, owners: Tensor, rows: Tensor) -> NDArray[np.float32]:
        query = self.query[owners]
        if self.cosine:
            lengths = torch.linalg.vecdot(rows, rows).sqrt_().clamp_(min=1e-100)
            cosines = torch.linalg.vecdot(query, rows).div_(lengths)
            found = (1 - cosines).clamp_(0, 2).div_(_GRID).round_().mul_(_GRID)
        else:
            found = query.sub_(rows).square_().sum(dim=1).sqrt_()
        return found.float().numpy()

    def _keep(self, owners: NDArray[np.int64], rows: NDArray[np.int64], distances: NDArray[np.float32]) -> None:
        """Merges pairs into the nearest k of each query, in the order of queries, distances and rows."""
        owners = np.concatenate([self.owners, owners])
        rows = np.concatenate([self.rows, rows])
        distances = np.concatenate([self.distances, distances])
        order = np.lexsort((rows, distances, owners))
        counts = np.bincount(owners, minlength=len(self.query))
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        kept = order[place < self.k]
        self.owners, self.rows, self.distances = owners[kept], rows[kept], distances[kept]


def _products(query: Tensor, block: Tensor) -> Tensor:
    """Returns the inner products of queries and rows (n, m)."""
    if len(query) == 1:  # dot products of NumPy read rows in order; a product of matrices is up to 3 times as slow
        with np.errstate(all="ignore"):
            return torch.from_numpy(np.matmul(block.numpy()[:, None], query.T.numpy()).reshape(1, -1))
    scores = query.new_empty(len(query), len(block))
    rows = max(1, _CACHED // (4 * block.shape[1]))
    for part, out in zip(block.split(rows), scores.split(rows, dim=1), strict=True):
        torch.mm(query, part.T, out=out)
    return scores


def _blocks(gallery: Tensor | Rows, size: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, gallery.shape[0], size):
        yield start, gallery[start : start + size].detach()


def _first_false(values: Tensor) -> int:
    return int(values.int().argmin())
