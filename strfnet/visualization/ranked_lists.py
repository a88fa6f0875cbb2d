"""What a query found: the gallery in the order of its distances, each item right, wrong or not counted."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from strfnet.data.tracklet import JUNK, DataSet
from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.evaluation import gallery_of
from strfnet.evaluation.protocols import Protocol

RIGHT, WRONG, NOT_COUNTED = "right", "wrong", "not counted"


@dataclass(frozen=True)
class Found:
    """An item of a ranked list.

    Attributes:
        row: of the data set's test.
        distance: to the query; Euclidean ones as lengths, not squares.
        mark: "right", "wrong", or "not counted": junk, and what the query's own camera saw of its identity.
    """

    row: int
    distance: float
    mark: str


def ranked_list(embeddings: Tensor, data_set: DataSet, protocol: Protocol, query: int, *, count: int) -> list[Found]:
    """The first items that a query finds, as ``strfnet.evaluation.evaluation.evaluate`` ranks them.

    Distances are the rounded ones of `StreamedDistances`, and of items at one distance the wrong ones come first.
    What is not counted stays in the list, in its place, but for the query itself.

    Args:
        embeddings: (n, d), one for each tracklet of ``data_set.test``.
        data_set: whose query it is.
        protocol: which rows are searched, and by which distance.
        query: row of ``data_set.test``.
        count: how many items, if there are as many.

    Raises: ValueError if ``query`` is no query of the data set, or ``count`` is below 1.
    """
    if query not in data_set.query or count < 1:
        raise ValueError(f"got query {query} and count {count}, wanted one of its queries and at least 1")
    gallery = np.array([row for row in gallery_of(data_set, protocol) if row != query])
    distances = np.empty(len(gallery))
    vectors = embeddings[[query]]
    for _, columns, tile in StreamedDistances(vectors, embeddings[gallery], distance=protocol.distance).tiles():
        distances[columns] = tile[0]
    if protocol.distance == "euclidean":
        distances = np.sqrt(distances)
    marks = [_mark(data_set, query, int(row)) for row in gallery]
    order = np.lexsort((np.array([mark == RIGHT for mark in marks]), distances))[:count]
    return [Found(int(gallery[at]), float(distances[at]), marks[at]) for at in order]


def _mark(data_set: DataSet, query: int, row: int) -> str:
    asked, item = data_set.test[query], data_set.test[row]
    if item.identity == JUNK:
        return NOT_COUNTED
    if item.identity != asked.identity:
        return WRONG
    return NOT_COUNTED if item.camera is not None and item.camera == asked.camera else RIGHT
