"""A gallery ranked for each query, and how good the rankings are: CMC and mean average precision."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.labels import Camera, Identity, People

AVERAGE_PRECISIONS = ("rectangle", "trapezoid")
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well queries found their own identity in a gallery. All figures are shares, 0 to 1, in float64.

    Attributes:
        mean_average_precision: over the queries that have a match.
        cmc: at rank k = 1, 2, ... (in ``cmc[k - 1]``) the share of those queries whose first hit has at most
            that rank.
        average_precisions: of every query; NaN for one without a match.
        first_hits: the rank of every query's first hit, counted from 1; 0 where there is none.
        matched: how many queries have an item in the gallery that they should find.
        unmatched: how many have none; they count in no figure.
        gallery: how many items could be ranked: all but junk where that is removed.
        average_precision: "rectangle" or "trapezoid".
    """

    mean_average_precision: float
    cmc: NDArray[np.float64]
    average_precisions: NDArray[np.float64]
    first_hits: NDArray[np.int64]
    matched: int
    unmatched: int
    gallery: int
    average_precision: str

    def __str__(self) -> str:
        ranks = "  ".join(f"R{k} {100 * self.cmc[k - 1]:.2f}" for k in (1, 5, 10, 20) if k <= len(self.cmc))
        counts = f"{self.matched} queries ({self.unmatched} more without a match), {self.gallery} in the gallery"
        return f"mAP {100 * self.mean_average_precision:.2f} ({self.average_precision})  {ranks}  {counts}"


def rank(
    distances: Tensor | Array,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    own: Sequence[int | None] | None = None,
    average_precision: str = "rectangle",
    junk: str = "removed",
    cut: int | None = None,
    ranks: int = 50,
    byte_budget: int = 2**24,
) -> Ranking:
    """CMC and mean average precision of a matrix of distances.

    For a query of identity p and camera c the items of p from other cameras are to be found; items of p from c
    and the query itself are removed; every other item is wrong. The figures are the same for any order of the
    gallery, any ``byte_budget`` and any number of threads.

    **Ties count against**: of items at one distance the wrong ones come first. So a network that gives all
    tracklets one vector gets the worst figures, not those of the order in which the gallery lies. An infinite
    distance is the last place.

    **AP**, with the hits at ranks r_1 < r_2 < ... of n items to be found: "rectangle" is the mean of j / r_j,
    as in the code of AP3D and torchreid; "trapezoid" the mean of (j / r_j + (j - 1) / (r_j - 1)) / 2, whose
    second term is 1 for r_j = 1, as in MARS' MATLAB code and NVAN's. A trapezoid is never larger.

    Args:
        distances: (queries, gallery), smaller is more alike; only their order counts. Not changed.
        query_identities: one for each row, text or whole numbers; 1 and "1" are two.
        gallery_identities: one for each column.
        query_cameras: one for each row; None, for all or for one, where it is not known.
        gallery_cameras: one for each column. An unknown camera is like no other, so that of p's items those with
            an unknown camera on either side are to be found.
        own: the column of each query that is itself in the gallery, and None for the others. It is removed
            whatever the cameras are.
        average_precision: "rectangle" or "trapezoid".
        junk: what becomes of gallery items of identity -1: "removed", or "wrong" as other wrong items. A query
            of identity -1 has no match.
        cut: the ranking ends after so many items, counted before any is removed, and what lies behind is not
            found; None for no end. NVAN's code has one at 10000; nothing else wants it.
        ranks: how far the CMC goes.
        byte_budget: for the rows that are sorted at a time; one row at least.

    Raises: ValueError for NaN (naming its place), other shapes or names, no queries or gallery, a row of ``own``
    that is of another identity, or if not one query has a match.
    Source: the rule, Zheng et al., MARS, ECCV 2016. Ours: ties, unknown cameras, and the search: only values are
    sorted, and the few true matches are searched in them.
    """
    matrix = distances.detach().cpu() if isinstance(distances, Tensor) else distances
    if isinstance(matrix, Tensor):
        matrix = matrix.float().numpy() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix.numpy()
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise ValueError(f"distances are {matrix.dtype} {matrix.shape}, wanted numbers (queries, gallery)")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64 if matrix.dtype.kind in "iu" else np.float32)
    people = People.of(query_identities, gallery_identities, query_cameras, gallery_cameras, own)
    return _ranking(_Matrix(matrix, byte_budget), matrix.shape, people, average_precision, junk, cut, ranks)


def rank_embeddings(
    query: Tensor,
    gallery: Tensor,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    distance: str = "cosine",
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    own: Sequence[int | None] | None = None,
    average_precision: str = "rectangle",
    junk: str = "removed",
    cut: int | None = None,
    ranks: int = 50,
    byte_budget: int = 2**25,
) -> Ranking:
    """CMC and mean average precision of embeddings (n, d) and (m, d), whose distances are never all in memory.

    ``distance`` is "cosine" or "euclidean"; `StreamedDistances` says how they are rounded, so
    that the figures do not depend on ``byte_budget``. Beyond the embeddings it takes about that much and 100 bytes
    a query, an item and a true match. Everything else is as in ``rank``.

    Raises: ValueError as ``rank``, and for embeddings with NaN or infinity (naming the row).
    """
    streamed = StreamedDistances(query, gallery, distance=distance, byte_budget=byte_budget)
    people = People.of(query_identities, gallery_identities, query_cameras, gallery_cameras, own)
    shape = len(query), len(gallery)
    return _ranking(streamed, shape, people, average_precision, junk, cut, ranks)


class _Distances(Protocol):
    """Where distances come from. A tile is the caller's to change."""

    def tiles(self) -> Iterator[tuple[slice, slice, Array]]: ...
    def pairs(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array: ...


class _Matrix:
    def __init__(self, matrix: Array, byte_budget: int) -> None:
        if byte_budget < 1:
            raise ValueError(f"byte_budget must be at least 1, got {byte_budget}")
        self.matrix = matrix
        self.rows = max(1, byte_budget // max(1, matrix.shape[1] * matrix.itemsize))

    def tiles(self) -> Iterator[tuple[slice, slice, Array]]:
        for start in range(0, len(self.matrix), self.rows):
            rows = slice(start, min(start + self.rows, len(self.matrix)))
            yield rows, slice(0, self.matrix.shape[1]), self.matrix[rows].copy()

    def pairs(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
        found: Array = self.matrix[rows, columns]
        return found


def _ranking(
    distances: _Distances,
    shape: tuple[int, ...],
    people: People,
    average_precision: str,
    junk: str,
    cut: int | None,
    ranks: int,
) -> Ranking:
    if average_precision not in AVERAGE_PRECISIONS:
        raise ValueError(
            f"average_precision must be one of {', '.join(AVERAGE_PRECISIONS)}, got {average_precision!r}"
        )
    if junk not in ("removed", "wrong"):
        raise ValueError(f'junk must be "removed" or "wrong", got {junk!r}')
    if ranks < 1 or (cut is not None and cut < 1):
        raise ValueError(f"got {ranks=} and {cut=}, wanted at least 1")
    if not all(shape) or shape != (len(people.query), len(people.gallery)):
        wanted = f"{len(people.query)} queries and {len(people.gallery)} gallery items, one identity each"
        raise ValueError(f"distances are {shape}, wanted {wanted}, and at least 1 of both")

    rows, columns = people.pairs_of_one()
    seen_there = (people.query_cameras[rows] == people.gallery_cameras[columns]) & (people.query_cameras[rows] >= 0)
    good = ~seen_there & (people.own[rows] != columns) & (people.query[rows] != people.junk)
    if not good.any():
        raise ValueError(f"none of {shape[0]} queries has an item of its identity in the gallery to be found")
    is_junk = (people.gallery == people.junk) & (junk == "removed")
    values = distances.pairs(rows[good], columns[good])
    order = np.lexsort((values, rows[good]))
    search = _Search(rows[good][order], values[order], rows, columns, good, np.flatnonzero(is_junk), cut is not None)
    for tile in distances.tiles():
        search.count(*tile)
    return _figures(search, shape[0], int((~is_junk).sum()), average_precision, cut, ranks)


class _Search:
    """Counts, for every item to be found, the wrong items that come before it; tile by tile.

    Args:
        rows: the query of each item to be found, in order.
        values: their distances, ascending for each query.
        same_rows, same_columns: all pairs of one identity, which are not wrong; rows in order.
        good: which of these are to be found.
        junk: columns that are not wrong either.
        removed_too: whether to count what is removed as well, for ``cut``.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        values: Array,
        same_rows: NDArray[np.int64],
        same_columns: NDArray[np.int64],
        good: NDArray[np.bool_],
        junk: NDArray[np.int64],
        removed_too: bool,
    ) -> None:
        self.rows, self.values = rows, values
        self.same_rows, self.same_columns, self.good, self.junk = same_rows, same_columns, good, junk
        self.wrong = np.zeros(len(rows), np.int64)
        self.before = np.zeros(len(rows), np.int64) if removed_too else None  # wrong and removed ones

    def count(self, rows: slice, columns: slice, tile: Array) -> None:
        if np.isnan(tile.min()):
            row, column = np.argwhere(np.isnan(tile))[0] + (rows.start, columns.start)
            raise ValueError(f"the distance of query {row} and gallery item {column} is NaN")
        start, stop = np.searchsorted(self.same_rows, (rows.start, rows.stop))
        same_columns = self.same_columns[start:stop] - columns.start
        inside = (same_columns >= 0) & (same_columns < tile.shape[1])
        at = self.same_rows[start:stop][inside] - rows.start, same_columns[inside]
        # What is not counted becomes NaN, which is sorted behind everything, infinity too.
        if self.before is not None:
            good = self.good[start:stop][inside]
            everything = tile.copy()
            everything[at[0][good], at[1][good]] = np.nan
            self._add(self.before, rows, everything)
        tile[at] = np.nan
        tile[:, self.junk[(self.junk >= columns.start) & (self.junk < columns.stop)] - columns.start] = np.nan
        self._add(self.wrong, rows, tile)

    def _add(self, counts: NDArray[np.int64], rows: slice, tile: Array) -> None:
        tile.sort(axis=1)
        ends = np.searchsorted(self.rows, np.arange(rows.start, rows.stop + 1)).tolist()
        for row, (start, stop) in enumerate(pairwise(ends)):
            if start < stop:
                counts[start:stop] += tile[row].searchsorted(self.values[start:stop], side="right")


def _figures(
    search: _Search, queries: int, gallery: int, average_precision: str, cut: int | None, ranks: int
) -> Ranking:
    found = np.bincount(search.rows, minlength=queries)  # n of each query
    starts = np.cumsum(found) - found
    hit = np.arange(1, len(search.rows) + 1) - starts[search.rows]  # j = 1, 2, ... for each query
    place = hit + search.wrong
    precision = hit / place
    if average_precision == "trapezoid":
        before = np.where(place > 1, (hit - 1) / np.maximum(place - 1, 1), 1.0)
        precision = (precision + before) / 2
    if search.before is not None and cut is not None:
        inside = hit + search.before <= cut
        precision, place = np.where(inside, precision, 0.0), np.where(inside, place, 0)
    matched = found > 0
    sums = np.bincount(search.rows, weights=precision, minlength=queries)
    average_precisions = np.full(queries, np.nan)
    average_precisions[matched] = sums[matched] / found[matched]
    first_hits = np.zeros(queries, np.int64)
    first_hits[matched] = place[starts[matched]]
    reached = np.bincount(first_hits[(first_hits > 0) & (first_hits <= ranks)], minlength=ranks + 1)[1:]
    count = int(matched.sum())
    return Ranking(
        mean_average_precision=math.fsum(average_precisions[matched]) / count,
        cmc=np.cumsum(reached) / count,
        average_precisions=average_precisions,
        first_hits=first_hits,
        matched=count,
        unmatched=queries - count,
        gallery=gallery,
        average_precision=average_precision,
    )
