"""CCVID: tracklets of 226 pedestrians in three sessions, in changing clothes."""

import re
from pathlib import Path

from strfnet.data.readers.directory import frames_in
from strfnet.data.readers.published import checked, data_root, read_lines
from strfnet.data.tracklet import DataSet, Tracklet

_LINE = re.compile(r"((session(\d+))/[^/_\s]+_(\d+)(?:_\S*)?)\s+(\d+)\s+(\S+)")
_SESSION_OF_ITS_OWN, _CAMERAS = "3", 12
_PUBLISHED = {
    "training tracklets": 948,
    "training identities": 75,
    "test tracklets": 1908,
    "test identities": 151,
    "queries": 834,
}


def read_ccvid(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read CCVID from the folder with ``train.txt``, ``query.txt`` and ``gallery.txt``, or from the one above it.

    A line is one tracklet: its folder, such as ``session1/001_01``, its identity, and its clothes. The number after
    the folder's underscore is the camera; cameras of session 3 are others. ``details["clothes"]`` of a tracklet holds
    identity and clothes. The test set is the gallery, then the queries.

    Args:
        root: the folder.
        complete: whether to require the published counts.

    Raises: ValueError naming the path of what is missing or wrong.
    Source: Gu et al., Clothes-Changing Person Re-identification with RGB Modality Only, CVPR 2022, arXiv:2204.06890;
    the layout as its authors' code reads it.
    """
    base = data_root(root, holds="gallery.txt", inside="CCVID")
    train, query, gallery = (_tracklets(base, part) for part in ("train", "query", "gallery"))
    rows = range(len(gallery))
    queries = tuple(range(len(gallery), len(gallery) + len(query)))
    data = DataSet("CCVID", train, (*gallery, *query), queries, tuple(rows))
    return checked(data, base, complete=complete, published=_PUBLISHED)


def _tracklets(base: Path, part: str) -> tuple[Tracklet, ...]:
    listing = base / f"{part}.txt"
    tracklets = []
    for number, text in enumerate(read_lines(listing, "a list of tracklets that comes with CCVID"), start=1):
        fields = _LINE.fullmatch(text.strip())
        if fields is None:
            wanted = "a folder such as session1/001_01, an identity and its clothes"
            raise ValueError(f"line {number} of {listing} is {text!r}, wanted {wanted}")
        folder, _, session, view, identity, clothes = fields.groups()
        camera = int(view) + _CAMERAS * (session == _SESSION_OF_ITS_OWN)
        details = {"clothes": f"{identity}_{clothes}"}
        tracklets.append(Tracklet(frames_in(base / folder), int(identity), camera, details))
    return tuple(tracklets)
