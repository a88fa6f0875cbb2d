"""A search: the tracklets of a gallery that are nearest to a query."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strfnet.evaluation.distances import unit_length
from strfnet.evaluation.nearest import nearest_items
from strfnet.evaluation.reranking import rerank
from strfnet.inference.embedding_file import check_alike
from strfnet.inference.index import Gallery
from strfnet.inference.search_settings import SearchSettings


@dataclass(frozen=True)
class Hit:
    """A tracklet that a search found.

    Attributes:
        row: of the gallery.
        distance: of its vector and the query's, whatever the order of the hits.
        tracklet: identity, camera, frames, path and details, as `load_embeddings` returns them.
    """

    row: int
    distance: float
    tracklet: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns the row, the distance and the tracklet as one record."""
        names = ("identity", "camera", "frames", "path", "details")
        return {"row": self.row, "distance": self.distance, **{name: self.tracklet[name] for name in names}}


def search_gallery(
    gallery: Gallery,
    query: Tensor | int,
    settings: SearchSettings | None = None,
    *,
    camera: object = None,
    allowed: Tensor | None = None,
) -> list[Hit]:
    """Finds the tracklets of a gallery that are nearest to a query. No identities are needed.

    Hits are in the order of their distances, ties in the order of rows. With ``expand`` they are in the order of
    their distances to the mean of the query and its nearest tracklets (for cosine, of vectors of length 1), and with
    ``rerank`` in that of their re-ranked distances. A ``threshold`` always applies to the distance to the query
    itself, which is the one that `operating_point` calibrates.

    Args:
        gallery: of `open_gallery`.
        query: an embedding (d,) of the network of the gallery, see `check_query`; or a row of the gallery, which is
            left out of the hits.
        settings: which tracklets are searched, and how they are ordered; None for the defaults.
        camera: of the query, for ``camera_aware``, one of the gallery; not needed for a row.
        allowed: the rows that are searched, of `searched_rows`; None computes them.

    Returns: at most ``top`` hits; none if all are above the threshold.
    Raises: ValueError for a row that is out of range or of another camera, ``camera_aware`` without the camera of the
    query or with one that the gallery does not have (naming those that it has), or times if no tracklet has some.
    Source: average query expansion is that of Chum et al., ICCV 2007. The threshold's distance is ours.
    """
    settings, total = settings or SearchSettings(), gallery.vectors.shape[0]
    if isinstance(query, int):
        if not 0 <= query < total:
            raise ValueError(f"query is row {query}, wanted 0 to {total - 1} of {gallery.path}")
        own, vector = gallery.tracklets[query]["camera"], gallery.vectors[torch.tensor([query])]
        if camera is not None and str(camera) != str(own):
            raise ValueError(f"camera is {camera!r}, but row {query} of {gallery.path} is of camera {own!r}")
        camera = own
    else:
        vector = query[None]
    allowed = searched_rows(gallery, settings, camera=camera) if allowed is None else allowed.clone()
    if isinstance(query, int):
        allowed[query] = False
    sought = vector
    if settings.expand:
        neighbours = gallery.vectors[torch.from_numpy(gallery.nearest(vector, settings.expand, allowed)[1][0])]
        both = torch.cat([vector, neighbours]).double()
        sought = (unit_length(both) if gallery.metric == "cosine" else both).mean(dim=0, keepdim=True)
    rows = gallery.nearest(sought, max(settings.top, settings.rerank), allowed)[1][0]
    if settings.rerank and len(rows):
        reranked = rerank(sought.float(), gallery.vectors[torch.from_numpy(rows)], distance=gallery.metric)
        rows = rows[np.argsort(reranked[0].numpy(), kind="stable")]
    rows = rows[: settings.top]
    distances, at = nearest_items(
        vector, gallery.vectors[torch.from_numpy(rows)], max(1, len(rows)), distance=gallery.metric
    )
    distance_of = dict(zip(at[0].tolist(), distances[0].tolist(), strict=True))
    limit = math.inf if settings.threshold is None else settings.threshold
    return [
        Hit(int(row), distance_of[place], gallery.tracklets[int(row)])
        for place, row in enumerate(rows)
        if distance_of[place] <= limit
    ]


def check_query(gallery: Gallery, facts: Mapping[str, Any]) -> None:
    """Checks that embeddings with these facts, of `Embedder.facts`, can be compared with a gallery.

    Raises: ValueError with what differs, or if the gallery does not say how it was computed.
    """
    check_alike(gallery.path, gallery.facts, Path("the query"), facts)


def searched_rows(gallery: Gallery, settings: SearchSettings, *, camera: object = None) -> Tensor:
    """Returns which rows of a gallery a search compares with its query, bool (n,). It needs no query.

    Args:
        gallery: of `open_gallery`.
        settings: of the search. Where times are wanted, rows without times are left out.
        camera: of the query, for ``camera_aware``.

    Raises: ValueError as `search_gallery` does for cameras and times.
    """
    allowed = torch.ones(gallery.vectors.shape[0], dtype=torch.bool)
    timed = settings.since is not None or settings.until is not None
    since = -math.inf if settings.since is None else settings.since
    until = math.inf if settings.until is None else settings.until
    if settings.camera_aware and camera is None:
        raise ValueError("camera_aware is true, but the camera of the query is not known, wanted it too")
    if not timed and not settings.camera_aware:
        return allowed
    timeless = 0
    cameras: set[str] = set()
    for row, tracklet in enumerate(gallery.tracklets):
        if settings.camera_aware and tracklet["camera"] is not None:
            cameras.add(str(tracklet["camera"]))
            if str(tracklet["camera"]) == str(camera):
                allowed[row] = False
        if timed:
            first, last = (_seconds(tracklet, name) for name in ("first_time", "last_time"))
            timeless += first is None or last is None
            if first is None or last is None or last < since or first > until:
                allowed[row] = False
    if settings.camera_aware and str(camera) not in cameras:
        wanted = f"one of {', '.join(sorted(cameras))}" if cameras else "a gallery with cameras"
        which = f"camera is {camera!r}, which no tracklet of {gallery.path} has"
        raise ValueError(f"{which}, wanted {wanted} for camera_aware")
    if timed and timeless == len(allowed):
        raise ValueError(f"no tracklet of {gallery.path} has times, wanted a gallery of videos for since and until")
    return allowed


def _seconds(tracklet: Mapping[str, Any], name: str) -> float | None:
    text = tracklet["details"].get(name)
    try:
        return None if text in (None, "") else float(text)
    except ValueError as error:
        raise ValueError(f"{name} of {tracklet['path']} is {text!r}, wanted seconds") from error
