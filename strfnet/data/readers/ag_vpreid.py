"""AG-VPReID: tracklets of pedestrians under ground cameras, worn ones among them, and under drones."""

import re
from pathlib import Path

from strfnet.data.readers.directory import folders_in, frames_in
from strfnet.data.readers.published import checked, data_root
from strfnet.data.tracklet import DataSet, Tracklet

_NAME = re.compile(r"P\d+T\d+A\d+C(\d+)E\d+K\d+F\d+\.jpg", re.IGNORECASE)
_PLATFORMS = {**dict.fromkeys(range(4), "ground"), **dict.fromkeys((4, 5), "aerial")}  # by camera
_CASES = {"case1_aerial_to_ground": ("aerial", "ground"), "case2_ground_to_aerial": ("ground", "aerial")}


def read_ag_vpreid(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read AG-VPReID from the folder with ``train`` and the two cases, or from the one above it.

    Frames are ``<part>/<identity>/<tracklet>/P1T230811A1C4E1K1F001.jpg``, with the camera after C. A part is
    ``train``, or ``query`` or ``gallery`` of ``case1_aerial_to_ground`` or ``case2_ground_to_aerial``. Cameras 0 to 3
    are on the ground, 4 and 5 in the air: ``details["platform"]`` of a tracklet is "ground" or "aerial", by which the
    protocols "aerial_to_ground" and "ground_to_aerial" select a case.

    Checked: the names in a folder have one camera, of the platform that the case wants. Counts are not checked,
    because sources differ.

    Args:
        root: the folder.
        complete: whether the data are AG-VPReID itself; otherwise they are named after their folder.

    Raises: ValueError naming the path of what is missing or wrong.
    Source: Nguyen et al., AG-VPReID, CVPR 2025; the layout as the code of its baseline reads it.
    """
    base = data_root(root, holds="case1_aerial_to_ground", inside="AG-VPReID")
    train = [one for one, _ in _tracklets(base / "train")]
    query: list[Tracklet] = []
    gallery: list[Tracklet] = []
    for case, platforms in _CASES.items():
        for part, found, platform in zip(("query", "gallery"), (query, gallery), platforms, strict=True):
            for tracklet, folder in _tracklets(base / case / part):
                if tracklet.details["platform"] != platform:
                    raise ValueError(f"{folder} is of camera {tracklet.camera}, wanted {platform} cameras in {part}")
                found.append(tracklet)
    rows = range(len(gallery) + len(query))
    data = DataSet(
        "AG-VPReID", tuple(train), (*gallery, *query), tuple(rows[len(gallery) :]), tuple(rows[: len(gallery)])
    )
    return checked(data, base, complete=complete, published={})


def _tracklets(part: Path) -> list[tuple[Tracklet, Path]]:
    return [(_tracklet(folder), folder) for person in folders_in(part) for folder in folders_in(person)]


def _tracklet(folder: Path) -> Tracklet:
    person = folder.parent.name
    if not person.isdecimal():
        raise ValueError(f"{folder.parent} is not named by an identity, wanted a number")
    frames, cameras = frames_in(folder), set()
    for frame in frames:
        name = _NAME.fullmatch(frame.name)
        if name is None or int(name[1]) not in _PLATFORMS:
            raise ValueError(
                f"{frame} is not named like P1T230811A1C4E1K1F001.jpg, with a camera from 0 to 5 after C"
            )
        cameras.add(int(name[1]))
    if len(cameras) > 1:
        raise ValueError(f"{folder} holds frames of cameras {sorted(cameras)}, wanted one")
    camera = cameras.pop()
    return Tracklet(frames, int(person), camera, {"platform": _PLATFORMS[camera]})
