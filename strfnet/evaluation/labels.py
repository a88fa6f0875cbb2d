"""Who was seen by which camera, as numbers to compare: the queries and the gallery of a ranking."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

JUNK = -1  # as in strfnet.data.tracklet, which is not read here: a ranking knows no frames
Identity = str | int
Camera = str | int | None


@dataclass(frozen=True)
class People:
    """The identities and cameras of queries and gallery items, whole numbers from 0 in place of names.

    Attributes:
        query: the identity of each query.
        gallery: the identity of each gallery item.
        query_cameras: -1 where the camera is not known.
        gallery_cameras: likewise.
        own: the gallery item that each query itself is, or -1.
        junk: the number of identity ``JUNK``, or -1 where nobody has it.
    """

    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    query_cameras: NDArray[np.int64]
    gallery_cameras: NDArray[np.int64]
    own: NDArray[np.int64]
    junk: int

    @staticmethod
    def of(
        query: Sequence[Identity],
        gallery: Sequence[Identity],
        query_cameras: Sequence[Camera] | None,
        gallery_cameras: Sequence[Camera] | None,
        own: Sequence[int | None] | None,
    ) -> "People":
        """From names, as `strfnet.evaluation.ranking.rank` is given them.

        Raises: ValueError for names that are neither text nor whole numbers, lists of other lengths, or a row of
        ``own`` that is no gallery item of the query's identity.
        """
        query, gallery = _listed(query, "query_identities"), _listed(gallery, "gallery_identities")
        if None in query or None in gallery:
            raise ValueError("an identity is None, wanted text or a whole number")
        cameras = [
            [None] * len(of) if given is None else _listed(given, f"{name}_cameras", len(of))
            for name, of, given in (("query", query, query_cameras), ("gallery", gallery, gallery_cameras))
        ]
        columns = [None] * len(query) if own is None else _listed(own, "own", len(query))
        for row, column in enumerate(columns):
            if column is not None and not (0 <= column < len(gallery) and gallery[column] == query[row]):
                raise ValueError(f"own of query {row} is {column}, wanted a column of identity {query[row]!r}")
        numbers: dict[Identity, int] = {}
        seen: dict[Camera, int] = {None: -1}
        return People(
            query=np.array([numbers.setdefault(who, len(numbers)) for who in query], dtype=np.int64),
            gallery=np.array([numbers.setdefault(who, len(numbers)) for who in gallery], dtype=np.int64),
            query_cameras=np.array([seen.setdefault(where, len(seen)) for where in cameras[0]], dtype=np.int64),
            gallery_cameras=np.array([seen.setdefault(where, len(seen)) for where in cameras[1]], dtype=np.int64),
            own=np.array([-1 if column is None else column for column in columns], dtype=np.int64),
            junk=numbers.get(JUNK, -1),
        )

    def pairs_of_one(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of all pairs of one identity, rows in order."""
        order = np.argsort(self.gallery, kind="stable")
        ordered = self.gallery[order]
        first, last = (np.searchsorted(ordered, self.query, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(np.arange(len(self.query)), counts)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        return rows, order[place]


def _listed(given: Sequence, name: str, count: int | None = None) -> list:
    """As a list of Python's own text and numbers."""
    items = list(given.tolist() if isinstance(given, (Tensor, np.ndarray)) else given)
    if count is not None and len(items) != count:
        raise ValueError(f"{name} has {len(items)} entries, wanted {count}")
    items = [item.item() if isinstance(item, (np.generic, Tensor)) else item for item in items]
    wrong = next((item for item in items if item is not None and not isinstance(item, (str, int))), None)
    if wrong is not None:
        raise ValueError(f"{name} holds {wrong!r}, wanted text or whole numbers")
    return items
