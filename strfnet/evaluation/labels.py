"""Identities, cameras and other attributes of queries and gallery items, encoded as integers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strfnet.data.tracklet import JUNK

Identity = str | int | None  # None is refused
Camera = str | int | None
Attribute = tuple[Sequence[Camera], Sequence[Camera]]  # of the queries and of the gallery items; None if unknown


@dataclass(frozen=True)
class Labels:
    """Labels of queries and gallery items; integers from 0 encode the distinct identities and cameras.

    Attributes:
        query: identity of each query.
        gallery: identity of each gallery item.
        differing: attributes of queries and gallery items, such as cameras, in which matches differ; -1 if unknown.
        common: attributes that matches have in common.
        self_match: the gallery item that is the query itself; -1 if there is none.
        junk: the code of identity ``JUNK``; -1 if no item has it.
    """

    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    differing: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    common: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    self_match: NDArray[np.int64]
    junk: int

    @staticmethod
    def encode(
        query_identities: Sequence[Identity],
        gallery_identities: Sequence[Identity],
        query_cameras: Sequence[Camera] | None,
        gallery_cameras: Sequence[Camera] | None,
        self_match: Sequence[int | None] | None,
        differing: Sequence[Attribute] = (),
        common: Sequence[Attribute] = (),
    ) -> "Labels":
        """Encodes the arguments of `strfnet.evaluation.rank`.

        Raises: ValueError for labels that are neither text nor integers, sequences of the wrong length, or an entry
        of ``self_match`` that is no gallery item of the query's identity.
        """
        query = _listed(query_identities, "query_identities")
        gallery = _listed(gallery_identities, "gallery_identities")
        if None in query or None in gallery:
            raise ValueError("an identity is None, wanted text or an integer")
        cameras = (
            [None] * len(query) if query_cameras is None else query_cameras,
            [None] * len(gallery) if gallery_cameras is None else gallery_cameras,
        )
        columns = [None] * len(query) if self_match is None else _listed(self_match, "self_match", len(query))
        for row, column in enumerate(columns):
            if column is not None and not (0 <= column < len(gallery) and gallery[column] == query[row]):
                raise ValueError(f"self_match of query {row} is {column}, wanted a column of identity {query[row]!r}")
        codes: dict[Identity, int] = {}
        sizes = len(query), len(gallery)
        return Labels(
            query=np.array([codes.setdefault(name, len(codes)) for name in query], dtype=np.int64),
            gallery=np.array([codes.setdefault(name, len(codes)) for name in gallery], dtype=np.int64),
            differing=(
                _encoded(cameras, "cameras", sizes),
                *(_encoded(one, "differing", sizes) for one in differing),
            ),
            common=tuple(_encoded(one, "common", sizes) for one in common),
            self_match=np.array([-1 if column is None else column for column in columns], dtype=np.int64),
            junk=codes.get(JUNK, -1),
        )

    def same_identity(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns rows and columns of all pairs that show one identity, rows in ascending order."""
        order = np.argsort(self.gallery, kind="stable")
        ordered = self.gallery[order]
        first, last = (np.searchsorted(ordered, self.query, side) for side in ("left", "right"))
        counts = last - first
        rows = np.repeat(np.arange(len(self.query)), counts)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        return rows, order[place]

    def are_matches(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pairs of one identity count as matches: not the query itself, no junk, and by all attributes."""
        matches = (self.self_match[rows] != columns) & (self.query[rows] != self.junk)
        for attributes, wanted in ((self.differing, False), (self.common, True)):
            for query, gallery in attributes:
                values = query[rows]
                matches &= ((values == gallery[columns]) & (values >= 0)) == wanted
        return matches


def _encoded(attribute: Attribute, name: str, sizes: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Equal codes for equal values of queries and gallery items, and -1 for None."""
    codes: dict[Camera, int] = {None: -1}
    query, gallery = (
        np.array([codes.setdefault(value, len(codes)) for value in _listed(values, f"{part}_{name}", size)], np.int64)
        for part, values, size in zip(("query", "gallery"), attribute, sizes, strict=True)
    )
    return query, gallery


def _listed(given: Sequence, name: str, count: int | None = None) -> list:
    """The labels as a list of Python's text and integers."""
    items = list(given.tolist() if isinstance(given, (Tensor, np.ndarray)) else given)
    if count is not None and len(items) != count:
        raise ValueError(f"{name} has {len(items)} entries, wanted {count}")
    items = [item.item() if isinstance(item, (np.generic, Tensor)) else item for item in items]
    wrong = next((item for item in items if item is not None and not isinstance(item, (str, int))), None)
    if wrong is not None:
        raise ValueError(f"{name} holds {wrong!r}, wanted text or integers")
    return items
