"""Distances judged again by common neighbours: k-reciprocal re-ranking."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances

Indices = NDArray[np.int64]


def rerank(
    query: Tensor,
    gallery: Tensor,
    *,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    distance: str = "cosine",
    byte_budget: int = 2**25,
) -> Tensor:
    """Distances of queries and gallery items that are small where the two have their neighbours in common.

    All n items, queries and gallery alike, are neighbours of each other; an item is its own first neighbour and
    is not counted in k. Distances d are divided by the largest of an item. Then:

    - R(p, k) holds those of the k nearest neighbours of p that have p among theirs; R*(p) is R(p, k1), and for
      each q in it also R(q, k1 / 2) where two thirds of that lie in R(p, k1).
    - p is described by weights exp(-d(p, g)) of the g in R*(p), divided by their sum, and then by the mean of the
      weights of its ``k2`` nearest, itself among them.
    - The Jaccard distance is 1 minus the sum of the smaller over the sum of the larger weights of two items; the
      answer is ``(1 - weight)`` of it and ``weight`` of d.

    Memory: the answer; a copy of the embeddings; ``byte_budget``; 24 n (k1 + 1) bytes for neighbours, and up to
    100 for each weight that is not zero (about k1 to 10 k1 of an item). No matrix of n x n.

    Args:
        query: (q, d) embeddings.
        gallery: (g, d) embeddings.
        k1: neighbours that may be reciprocal; half of it is rounded to the even number.
        k2: neighbours whose descriptions are averaged; 1 for none but the item itself.
        weight: lambda, 0 to 1; at 1 the ranking stays as it was.
        distance: "cosine" or "euclidean".
        byte_budget: for distances while they are formed.

    Returns: float32 (q, g) on the CPU, for ``strfnet.evaluation.ranking.rank``.
    Raises: ValueError for numbers out of range, no queries or gallery, and as `StreamedDistances`.
    Source: Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017. Largest
    distances and sums divided out, as in the authors' code; of equally near items the first in order is nearer.
    """
    if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0 <= weight <= 1:
        wanted = "k1 of at least 1, k2 of 1 to k1 + 1, weight of 0 to 1"
        raise ValueError(f"got {k1=}, {k2=}, {weight=}, wanted {wanted}")
    StreamedDistances(
        query, gallery, distance=distance, byte_budget=byte_budget
    )  # refuses by the names and rows that the caller knows
    if not len(query) or not len(gallery):
        raise ValueError(f"got {len(query)} queries and {len(gallery)} gallery items, wanted at least 1 of both")
    queries, items = len(query), torch.cat([query.detach(), gallery.detach()])
    # The other half is for the keys by which a tile is sorted.
    streamed = StreamedDistances(items, items, distance=distance, byte_budget=max(1, byte_budget // 2))
    near, largest, answer = _nearest(streamed, len(items), queries, min(k1 + 1, len(items)), distance)
    described = _described(streamed, near, largest, k1, distance)
    if k2 > 1:
        described = _averaged(described, near[:, :k2])
    answer *= weight / largest[:queries, None]
    _add_jaccard(answer, described, queries, 1 - weight)
    return torch.from_numpy(answer)


class _Weights(NamedTuple):
    """Weights that are not zero, item after item: those of item i lie from ``starts[i]`` to ``starts[i + 1]``."""

    starts: Indices
    columns: Indices
    values: NDArray[np.float64]

    def of(self, item: int) -> tuple[Indices, NDArray[np.float64]]:
        part = slice(self.starts[item], self.starts[item + 1])
        return self.columns[part], self.values[part]


def _nearest(
    streamed: StreamedDistances, count: int, queries: int, k: int, distance: str
) -> tuple[Indices, NDArray[np.float32], NDArray[np.float32]]:
    """The k nearest of each item (count, k), its largest distance, and the distances of queries and gallery."""
    # A distance is not negative, so its bits grow as it does; in front of the column they make a key to sort by.
    best = np.full((count, k), np.iinfo(np.int64).max)
    largest = np.zeros(count, np.float32)
    answer = np.empty((queries, count - queries), np.float32)
    for rows, columns, tile in streamed.tiles():
        if distance == "euclidean":
            np.sqrt(tile, out=tile)
        if not np.isfinite(tile.max()):
            raise ValueError("a distance is NaN or infinite: the embeddings are too large to be compared")
        np.maximum(largest[rows], tile.max(axis=1), out=largest[rows])
        if rows.start < queries and columns.stop > queries:
            height, left = min(rows.stop, queries) - rows.start, max(columns.start, queries)
            target = answer[rows.start : rows.start + height, left - queries : columns.stop - queries]
            target[...] = tile[:height, left - columns.start :]
        keys = (tile.view(np.int32).astype(np.int64) << 32) | np.arange(columns.start, columns.stop)
        both = np.arange(max(rows.start, columns.start), min(rows.stop, columns.stop))
        keys[both - rows.start, both - columns.start] = both - count  # below all others: its own first neighbour
        candidates = np.concatenate([best[rows], keys], axis=1)
        candidates.partition(k - 1, axis=1)
        best[rows] = candidates[:, :k]
    best.sort(axis=1)
    near = best & 0xFFFFFFFF
    near[:, 0] = np.arange(count)
    return near, np.where(largest > 0, largest, 1), answer


def _reciprocal(near: Indices, k: int) -> list[Indices]:
    """R(p, k) of every item p, itself in front."""
    found = []
    for start in range(0, len(near), 1024):
        mine = near[start : start + 1024, : k + 1]
        mutual = (near[mine, : k + 1] == mine[:, :1, None]).any(axis=2)
        found += [row[kept] for row, kept in zip(mine, mutual, strict=True)]
    return found


def _described(
    streamed: StreamedDistances, near: Indices, largest: NDArray[np.float32], k1: int, distance: str
) -> _Weights:
    half = _reciprocal(near, round(k1 / 2))
    rows = _joined(_expanded(near, k1, half))
    owners = np.repeat(np.arange(len(near)), np.diff(rows.starts))
    apart = streamed.pairs(owners, rows.columns).astype(np.float64)
    apart[owners == rows.columns] = 0  # an item is not away from itself, whatever its rounding says
    values = np.exp(-(np.sqrt(apart) if distance == "euclidean" else apart) / largest[owners])
    values /= np.bincount(owners, weights=values)[owners]
    return rows._replace(values=values)


def _expanded(near: Indices, k1: int, half: list[Indices]) -> Iterator[tuple[Indices, NDArray[np.float64]]]:
    """R* of each item, without weights yet."""
    for mine in _reciprocal(near, k1):
        inside = set(mine.tolist())
        more = [r for r in (half[q] for q in mine) if 3 * len(inside.intersection(r.tolist())) >= 2 * len(r)]
        columns = np.unique(np.concatenate([mine, *more]))
        yield columns, np.zeros(0)


def _averaged(described: _Weights, nearest: Indices) -> _Weights:
    def means() -> Iterator[tuple[Indices, NDArray[np.float64]]]:
        for row in nearest:
            columns, values = (np.concatenate(parts) for parts in zip(*map(described.of, row), strict=True))
            kept, place = np.unique(columns, return_inverse=True)
            yield kept, np.bincount(place, weights=values) / len(row)

    return _joined(means())


def _joined(rows: Iterator[tuple[Indices, NDArray[np.float64]]]) -> _Weights:
    columns, values = zip(*rows, strict=True)
    starts = np.cumsum([0, *map(len, columns)])
    return _Weights(starts, np.concatenate(columns), np.concatenate(values))


def _add_jaccard(answer: NDArray[np.float32], described: _Weights, queries: int, share: float) -> None:
    """Add ``share`` of the Jaccard distances to ``answer``, row by row."""
    owners = np.repeat(np.arange(len(described.starts) - 1), np.diff(described.starts))
    of_gallery = np.flatnonzero(owners >= queries)
    order = of_gallery[np.argsort(described.columns[of_gallery], kind="stable")]
    columns, items, values = described.columns[order], owners[order] - queries, described.values[order]
    first, last = (np.searchsorted(columns, np.arange(len(described.starts)), side) for side in ("left", "right"))
    for row in range(queries):
        mine, weights = described.of(row)
        counts = last[mine] - first[mine]
        place = np.arange(counts.sum()) + np.repeat(first[mine] - np.cumsum(counts) + counts, counts)
        smaller = np.minimum(np.repeat(weights, counts), values[place])
        shared = np.bincount(items[place], weights=smaller, minlength=answer.shape[1])
        # The weights of an item sum to 1, so the larger ones of two items sum to 2 minus the smaller ones.
        answer[row] += share * (1 - shared / (2 - shared))
