"""The ranked list of a query: gallery items by distance, each right, wrong or not counted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from strfnet.data.tracklet import DataSet
from strfnet.evaluation.distances import StreamedDistances, unit_length
from strfnet.evaluation.evaluation import gallery_of, labels_of, queries_of
from strfnet.evaluation.labels import Labels
from strfnet.evaluation.protocols import Protocol

RIGHT, WRONG, NOT_COUNTED = "right", "wrong", "not counted"
_BYTES = 2**25  # of the distances that are held at a time


@dataclass(frozen=True)
class RankedItem:
    """An item of a ranked list.

    Attributes:
        row: row of ``data_set.test``.
        distance: distance to the query.
        mark: "right", "wrong", or "not counted" for junk and for items of the query's identity that the protocol
            removes, such as those of its camera.
    """

    row: int
    distance: float
    mark: str


def ranked_list(
    embeddings: Tensor, data_set: DataSet, protocol: Protocol, query: int, *, count: int
) -> list[RankedItem]:
    """Returns the first items of the ranked list of one query, as `ranked_lists` does for several."""
    return ranked_lists(embeddings, data_set, protocol, [query], count=count)[query]


def ranked_lists(
    embeddings: Tensor, data_set: DataSet, protocol: Protocol, queries: Sequence[int], *, count: int
) -> dict[int, list[RankedItem]]:
    """Returns the first items of the ranked list of each query, in the order of `strfnet.evaluation.evaluate`.

    Distances are rounded as in `StreamedDistances`; of items at one distance, wrong items come first. Items that are
    not counted stay in the list; the query itself does not.

    Args:
        embeddings: (n, d), one for each tracklet of ``data_set.test``.
        data_set: the data set.
        protocol: the protocol, which defines gallery and distance.
        queries: rows of the queries in ``data_set.test``.
        count: largest number of items of a list.

    Returns: the lists by query, in the order of ``queries``.
    Raises: ValueError if one of ``queries`` is no query of the protocol, ``count`` is below 1, or the embeddings are
    not one for each test tracklet.
    """
    if len(embeddings) != len(data_set.test):
        raise ValueError(
            f"got {len(embeddings)} embeddings, wanted one for each of {len(data_set.test)} test tracklets"
        )
    evaluated, gallery = queries_of(data_set, protocol), np.array(gallery_of(data_set, protocol))
    places = {row: place for place, row in enumerate(evaluated)}
    for query in queries:
        if query not in places or count < 1:
            raise ValueError(f"got query {query} and count {count}, wanted one of its queries and at least 1")
    labels = Labels.encode(**labels_of(data_set, protocol, evaluated, gallery.tolist()))
    owners, columns = labels.same_identity()
    matches = labels.are_matches(owners, columns)
    ends = np.searchsorted(owners, np.arange(len(evaluated) + 1))
    if protocol.distance == "cosine":
        embeddings = unit_length(embeddings)
    streamed = StreamedDistances(embeddings[list(evaluated)], embeddings[gallery], distance=protocol.distance)
    is_junk = labels.gallery == labels.junk
    lists = {}
    size = max(1, _BYTES // (8 * len(gallery)))
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        for query, distances in zip(part, streamed.of_queries([places[query] for query in part]), strict=True):
            place = places[query]
            pairs = slice(ends[place], ends[place + 1])
            right, removed = np.zeros_like(is_junk), is_junk.copy()
            removed[columns[pairs]] = True
            right[columns[pairs][matches[pairs]]] = True
            last = min(count, len(gallery) - 1)  # one more than the list has, since the query itself is left out
            near = np.flatnonzero(distances <= np.partition(distances, last)[last])
            near = near[near != labels.self_match[place]]
            lists[query] = [
                RankedItem(
                    int(gallery[at]),
                    math.sqrt(distances[at]) if protocol.distance == "euclidean" else float(distances[at]),
                    RIGHT if right[at] else NOT_COUNTED if removed[at] else WRONG,
                )
                for at in near[np.lexsort((right[near], distances[near]))][:count]
            ]
    return lists


def check_rows(data_set: DataSet, lists: Mapping[int, Sequence[RankedItem]]) -> None:
    """Raises: ValueError if a query or an item is none of the test tracklets."""
    for row in (row for query, found in lists.items() for row in (query, *(item.row for item in found))):
        if not 0 <= row < len(data_set.test):
            raise ValueError(
                f"row is {row}, wanted one of {len(data_set.test)} test tracklets of {data_set.name}, from 0"
            )
