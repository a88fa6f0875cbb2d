"""k-reciprocal re-ranking: distances from common neighbours."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.protocols import Distance

Indices = NDArray[np.int64]


def rerank(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    distance: Distance = "cosine",
    byte_budget: int = 2**25,
) -> Tensor:
    """Computes distances of queries and gallery items that are small where the two have common neighbours.

    All n items, queries and gallery items, are neighbours of each other. An item is its own first neighbour, which
    k does not count. Distances d are divided by the largest distance of an item. Then:

    - R(p, k) contains those of the k nearest neighbours of p that have p among their k nearest. R*(p) is the union
      of R(p, k1) and of R(q, k1 / 2) for each q in it, where two thirds of R(q, k1 / 2) lie in R(p, k1).
    - The vector of p has the weights exp(-d(p, g)) for g in R*(p), divided by their sum. It is then averaged over
      the ``k2`` nearest items, p included.
    - The Jaccard distance is 1 minus the sum of the smaller over the sum of the larger weights of two vectors. The
      result is ``(1 - weight)`` times the Jaccard distance plus ``weight`` times d.

    Memory: the result; a copy of the embeddings; ``byte_budget``; 24 n (k1 + 1) bytes for neighbours, and up to
    100 for each weight that is not zero (about k1 to 10 k1 of an item). No matrix of n x n.

    Args:
        query: (q, d) embeddings.
        gallery: (g, d) embeddings.
        k1: number of neighbours that may be reciprocal; half of it is rounded to even.
        k2: number of items whose vectors are averaged; 1 for no averaging.
        weight: lambda, from 0 to 1; 1 keeps the ranking.
        distance: "cosine" or "euclidean".
        byte_budget: memory for tiles of distances.

    Returns: float32 (q, g) on the CPU, for `strfnet.evaluation.rank`.
    Raises: ValueError for numbers out of range, no queries or gallery, and as `StreamedDistances` does.
    Source: Zhong et al., CVPR 2017, arXiv:1701.08398. Largest distances and sums are divided out as in the authors'
    code. Ours: of equally distant items, the first in order is nearer.
    """
    if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0 <= weight <= 1:
        wanted = "k1 of at least 1, k2 of 1 to k1 + 1, weight of 0 to 1"
        raise ValueError(f"got {k1=}, {k2=}, {weight=}, wanted {wanted}")
    StreamedDistances(query, gallery, distance=distance, byte_budget=byte_budget)  # checks the arguments by name
    if not len(query) or not len(gallery):
        raise ValueError(f"got {len(query)} queries and {len(gallery)} gallery items, wanted at least 1 of both")
    queries, items = len(query), torch.cat([query.detach(), gallery.detach()])
    # The other half is for the sorting keys of a tile.
    streamed = StreamedDistances(items, items, distance=distance, byte_budget=max(1, byte_budget // 2))
    near, largest, result = _nearest(streamed, len(items), queries, min(k1 + 1, len(items)), distance)
    vectors = _vectors(streamed, near, largest, k1, distance)
    if k2 > 1:
        vectors = _averaged(vectors, near[:, :k2])
    result *= weight / largest[:queries, None]
    _add_jaccard(result, vectors, queries, 1 - weight)
    return torch.from_numpy(result)


class _Vectors(NamedTuple):
    """Sparse vectors in CSR form: the entries of item i lie from ``starts[i]`` to ``starts[i + 1]``."""

    starts: Indices
    columns: Indices
    values: NDArray[np.float64]

    def of(self, item: int) -> tuple[Indices, NDArray[np.float64]]:
        part = slice(self.starts[item], self.starts[item + 1])
        return self.columns[part], self.values[part]


def _nearest(
    streamed: StreamedDistances, count: int, queries: int, k: int, distance: Distance
) -> tuple[Indices, NDArray[np.float32], NDArray[np.float32]]:
    """The k nearest items of each item (count, k), its largest distance, and the distances of queries and gallery."""
    # The bits of a float that is not negative sort as the float does; with the column behind them they form a key.
    best = np.full((count, k), np.iinfo(np.int64).max)
    largest = np.zeros(count, np.float32)
    result = np.empty((queries, count - queries), np.float32)
    for rows, columns, tile in streamed.tiles():
        if distance == "euclidean":
            np.sqrt(tile, out=tile)
        if not np.isfinite(tile.max()):
            raise ValueError("a distance is NaN or infinite: the embeddings are too large to compare")
        np.maximum(largest[rows], tile.max(axis=1), out=largest[rows])
        if rows.start < queries and columns.stop > queries:
            height, left = min(rows.stop, queries) - rows.start, max(columns.start, queries)
            target = result[rows.start : rows.start + height, left - queries : columns.stop - queries]
            target[...] = tile[:height, left - columns.start :]
        keys = (tile.view(np.int32).astype(np.int64) << 32) | np.arange(columns.start, columns.stop)
        both = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
        keys[both - rows.start, both - columns.start] = both - count  # lowest: an item is its own first neighbour
        candidates = np.concatenate([best[rows], keys], axis=1)
        candidates.partition(k - 1, axis=1)
        best[rows] = candidates[:, :k]
    best.sort(axis=1)
    near = best & 0xFFFFFFFF
    near[:, 0] = np.arange(count)
    return near, np.where(largest > 0, largest, 1), result


def _reciprocal(near: Indices, k: int) -> list[Indices]:
    """R(p, k) of every item p, which comes first."""
    found = []
    for start in range(0, len(near), 1024):
        mine = near[start : start + 1024, : k + 1]
        mutual = (near[mine, : k + 1] == mine[:, :1, None]).any(axis=2)
        found += [row[kept] for row, kept in zip(mine, mutual, strict=True)]
    return found


def _vectors(
    streamed: StreamedDistances, near: Indices, largest: NDArray[np.float32], k1: int, distance: Distance
) -> _Vectors:
    half = _reciprocal(near, round(k1 / 2))
    rows = _joined(_expanded(near, k1, half))
    owners = np.repeat(np.arange(len(near)), np.diff(rows.starts))
    distances = streamed.pairs(owners, rows.columns).astype(np.float64)
    distances[owners == rows.columns] = 0  # exactly, in spite of rounding
    values = np.exp(-(np.sqrt(distances) if distance == "euclidean" else distances) / largest[owners])
    values /= np.bincount(owners, weights=values)[owners]
    return rows._replace(values=values)


def _expanded(near: Indices, k1: int, half: list[Indices]) -> Iterator[tuple[Indices, NDArray[np.float64]]]:
    """R* of each item, without weights."""
    for mine in _reciprocal(near, k1):
        inside = set(mine.tolist())
        more = [r for r in (half[q] for q in mine) if 3 * len(inside.intersection(r.tolist())) >= 2 * len(r)]
        columns = np.unique(np.concatenate([mine, *more]))
        yield columns, np.zeros(0)


def _averaged(vectors: _Vectors, nearest: Indices) -> _Vectors:
    def means() -> Iterator[tuple[Indices, NDArray[np.float64]]]:
        for row in nearest:
            columns, values = (np.concatenate(parts) for parts in zip(*map(vectors.of, row), strict=True))
            kept, place = np.unique(columns, return_inverse=True)
            yield kept, np.bincount(place, weights=values) / len(row)

    return _joined(means())


def _joined(rows: Iterator[tuple[Indices, NDArray[np.float64]]]) -> _Vectors:
    columns, values = zip(*rows, strict=True)
    starts = np.cumsum([0, *map(len, columns)])
    return _Vectors(starts, np.concatenate(columns), np.concatenate(values))


def _add_jaccard(result: NDArray[np.float32], vectors: _Vectors, queries: int, factor: float) -> None:
    """Adds ``factor`` times the Jaccard distances to ``result``, row by row."""
    owners = np.repeat(np.arange(len(vectors.starts) - 1), np.diff(vectors.starts))
    of_gallery = np.flatnonzero(owners >= queries)
    order = of_gallery[np.argsort(vectors.columns[of_gallery], kind="stable")]
    columns, items, values = vectors.columns[order], owners[order] - queries, vectors.values[order]
    first, last = (np.searchsorted(columns, np.arange(len(vectors.starts)), side) for side in ("left", "right"))
    for row in range(queries):
        mine, weights = vectors.of(row)
        counts = last[mine] - first[mine]
        place = np.arange(counts.sum()) + np.repeat(first[mine] - np.cumsum(counts) + counts, counts)
        smaller = np.minimum(np.repeat(weights, counts), values[place])
        shared = np.bincount(items[place], weights=smaller, minlength=result.shape[1])
        # The weights of a vector sum to 1, so the larger weights of two vectors sum to 2 minus the smaller ones.
        result[row] += factor * (1 - shared / (2 - shared))
