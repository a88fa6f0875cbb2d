"""DukeMTMC-VideoReID: tracklets of 1812 pedestrians under eight cameras, cut from hand-made labels."""

import re
from pathlib import Path

from strfnet.data.readers.directory import folders_in, frames_in
from strfnet.data.readers.folder import frame_names, with_explicit_queries
from strfnet.data.readers.published import checked, data_root
from strfnet.data.tracklet import DataSet, Tracklet

_NAME = re.compile(r"(\d+)(_?)C(\d)\2F(\d+)\2[XD](\d+)\.jpg", re.IGNORECASE)
_NAMES = "0001_C6_F0099_X30823.jpg or 0001C6F0099X30823.jpg"
_PUBLISHED = {
    "training tracklets": 2196,
    "training identities": 702,
    "test tracklets": 2636,
    "test identities": 1110,
    "queries": 702,
    "query identities": 702,
}


def read_duke(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read DukeMTMC-VideoReID from the folder with ``train``, ``query`` and ``gallery``, or from the one above it.

    Frames are ``<part>/<identity>/<tracklet>/*.jpg``, with names such as ``0001_C6_F0099_X30823.jpg`` or
    ``0001C6F0099X30823.jpg``: identity, camera, number in the tracklet, and number in the video of the camera (D
    instead of X for a distractor). They are sorted by the number in the tracklet, which may start above 1 and have
    gaps. A query whose frames are in the gallery too, by their names, is one tracklet, both query and gallery. The
    408 identities without a query are ordinary negatives.

    Checked: the names in a folder have one camera and the identity of the folder, and different numbers.

    Args:
        root: the folder.
        complete: whether to require the published counts.

    Raises: ValueError naming the path of what is missing or wrong.
    Source: Wu et al., Exploit the Unknown Gradually, CVPR 2018, and its authors' page.
    """
    base = data_root(root, holds="gallery", inside="DukeMTMC-VideoReID")
    train, query, gallery = (_tracklets(base / part) for part in ("train", "query", "gallery"))
    data = with_explicit_queries("DukeMTMC-VideoReID", train=train, query=query, gallery=gallery, same=_same_names)
    return checked(data, base, complete=complete, published=_PUBLISHED)


def _tracklets(part: Path) -> list[Tracklet]:
    return [_tracklet(folder) for person in folders_in(part) for folder in folders_in(person)]


def _tracklet(folder: Path) -> Tracklet:
    person = folder.parent.name
    if not person.isdecimal():
        raise ValueError(f"{folder.parent} is not named by an identity, wanted a number")
    numbered: dict[int, Path] = {}
    cameras = set()
    for frame in frames_in(folder):
        parts = _NAME.fullmatch(frame.name)
        if parts is None or int(parts[1]) != int(person):
            raise ValueError(f"{frame} is not named like {_NAMES} with the identity {person}")
        if (other := numbered.setdefault(int(parts[4]), frame)) is not frame:
            raise ValueError(f"{frame} and {other.name} have the same number after F, wanted different ones")
        cameras.add(int(parts[3]))
    if len(cameras) > 1:
        raise ValueError(f"{folder} holds frames of cameras {sorted(cameras)}, wanted one")
    return Tracklet(tuple(numbered[number] for number in sorted(numbered)), int(person), cameras.pop())


def _same_names(one: Tracklet, other: Tracklet) -> bool:
    # A name has the number of the frame in the video of its camera, so equal names are equal frames.
    return frame_names(one) == frame_names(other)
