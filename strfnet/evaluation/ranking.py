"""Rankings of a gallery for each query, and their metrics: CMC and mean average precision."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.labels import Attribute, Camera, Identity, Labels
from strfnet.evaluation.protocols import AveragePrecision, Distance
from strfnet.system.names import check_choice

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
        inverse_negative_penalties: of every query, its number of matches divided by the rank of the last one; NaN for
            a query without a match, 0 if the last one is behind ``cut``.
        first_hits: rank of the first match of every query, from 1; 0 if there is none.
        matched: number of queries with a match in the gallery.
        unmatched: number of queries without one, which are left out of all metrics.
        gallery: number of gallery items, without junk where it is removed.
        average_precision: "rectangle" or "trapezoid".
    """

    mean_average_precision: float
    cmc: NDArray[np.float64]
    average_precisions: NDArray[np.float64]
    inverse_negative_penalties: NDArray[np.float64]
    first_hits: NDArray[np.int64]
    matched: int
    unmatched: int
    gallery: int
    average_precision: str

    @property
    def mean_inverse_negative_penalty(self) -> float:
        """mINP: the mean over the queries that have a match. Source: Ye et al., TPAMI 2021, arXiv:2001.04193."""
        return float(np.nanmean(self.inverse_negative_penalties))

    def __str__(self) -> str:
        ranks = "  ".join(f"R{k} {100 * self.cmc[k - 1]:.2f}" for k in (1, 5, 10, 20) if k <= len(self.cmc))
        counts = f"{self.matched} queries ({self.unmatched} more without a match), {self.gallery} gallery items"
        means = f"mAP {100 * self.mean_average_precision:.2f} ({self.average_precision})"
        return f"{means}  mINP {100 * self.mean_inverse_negative_penalty:.2f}  {ranks}  {counts}"


def rank(
    distances: Tensor | Array | StreamedDistances,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    self_match: Sequence[int | None] | None = None,
    differing: Sequence[Attribute] = (),
    common: Sequence[Attribute] = (),
    average_precision: AveragePrecision = "rectangle",
    junk: Junk = "removed",
    cut: int | None = None,
    ranks: int = 50,
    byte_budget: int = 2**24,
) -> Ranking:
    """Computes CMC and mean average precision from a matrix of distances.

    For a query of identity p and camera c, the gallery items of p from other cameras are matches. Items of p from
    c, and the query itself, are removed. All other items are wrong. Further attributes narrow the matches, such as
    clothes in clothes-changing re-identification: other items of p are removed. The metrics do not depend on the
    order of the gallery, on ``byte_budget`` or on the number of threads.

    **Ties count against the query**: of items at one distance, wrong items come first. A network that gives all
    tracklets one vector therefore gets the worst metrics. An infinite distance is the last rank.

    **AP**, with matches at ranks r_1 < r_2 < ... < r_n: "rectangle" is the mean of j / r_j, as in the code of AP3D
    and torchreid. "trapezoid" is the mean of (j / r_j + (j - 1) / (r_j - 1)) / 2, whose second term is 1 for
    r_j = 1, as in the MATLAB code of MARS and in the code of NVAN. A trapezoid is never larger.

    Args:
        distances: (queries, gallery) as a matrix, which is not modified, or as `StreamedDistances`. Smaller is more
            similar, and only the order matters.
        query_identities: one for each row, text or integers; 1 and "1" differ.
        gallery_identities: one for each column.
        query_cameras: one for each row; None, for all or for one, if it is not known.
        gallery_cameras: one for each column. An unknown camera differs from every camera.
        self_match: the column of each query that is the query itself, or None. It is removed whatever its camera.
        differing: attributes in which a match differs from its query, as in the camera: a pair of sequences each, of
            the queries and of the gallery items. An unknown value, None, differs from every value.
        common: attributes that a match has in common with its query.
        average_precision: "rectangle" or "trapezoid".
        junk: treatment of gallery items of identity -1, "removed" or "wrong". A query of identity -1 has no match.
        cut: length at which a ranking ends, counted before items are removed; matches behind it are not found.
            None for no end. The code of NVAN cuts at 10000.
        ranks: length of the CMC.
        byte_budget: memory for the rows of a matrix that are sorted at a time, at least one row.

    Raises: ValueError for NaN (naming its place), other shapes or labels, no queries or gallery, an entry of
    ``self_match`` of another identity, or if no query has a match.
    Source: the rule is that of Zheng et al., MARS, ECCV 2016. Ours: ties, unknown cameras, and the search, which
    sorts only values and looks up the few matches in them.
    """
    source = distances if isinstance(distances, StreamedDistances) else _Matrix(distances, byte_budget)
    labels = Labels.encode(
        query_identities, gallery_identities, query_cameras, gallery_cameras, self_match, differing, common
    )
    check_choice("average_precision", average_precision, get_args(AveragePrecision))
    check_choice("junk", junk, get_args(Junk))
    if ranks < 1 or (cut is not None and cut < 1):
        raise ValueError(f"got {ranks=} and {cut=}, wanted at least 1")
    if not all(source.shape) or source.shape != (len(labels.query), len(labels.gallery)):
        wanted = f"{len(labels.query)} queries and {len(labels.gallery)} gallery items, one identity each"
        raise ValueError(f"distances are {source.shape}, wanted {wanted}, and at least 1 of both")

    rows, columns = labels.same_identity()
    matches = labels.are_matches(rows, columns)
    if not matches.any():
        wanted = "a gallery item of its identity and another camera"
        wanted += " that fits the attributes" if differing or common else ""
        raise ValueError(f"none of {source.shape[0]} queries has a match: {wanted}")
    is_junk = (labels.gallery == labels.junk) & (junk == "removed")
    values = source.pairs(rows[matches], columns[matches])
    order = np.lexsort((values, rows[matches]))
    counts = _Counts(rows[matches][order], values[order], rows, columns, matches, np.flatnonzero(is_junk))
    counts.count(source, with_removed=cut is not None)
    return _metrics(counts, source.shape[0], int((~is_junk).sum()), average_precision, cut, ranks)


def rank_embeddings(
    query: Tensor,
    gallery: Tensor,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    distance: Distance = "cosine",
    byte_budget: int = 2**25,
    **rules: Any,
) -> Ranking:
    """Computes CMC and mean average precision from embeddings (n, d) and (m, d), without the whole matrix.

    ``distance`` is "cosine" or "euclidean". `StreamedDistances` rounds distances, so that the metrics do not depend
    on ``byte_budget``. Memory beyond the embeddings: ``byte_budget``, and 100 bytes for each query, item and match.
    All other arguments are those of `rank`.

    Raises: ValueError as `rank` does, and for embeddings with NaN or infinity (naming the row).
    """
    streamed = StreamedDistances(query, gallery, distance=distance, byte_budget=byte_budget)
    return rank(streamed, query_identities, gallery_identities, **rules)


class _Matrix:
    """A whole matrix with the methods of `StreamedDistances`."""

    def __init__(self, distances: Tensor | Array, byte_budget: int) -> None:
        if isinstance(distances, Tensor):
            distances = distances.detach().cpu()
            distances = distances.float() if distances.dtype in (torch.float16, torch.bfloat16) else distances
        matrix = np.asarray(distances)
        if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
            raise ValueError(f"distances are {matrix.dtype} {matrix.shape}, wanted numbers (queries, gallery)")
        if matrix.dtype not in (np.float32, np.float64):
            matrix = matrix.astype(np.float64 if matrix.dtype.kind in "iu" else np.float32)
        if byte_budget < 1:
            raise ValueError(f"byte_budget must be at least 1, got {byte_budget}")
        self.matrix, self.shape = matrix, matrix.shape
        self.rows = max(1, byte_budget // max(1, matrix.shape[1] * matrix.itemsize))

    def tiles(self) -> Iterator[tuple[slice, slice, Array]]:
        for start in range(0, len(self.matrix), self.rows):
            rows = slice(start, min(start + self.rows, len(self.matrix)))
            yield rows, slice(0, self.matrix.shape[1]), self.matrix[rows].copy()

    def pairs(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Array:
        found: Array = self.matrix[rows, columns]
        return found


@dataclass
class _Counts:
    """Counts, tile by tile, the wrong items that come before each match.

    Args:
        rows: the query of each match, in ascending order.
        values: the distances of the matches, ascending for each query.
        same_rows: the queries of all pairs of one identity, in ascending order.
        same_columns: the gallery items of these pairs.
        matches: which of these pairs are matches; the others are removed.
        junk: columns that are removed.

    Attributes:
        wrong: number of wrong items before each match.
        wrong_or_removed: the same with removed items, for ``cut``; None if they are not counted.
    """

    rows: NDArray[np.int64]
    values: Array
    same_rows: NDArray[np.int64]
    same_columns: NDArray[np.int64]
    matches: NDArray[np.bool_]
    junk: NDArray[np.int64]

    def count(self, distances: "StreamedDistances | _Matrix", *, with_removed: bool) -> None:
        self.wrong = np.zeros(len(self.rows), np.int64)
        self.wrong_or_removed = np.zeros(len(self.rows), np.int64) if with_removed else None
        for tile in distances.tiles():
            self._count_tile(*tile)

    def _count_tile(self, rows: slice, columns: slice, tile: Array) -> None:
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
    penalties = np.full(queries, np.nan)
    last = place[starts[matched] + matches[matched] - 1]  # 0 behind the cut
    penalties[matched] = np.where(last > 0, matches[matched] / np.maximum(last, 1), 0.0)
    first_hits = np.zeros(queries, np.int64)
    first_hits[matched] = place[starts[matched]]
    reached = np.bincount(first_hits[(first_hits > 0) & (first_hits <= ranks)], minlength=ranks + 1)[1:]
    count = int(matched.sum())
    return Ranking(
        mean_average_precision=math.fsum(average_precisions[matched]) / count,
        cmc=np.cumsum(reached) / count,
        average_precisions=average_precisions,
        inverse_negative_penalties=penalties,
        first_hits=first_hits,
        matched=count,
        unmatched=queries - count,
        gallery=gallery,
        average_precision=average_precision,
    )
