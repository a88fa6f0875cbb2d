"""Verification: whether two tracklets show one person, decided by a threshold of their distance."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.labels import Camera, Identity, Labels
from strfnet.evaluation.protocols import Distance

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Interval = tuple[float, float]
_ROUNDS = 1000  # of the bootstrap
_LOW = 16  # bits of a distance that the second pass of a selection counts


@dataclass(frozen=True, eq=False)
class OperatingPoint:
    """A threshold for "the same person", and how well distances separate genuine from impostor pairs.

    A genuine pair shows one person, an impostor pair two. A pair is accepted if its distance is at most the
    threshold.

    Attributes:
        threshold: the largest distance at which at most the wanted fraction of impostor pairs is accepted. For
            "euclidean" it is a distance, not a square. -inf if even equal embeddings must be refused.
        false_positive_rate: the fraction of impostor pairs accepted, at most the wanted one.
        true_positive_rate: the fraction of genuine pairs accepted.
        false_positive_interval: 95 % interval of that rate at this threshold, over resampled query identities.
        true_positive_interval: likewise.
        equal_error_rate: where the ROC crosses "false positive rate = 1 - true positive rate"; the ROC is linear
            between its points.
        area: under the ROC.
        d_prime: difference of the mean distances, divided by the root of the mean variance; NaN if all distances are
            equal.
        roc: false and true positive rates (k,) from (0, 0) to (1, 1): all corners of the exact ROC.
        genuine: number of genuine pairs.
        impostors: number of impostor pairs.
    """

    threshold: float
    false_positive_rate: float
    true_positive_rate: float
    false_positive_interval: Interval
    true_positive_interval: Interval
    equal_error_rate: float
    area: float
    d_prime: float
    roc: tuple[Floats, Floats]
    genuine: int
    impostors: int

    def __str__(self) -> str:
        low, high = self.true_positive_interval
        return (
            f"threshold {self.threshold:.4f}: TPR {100 * self.true_positive_rate:.2f} ({100 * low:.2f} to "
            f"{100 * high:.2f}) at FPR {100 * self.false_positive_rate:.4f}  EER {100 * self.equal_error_rate:.2f}  "
            f"d' {self.d_prime:.2f}  {self.genuine} genuine and {self.impostors} impostor pairs"
        )


def operating_point(
    query: Tensor,
    gallery: Tensor,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    false_positive_rate: float = 1e-3,
    query_cameras: Sequence[Camera] | None = None,
    gallery_cameras: Sequence[Camera] | None = None,
    self_match: Sequence[int | None] | None = None,
    distance: Distance = "cosine",
    seed: int = 0,
    byte_budget: int = 2**24,
) -> OperatingPoint:
    """Computes the threshold at a wanted false positive rate from labelled embeddings.

    Pairs are those that `rank` compares: tracklets of one person in one camera, the query itself, and junk are left
    out. All counts are exact; pairs are computed tile by tile, three times, and never held as a whole.

    Args:
        query: embeddings (n, d).
        gallery: embeddings (m, d).
        query_identities: one for each query, text or integers.
        gallery_identities: one for each item.
        false_positive_rate: the fraction of impostor pairs that may be accepted, from 0 to below 1.
        query_cameras: one for each query; None if they are not known.
        gallery_cameras: one for each item.
        self_match: the item that is the query itself, for each query, or None.
        distance: "cosine" (1 - cos) or "euclidean".
        seed: of the bootstrap, which draws query identities with replacement 1000 times.
        byte_budget: memory for a tile of distances.

    Raises: ValueError as `rank_embeddings` does, for a rate outside 0 .. 1, or if there are no genuine or no impostor
    pairs.
    Source: the definitions are those of scikit-learn's ``roc_curve``. Ours: intervals over identities, because pairs
    of one person are not independent.
    """
    if not 0 <= false_positive_rate < 1:
        raise ValueError(f"false_positive_rate is {false_positive_rate}, wanted a fraction from 0 to below 1")
    source = StreamedDistances(query, gallery, distance=distance, byte_budget=byte_budget)
    labels = Labels.encode(query_identities, gallery_identities, query_cameras, gallery_cameras, self_match)
    queries, items = len(labels.query), len(labels.gallery)
    if (len(query), len(gallery)) != (queries, items):
        raise ValueError(f"got {len(query)} and {len(gallery)} embeddings of {queries} and {items} identities")
    rows, columns = labels.same_identity()
    matches = labels.are_matches(rows, columns)
    rows, columns = rows[matches], columns[matches]
    genuine = source.pairs(rows, columns)
    levels, at = np.unique(genuine, return_inverse=True)

    # First pass: how many impostors are below and up to each genuine distance, and the upper bits of all.
    below, up_to = np.zeros(len(levels), np.int64), np.zeros(len(levels), np.int64)
    upper = np.zeros(2**_LOW, np.int64)
    spread = _Spread()
    for _, tile, mask in _tiles(source, labels):
        values = np.abs(tile[mask])  # no negative zero
        values.sort()
        below += np.searchsorted(values, levels, "left")
        up_to += np.searchsorted(values, levels, "right")
        upper += np.bincount(values.view(np.uint32) >> _LOW, minlength=2**_LOW)
        spread.add(_root(values, distance))
    impostors = int(upper.sum())
    if not len(genuine) or not impostors:
        found = f"{len(genuine)} genuine and {impostors} impostor pairs"
        raise ValueError(f"got {found}, wanted both: one person in two cameras, and two persons")

    # Second pass: the nearest impostor that must be refused. Bits of positive floats are in the order of the floats.
    refused = _select(source, labels, upper, math.floor(false_positive_rate * impostors))
    accepted = genuine < refused

    # Third pass: accepted impostors of each query.
    count, wrong = np.zeros(queries, np.int64), np.zeros(queries, np.int64)
    for at_rows, tile, mask in _tiles(source, labels):
        count[at_rows] += mask.sum(axis=1)
        wrong[at_rows] += ((tile < refused) & mask).sum(axis=1)
    right, all_right = (np.bincount(rows[of], minlength=queries) for of in (accepted, slice(None)))
    hits = np.cumsum(np.bincount(at))
    roc = _corners(below / impostors, up_to / impostors, hits / len(genuine))
    spread_of_genuine = _Spread()
    spread_of_genuine.add(_root(genuine, distance))
    return OperatingPoint(
        threshold=float(_root(np.nextafter(refused, np.float32(0)), distance)) if refused else -math.inf,
        false_positive_rate=int(wrong.sum()) / impostors,
        true_positive_rate=int(accepted.sum()) / len(genuine),
        false_positive_interval=_interval(wrong, count, labels.query, seed),
        true_positive_interval=_interval(right, all_right, labels.query, seed),
        equal_error_rate=_equal_error_rate(*roc),
        area=float(np.diff(roc[0]) @ (roc[1][1:] + roc[1][:-1]) / 2),
        d_prime=_d_prime(spread, spread_of_genuine),
        roc=roc,
        genuine=len(genuine),
        impostors=impostors,
    )


def operating_points_by_cameras(
    query: Tensor,
    gallery: Tensor,
    query_identities: Sequence[Identity],
    gallery_identities: Sequence[Identity],
    *,
    query_cameras: Sequence[Camera],
    gallery_cameras: Sequence[Camera],
    **settings: Any,
) -> dict[tuple[Camera, Camera], OperatingPoint]:
    """Computes the operating point of each pair of a query's camera and another camera of the gallery.

    Arguments are those of `operating_point`, without ``self_match``. Pairs of cameras without genuine or without
    impostor pairs are left out.
    """
    points = {}
    for one in dict.fromkeys(query_cameras):
        for other in dict.fromkeys(gallery_cameras):
            rows = [row for row, camera in enumerate(query_cameras) if camera == one]
            columns = [column for column, camera in enumerate(gallery_cameras) if camera == other]
            identities = [query_identities[row] for row in rows], [gallery_identities[column] for column in columns]
            shared = set(identities[0]) & set(identities[1])
            if one != other and shared and len({*identities[0], *identities[1]}) > 1:
                points[one, other] = operating_point(query[rows], gallery[columns], *identities, **settings)
    return points


def _tiles(
    source: StreamedDistances, labels: Labels
) -> Iterator[tuple[slice, NDArray[np.float32], NDArray[np.bool_]]]:
    """Yields tiles of distances with their rows, and the mask of impostor pairs."""
    for rows, columns, tile in source.tiles():
        query, gallery = labels.query[rows, None], labels.gallery[columns]
        yield rows, tile, (query != gallery) & (gallery != labels.junk) & (query != labels.junk)


def _select(source: StreamedDistances, labels: Labels, upper: Counts, at: int) -> np.float32:
    """The impostor distance at an index in ascending order, from the counts of the upper bits of all."""
    ends = np.cumsum(upper)
    head = int(np.searchsorted(ends, at, "right"))
    lower = np.zeros(2**_LOW, np.int64)
    for _, tile, mask in _tiles(source, labels):
        bits = np.abs(tile[mask]).view(np.uint32)
        lower += np.bincount(bits[bits >> _LOW == head] & (2**_LOW - 1), minlength=2**_LOW)
    tail = int(np.searchsorted(np.cumsum(lower), at - int(ends[head] - upper[head]), "right"))
    return np.uint32((head << _LOW) + tail).view(np.float32)


def _corners(below: Floats, up_to: Floats, hits: Floats) -> tuple[Floats, Floats]:
    """The ROC's corners: before and at each genuine distance, between (0, 0) and (1, 1)."""
    before = np.concatenate([[0.0], hits[:-1]])
    false = np.concatenate([[0.0], np.stack([below, up_to], axis=1).ravel(), [1.0]])
    return false, np.concatenate([[0.0], np.stack([before, hits], axis=1).ravel(), [1.0]])


def _equal_error_rate(false: Floats, true: Floats) -> float:
    gap = false - (1 - true)  # ascends from -1 to 1
    at = int(np.argmax(gap >= 0))
    share = gap[at - 1] / (gap[at - 1] - gap[at])
    return float(false[at - 1] + share * (false[at] - false[at - 1]))


def _interval(
    hits: NDArray[np.int64], count: NDArray[np.int64], identities: NDArray[np.int64], seed: int
) -> Interval:
    """The central 95 % of a rate when identities of the queries are drawn with replacement."""
    _, groups = np.unique(identities, return_inverse=True)
    hit, of = (np.bincount(groups, values) for values in (hits, count))
    rng, rates = np.random.default_rng(seed), []
    for _ in range(_ROUNDS):
        drawn = rng.integers(len(of), size=len(of))
        if total := of[drawn].sum():
            rates.append(hit[drawn].sum() / total)
    low, high = np.percentile(rates, [2.5, 97.5]).tolist()
    return low, high


class _Spread:
    """Mean and variance of values that come in parts."""

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    @property
    def variance(self) -> float:
        return self._squares / self.count

    def add(self, values: Floats) -> None:
        if len(values):
            total, mean = self.count + len(values), float(values.mean())
            gap = mean - self.mean
            self._squares += float(np.square(values - mean).sum()) + gap**2 * self.count * len(values) / total
            self.mean += gap * len(values) / total
            self.count = total


def _d_prime(impostors: _Spread, genuine: _Spread) -> float:
    variance = (impostors.variance + genuine.variance) / 2
    return (impostors.mean - genuine.mean) / math.sqrt(variance) if variance else math.nan


def _root(values: NDArray[np.float32], distance: Distance) -> Floats:
    """Distances in float64; streamed Euclidean distances are squares."""
    return np.sqrt(values, dtype=np.float64) if distance == "euclidean" else np.asarray(values, np.float64)
