"""Names of files and folders that could be read in two ways. They raise an error that names both readings."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from strfnet.data.crops import CROPPED
from strfnet.data.tracklet import DISTRACTOR, JUNK

# Frames of published data sets; the group is the camera, with the tracklet where the name has it.
_NAMES = {
    "MARS (format mars)": r"(?i:(?:\d{4}|00-1)(C\dT\d+)F\d+)",
    "DukeMTMC-VideoReID (format duke)": r"(?i:\d{4}_?(C\d)_?F\d+_?[XD]\d+)",
    "Market-1501": r"(?i:-?\d+_(c\ds\d)_\d+.*)",
    "LS-VID (format ls_vid)": r"\d{4}_(\d{3}_\d{2})_\d{4}",
    "iLIDS-VID (format ilids)": r"(cam\d)_person\d+_\d+",
    "AG-VPReID (format ag_vpreid)": r"(?i:P\d+T\d+A\d+(C\d+)E\d+K\d+F\d+)",
}
_NAMED = re.compile("|".join(_NAMES.values()))
_CAMERA = re.compile(r"cam(era)?[ _-]?(\d+|[a-z])", re.IGNORECASE)
_WORDS = {"junk": JUNK, "distractor": DISTRACTOR}


def identity_of(name: str, place: object) -> str | int:
    """The identity of a name: text, or ``JUNK`` or ``DISTRACTOR`` for "junk" and "distractor".

    Raises: ValueError naming the place of ``-1``, ``00-1`` or ``0000``, which may be a person or not.
    """
    if name in ("-1", "00-1", "0000"):
        kind = "distractor" if name == "0000" else "junk"
        raise ValueError(
            f"the identity of {place} is {name!r}: {kind} in MARS and Market-1501, one person otherwise; "
            f"wanted {kind!r}, or another name for a person"
        )
    return _WORDS.get(name, name)


def check_names(root: Path, folders: Sequence[Path], parts: Iterable[str]) -> None:
    """Check that the folders in a root can be identities.

    Raises: ValueError with both readings for the parts of a data set, the cameras or tracks of `crop_video`, or
    folders of tracklets that are named as cameras.
    """
    named = [folder for folder in folders if folder.name.lower() in parts]
    if named:
        raise ValueError(
            f"{root} holds {', '.join(folder.name for folder in named)}: parts of a data set, or people of these "
            f"names; wanted one part, such as {named[-1]} (or --subset), or other names for people"
        )
    if any((folder / CROPPED).is_file() for folder in (root, *folders)):
        raise ValueError(
            f"{root} holds tracks that strfnet crop wrote: their names are tracks, not people; wanted their listing "
            "tracklets.csv by format csv, or the folder of the cameras by layout camera/track"
        )
    if folders and all(_CAMERA.fullmatch(folder.name) for folder in folders):
        raise ValueError(
            f"{root} holds {folders[0].name}: a camera, or a person of this name; wanted layout camera/track for "
            "<camera>/<track>, or <identity>/<camera>/<tracklet>, or other names for people"
        )


def check_one_tracklet(frames: Sequence[Path], place: object, *, needs_camera: bool) -> None:
    """Check the names of frames that are to be one tracklet.

    Args:
        frames: of the tracklet.
        place: of the tracklet, for messages.
        needs_camera: whether the layout gives no camera, so that names with one have two readings.

    Raises: ValueError for frames that published data sets count to several tracklets or, with ``needs_camera``, name
    by their camera.
    """
    found = [(match, frame) for frame in frames if (match := _NAMED.fullmatch(frame.stem))]
    for group, data_set in enumerate(_NAMES if found else (), start=1):
        named = {match[group]: frame for match, frame in found if match[group]}
        if len(named) > 1:
            one, other = list(named.values())[:2]
            raise ValueError(
                f"{place} holds {one.name} and {other.name}: in {data_set} two tracklets, here one; "
                "wanted the frames of one tracklet"
            )
        if named and needs_camera:
            ((code, frame),) = named.items()
            raise ValueError(
                f"{frame} is named as in {data_set}, by camera and tracklet {code}; this layout has no cameras. "
                "Wanted that format, <identity>/<camera>/<tracklet>, or a CSV listing with cameras"
            )
