"""Rankings of a gallery for each query, and their metrics: CMC and mean average precision."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.labels import Camera, Identity, Labels
from strfnet.evaluation.protocols import AveragePrecision, Distance

Junk = Literal["removed", "wrong"]
Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Ranking:
    """Metrics of the rankings of all queries, from 0 to 1 in float64.

    Attributes:
        mean_average_precision: mean over the queries that have a match.
        cmc: for rank k = 1, 2, ... (in ``cmc[k - 1]``) the fraction of those queries whose first match has rank k
            or less.
        average_precisions: of every query; NaN for a query without a match.
        first_hits: rank of the first match of every query, from 1; 0 if there is none.
        matched: number of queries with a match in the gallery.
        unmatched: number of queries without one, which are left out of all metrics.
        gallery: number of gallery items, without junk where it is removed.
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
        counts = f"{self.matched} queries ({self.unmatched} more without a match), {self.gallery} gallery items"
        return f"mAP {100 * self.mean_average_precision:.2f} ({self.average_precision})  {ranks}  {counts}"


def rank(
    distances: Tensor | Array,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    self_match: Sequence[int | None] | None = None,
    average_precision: AveragePrecision = "rectangle",
    junk: Junk = "removed",
    cut: int | None = None,
    ranks: int = 50,
    byte_budget: int = 2**24,
) -> Ranking:
    """Computes CMC and mean average precision from a matrix of distances.

    For a query of identity p and camera c, the gallery items of p from other cameras are matches. Items of p from
    c, and the query itself, are removed. All other items are wrong. The metrics do not depend on the order of the
    gallery, on ``byte_budget`` or on the number of threads.

    **Ties count against the query**: of items at one distance, wrong items come first. A network that gives all
    tracklets one vector therefore gets the worst metrics. An infinite distance is the last rank.

    **AP**, with matches at ranks r_1 < r_2 < ... < r_n: "rectangle" is the mean of j / r_j, as in the code of AP3D
    and torchreid. "trapezoid" is the mean of (j / r_j + (j - 1) / (r_j - 1)) / 2, whose second term is 1 for
    r_j = 1, as in the MATLAB code of MARS and in the code of NVAN. A trapezoid is never larger.

    Args:
        distances: (queries, gallery); smaller is more similar, and only the order matters. Not modified.
        query_identities: one for each row, text or integers; 1 and "1" differ.
        gallery_identities: one for each column.
        query_cameras: one for each row; None, for all or for one, if it is not known.
        gallery_cameras: one for each column. An unknown camera differs from every camera.
        self_match: the column of each query that is the query itself, or None. It is removed whatever its camera.
        average_precision: "rectangle" or "trapezoid".
        junk: treatment of gallery items of identity -1, "removed" or "wrong". A query of identity -1 has no match.
        cut: length at which a ranking ends, counted before items are removed; matches behind it are not found.
            None for no end. The code of NVAN cuts at 10000.
        ranks: length of the CMC.
        byte_budget: memory for the rows that are sorted at a time, at least one row.

    Raises: ValueError for NaN (naming its place), other shapes or labels, no queries or gallery, an entry of
    ``self_match`` of another identity, or if no query has a match.
    Source: the rule is that of Zheng et al., MARS, ECCV 2016. Ours: ties, unknown cameras, and the search, which
    sorts only values and looks up the few matches in them.
    """
    matrix = distances.detach().cpu() if isinstance(distances, Tensor) else distances
    if isinstance(matrix, Tensor):
        matrix = matrix.float().numpy() if matrix.dtype in (torch.float16, torch.bfloat16) else matrix.numpy()
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise ValueError(f"distances are {matrix.dtype} {matrix.shape}, wanted numbers (queries, gallery)")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64 if matrix.dtype.kind in "iu" else np.float32)
    labels = Labels.encode(query_identities, gallery_identities, query_cameras, gallery_cameras, self_match)
    return _rank(_Matrix(matrix, byte_budget), matrix.shape, labels, average_precision, junk, cut, ranks)


def rank_embeddings(
    query: Tensor,
    gallery: Tensor,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    distance: Distance = "cosine",
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    self_match: Sequence[int | None] | None = None,
    average_precision: AveragePrecision = "rectangle",
    junk: Junk = "removed",
    cut: int | None = None,
    ranks: int = 50,
    byte_budget: int = 2**25,
) -> Ranking:
    """Computes CMC and mean average precision from embeddings (n, d) and (m, d), without the whole matrix.

    ``distance`` is "cosine" or "euclidean". `StreamedDistances` rounds distances, so that the metrics do not depend
    on ``byte_budget``. Memory beyond the embeddings: ``byte_budget``, and 100 bytes for each query, item and match.
    All other arguments are those of `rank`.

    Raises: ValueError as `rank` does, and for embeddings with NaN or infinity (naming the row).
    """
    streamed = StreamedDistances(query, gallery, distance=distance, byte_budget=byte_budget)
    labels = Labels.encode(query_identities, gallery_identities, query_cameras, gallery_cameras, self_match)
    return _rank(streamed, (len(query), len(gallery)), labels, average_precision, junk, cut, ranks)


class _Distances(Protocol):
    """A source of distances. The receiver may modify a tile."""

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


def _rank(
    distances: _Distances,
    shape: tuple[int, ...],
    labels: Labels,
    average_precision: AveragePrecision,
    junk: Junk,
    cut: int | None,
    ranks: int,
) -> Ranking:
    for name, value, choices in (("average_precision", average_precision, AveragePrecision), ("junk", junk, Junk)):
        if value not in get_args(choices):
            raise ValueError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
    if ranks < 1 or (cut is not None and cut < 1):
        raise ValueError(f"got {ranks=} and {cut=}, wanted at least 1")
    if not all(shape) or shape != (len(labels.query), len(labels.gallery)):
        wanted = f"{len(labels.query)} queries and {len(labels.gallery)} gallery items, one identity each"
        raise ValueError(f"distances are {shape}, wanted {wanted}, and at least 1 of both")

    rows, columns = labels.same_identity()
    cameras = labels.query_cameras[rows]
    removed = (cameras == labels.gallery_cameras[columns]) & (cameras >= 0)
    removed |= (labels.self_match[rows] == columns) | (labels.query[rows] == labels.junk)
    if removed.all():
        raise ValueError(f"none of {shape[0]} queries has a match: a gallery item of its identity and another camera")
    is_junk = (labels.gallery == labels.junk) & (junk == "removed")
    values = distances.pairs(rows[~removed], columns[~removed])
    order = np.lexsort((values, rows[~removed]))
    counts = _Counts(
        rows[~removed][order], values[order], rows, columns, ~removed, np.flatnonzero(is_junk), cut is not None
    )
    for tile in distances.tiles():
        counts.add(*tile)
    return _metrics(counts, shape[0], int((~is_junk).sum()), average_precision, cut, ranks)


class _Counts:
    """Counts, tile by tile, the wrong items that come before each match.

    Args:
        rows: the query of each match, in ascending order.
        values: the distances of the matches, ascending for each query.
        same_rows: the queries of all pairs of one identity, in ascending order.
        same_columns: the gallery items of these pairs.
        matches: which of these pairs are matches; the others are removed.
        junk: columns that are removed.
        with_removed: whether to count removed items as well, for ``cut``.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        values: Array,
        same_rows: NDArray[np.int64],
        same_columns: NDArray[np.int64],
        matches: NDArray[np.bool_],
        junk: NDArray[np.int64],
        with_removed: bool,
    ) -> None:
        self.rows, self.values = rows, values
        self.same_rows, self.same_columns, self.matches, self.junk = same_rows, same_columns, matches, junk
        self.wrong = np.zeros(len(rows), np.int64)
        self.wrong_or_removed = np.zeros(len(rows), np.int64) if with_removed else None

    def add(self, rows: slice, columns: slice, tile: Array) -> None:
        if np.isnan(tile.min()):
            row, column = np.argwhere(np.isnan(tile))[0] + (rows.start, columns.start)
            raise ValueError(f"the distance of query {row} and gallery item {column} is NaN")
        start, stop = np.searchsorted(self.same_rows, (rows.start, rows.stop))
        same_columns = self.same_columns[start:stop] - columns.start
        inside = (same_columns >= 0) & (same_columns < tile.shape[1])
        at = self.same_rows[start:stop][inside] - rows.start, same_columns[inside]
        # Items that are not counted become NaN, which is sorted behind infinity.
        if self.wrong_or_removed is not None:
            matches = self.matches[start:stop][inside]
            everything = tile.copy()
            everything[at[0][matches], at[1][matches]] = np.nan
            self._add(self.wrong_or_removed, rows, everything)
        tile[at] = np.nan
        tile[:, self.junk[(self.junk >= columns.start) & (self.junk < columns.stop)] - columns.start] = np.nan
        self._add(self.wrong, rows, tile)

    def _add(self, counts: NDArray[np.int64], rows: slice, tile: Array) -> None:
        tile.sort(axis=1)
        ends = np.searchsorted(self.rows, np.arange(rows.start, rows.stop + 1)).tolist()
        for row, (start, stop) in enumerate(pairwise(ends)):
            if start < stop:
                counts[start:stop] += tile[row].searchsorted(self.values[start:stop], side="right")


def _metrics(
    counts: _Counts, queries: int, gallery: int, average_precision: AveragePrecision, cut: int | None, ranks: int
) -> Ranking:
    matches = np.bincount(counts.rows, minlength=queries)  # n of each query
    starts = np.cumsum(matches) - matches
    hit = np.arange(1, len(counts.rows) + 1) - starts[counts.rows]  # j = 1, 2, ... for each query
    place = hit + counts.wrong
    precision = hit / place
    if average_precision == "trapezoid":
        before = np.where(place > 1, (hit - 1) / np.maximum(place - 1, 1), 1.0)
        precision = (precision + before) / 2
    if counts.wrong_or_removed is not None and cut is not None:
        inside = hit + counts.wrong_or_removed <= cut
        precision, place = np.where(inside, precision, 0.0), np.where(inside, place, 0)
    matched = matches > 0
    sums = np.bincount(counts.rows, weights=precision, minlength=queries)
    average_precisions = np.full(queries, np.nan)
    average_precisions[matched] = sums[matched] / matches[matched]
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
