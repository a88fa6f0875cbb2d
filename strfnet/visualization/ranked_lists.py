"""The ranked list of a query: gallery items by distance, each right, wrong or not counted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from strfnet.data.tracklet import JUNK, DataSet
from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.evaluation import gallery_of, labels_of, queries_of
from strfnet.evaluation.labels import Labels
from strfnet.evaluation.protocols import Protocol

RIGHT, WRONG, NOT_COUNTED = "right", "wrong", "not counted"


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
    """Returns the first items of the ranked list of a query, in the order of `strfnet.evaluation.evaluate`.

    Distances are rounded as in `StreamedDistances`; of items at one distance, wrong items come first. Items that are
    not counted stay in the list; the query itself does not.

    Args:
        embeddings: (n, d), one for each tracklet of ``data_set.test``.
        data_set: the data set.
        protocol: the protocol, which defines gallery and distance.
        query: row of the query in ``data_set.test``.
        count: largest number of items.

    Raises: ValueError if ``query`` is no query of the protocol, ``count`` is below 1, or the embeddings are not one
    for each test tracklet.
    """
    if query not in queries_of(data_set, protocol) or count < 1:
        raise ValueError(f"got query {query} and count {count}, wanted one of its queries and at least 1")
    if len(embeddings) != len(data_set.test):
        raise ValueError(
            f"got {len(embeddings)} embeddings, wanted one for each of {len(data_set.test)} test tracklets"
        )
    gallery = np.array([row for row in gallery_of(data_set, protocol) if row != query])
    distances = np.empty(len(gallery))
    vectors = embeddings[[query]]
    for _, columns, tile in StreamedDistances(vectors, embeddings[gallery], distance=protocol.distance).tiles():
        distances[columns] = tile[0]
    if protocol.distance == "euclidean":
        distances = np.sqrt(distances)
    marks = _marks(data_set, protocol, query, gallery.tolist())
    order = np.lexsort((np.array([mark == RIGHT for mark in marks]), distances))[:count]
    return [RankedItem(int(gallery[at]), float(distances[at]), marks[at]) for at in order]


def check_rows(data_set: DataSet, lists: Mapping[int, Sequence[RankedItem]]) -> None:
    """Raises: ValueError if a query or an item is none of the test tracklets."""
    for row in (row for query, found in lists.items() for row in (query, *(item.row for item in found))):
        if not 0 <= row < len(data_set.test):
            raise ValueError(
                f"row is {row}, wanted one of {len(data_set.test)} test tracklets of {data_set.name}, from 0"
            )


def _marks(data_set: DataSet, protocol: Protocol, query: int, gallery: list[int]) -> list[str]:
    labels = Labels.encode(**labels_of(data_set, protocol, [query], gallery))
    rows, columns = labels.same_identity()
    right = set(columns[labels.are_matches(rows, columns)].tolist())
    own = set(columns.tolist())
    return [
        RIGHT if at in right else NOT_COUNTED if at in own or data_set.test[row].identity == JUNK else WRONG
        for at, row in enumerate(gallery)
    ]
