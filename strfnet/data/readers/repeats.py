"""One thing under two names: frames reached by several paths, and names that look alike."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from strfnet.data.tracklet import Tracklet


class Placed(NamedTuple):
    """A tracklet, its part of the data set, and where it was found, for messages."""

    part: str
    place: str
    tracklet: Tracklet


def check_apart(found: Iterable[Placed]) -> None:
    """Each frame belongs to one tracklet, or to one that is both query and gallery, whatever paths lead to it.

    Raises: ValueError naming both places, also for two identities or two cameras whose names differ only in what
    cannot be seen: the form of Unicode, blanks at the ends, or characters without width.
    """
    files: dict[tuple[int, int], Placed] = {}
    names: dict[tuple[str, str], tuple[str, str]] = {}
    known: set[tuple[str, str]] = set()
    for placed in found:
        for kind, name in (("identity", placed.tracklet.identity), ("camera", placed.tracklet.camera)):
            if not isinstance(name, str) or (kind, name) in known:
                continue
            known.add((kind, name))
            other, place = names.setdefault((kind, _seen(name)), (name, placed.place))
            if other != name:
                both = f"{other!a} of {place} and {name!a} of {placed.place}"
                raise ValueError(f"{both} are two spellings of one {kind}, wanted one")
        _check_frames(placed, files)


def _check_frames(placed: Placed, files: dict[tuple[int, int], Placed]) -> None:
    for frame in placed.tracklet.frames:
        if not isinstance(frame, Path):
            continue
        other = files.setdefault(_file(frame), placed)
        if other is not placed and not _is_pair(placed, other):
            raise ValueError(
                f"{placed.place} and {other.place} have the same file, {frame}: wanted it in one tracklet"
            )


def _is_pair(one: Placed, other: Placed) -> bool:
    """Whether one tracklet is listed as a query and in the gallery."""
    labels = {(each.tracklet.identity, each.tracklet.camera) for each in (one, other)}
    same = [[_file(frame) for frame in each.tracklet.frames if isinstance(frame, Path)] for each in (one, other)]
    return {one.part, other.part} == {"query", "gallery"} and len(labels) == 1 and same[0] == same[1]


def _file(frame: Path) -> tuple[int, int]:
    """The device and the number of a file, which all paths and links to it share."""
    status = os.stat(frame)
    return status.st_dev, status.st_ino


def _seen(name: str) -> str:
    """What is seen of a name."""
    visible = (character for character in name if unicodedata.category(character) not in ("Cc", "Cf"))
    return unicodedata.normalize("NFC", "".join(visible)).strip()
