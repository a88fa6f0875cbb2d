"""Tracklets from a CSV file with one line for each tracklet."""

import csv
import difflib
import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from strfnet.data.readers.directory import check_file, collected, frames_among, frames_in
from strfnet.data.readers.folder import PARTS, check_parts, data_set_of
from strfnet.data.readers.readings import check_one_tracklet, identity_of
from strfnet.data.readers.repeats import Placed, check_apart
from strfnet.data.tracklet import DETAILS, DataSet, Tracklet, natural_order
from strfnet.system.names import check_commas, nearest

_NEEDED, _OPTIONAL = ("path", "identity"), ("subset", "camera", *DETAILS, "clothes", "platform")
_NO_DETAILS = {*_NEEDED, "subset", "camera"}


@dataclass(frozen=True)
class _Line:
    """A line and its position, for messages."""

    place: str
    subset: str
    tracklet: Tracklet


def read_listing(path: str | Path) -> DataSet:
    """Read the tracklets of a CSV file in UTF-8, separated by commas. Its first line names the columns, in any order:

    - ``path``: a folder with the frames of one tracklet, or a pattern such as ``day1/0007_*.jpg``; relative to
      the CSV file's folder, or absolute. Frames are in natural number order.
    - ``identity``: of the person; empty in ``test`` and ``gallery`` if it is unknown; ``junk`` or ``distractor`` for
      -1 and 0 of MARS
    - ``camera``: of the frames; the column may be missing, or empty for all tracklets, unless the frames are named by
      camera as in published data sets
    - ``subset``: ``train``; ``test`` (the gallery, of which ``first_queries`` selects the queries), or ``query`` and
      ``gallery`` instead. A tracklet may be in both of these, in two lines. The column may be missing if no line has
      an identity: all are ``test``.
    - further columns, such as those of `crop_video` (``track``, ``first_time``, ...), become ``details``

    Identities and cameras are strings. Blank lines are ignored. No image is decoded.

    Raises: ValueError naming the file and the line for a column whose name is close to a known one, an unknown
    subset, too many or too few fields, an empty field, a path without frames, a tracklet that is listed twice, a file
    in two tracklets, whatever paths lead to it, two spellings of one identity or camera that look alike, an identity
    ``-1``, ``00-1`` or ``0000``, frames that published data sets count to several tracklets, or frames without a
    camera that these name by one.
    """
    path = Path(path)
    check_file(path, "a CSV listing of tracklets")
    lines = list(_lines(path))
    if not lines:
        raise ValueError(f"{path} lists no tracklets, wanted a line for each after the first")
    _check_repeats(lines)
    check_apart(Placed(line.subset, line.place, line.tracklet) for line in lines)
    parts: dict[str, list[Tracklet]] = {}
    for name in PARTS:
        if tracklets := [line.tracklet for line in lines if line.subset == name]:
            parts[name] = tracklets
    check_parts(parts, path)
    return data_set_of(f"listing {path.name}", parts, same=lambda one, other: one.frames == other.frames)


def _lines(path: Path) -> Iterator[_Line]:
    """The tracklets of a listing, each line checked on its own."""
    base = path.parent
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, skipinitialspace=True, strict=True)
        columns: list[str] = []
        try:
            for fields in reader:
                place = f"line {reader.line_num} of {path}"
                if not "".join(fields).strip():
                    continue
                if not columns:
                    columns = _columns(fields, place)
                elif len(fields) != len(columns):
                    raise ValueError(f"{place} has {len(fields)} fields, wanted {len(columns)}: {', '.join(columns)}")
                else:
                    yield from _line(dict(zip(columns, fields, strict=True)), place, base)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read {path} after line {reader.line_num}: {error}") from error
    if not columns:
        raise ValueError(f"{path} is empty, wanted a first line with {', '.join(_NEEDED)}")


def _columns(fields: list[str], place: str) -> list[str]:
    columns = [field.strip() for field in fields]
    check_commas(columns, place)
    known = (*_NEEDED, *_OPTIONAL)
    for column in columns:
        if column not in known and (not column or _is_close(column, known)):
            raise ValueError(f"{place} has a column {column!r}, the nearest known is {nearest(column, known)!r}")
    if len(set(columns)) < len(columns) or not set(_NEEDED) <= set(columns):
        wanted = "path and identity, and perhaps subset, camera and others, each once"
        raise ValueError(f"{place} has columns {', '.join(columns)}, wanted {wanted}")
    return columns


def _is_close(column: str, known: tuple[str, ...]) -> bool:
    """Whether a column may be meant as a known one, such as "camra", "Camera", "cam_id" or "track_id"."""
    lower = column.lower()
    return lower[:3] in ("cam", "ide") or bool(difflib.get_close_matches(lower, known, n=1, cutoff=0.75))


@collected
def _line(fields: dict[str, str], place: str, base: Path) -> list[_Line]:
    """The tracklet of a line."""
    identity, subset = fields["identity"].strip(), fields.get("subset", "test").strip()
    if identity and "subset" not in fields:
        raise ValueError(f"{place} has an identity, but there is no column subset: wanted one of {', '.join(PARTS)}")
    needed = ("path", "subset", *(() if subset in ("test", "gallery") else ("identity",)))
    for name in needed:
        if not fields.get(name, subset).strip():
            raise ValueError(f"{place} has an empty {name}")
    if subset not in PARTS:
        raise ValueError(f"{place} has the subset {subset!r}, the nearest known is {nearest(subset, PARTS)!r}")
    camera = fields.get("camera", "").strip() or None
    try:
        frames = _frames(fields["path"], base)
        check_one_tracklet(frames, frames[0].parent, needs_camera=camera is None)
    except (ValueError, OSError) as error:
        raise ValueError(f"{place}: {error}") from error
    details = {name: text for name, value in fields.items() if name not in _NO_DETAILS and (text := value.strip())}
    known = identity_of(identity, place) if identity else None
    return [_Line(place, subset, Tracklet(frames, known, camera, details))]


def _frames(text: str, base: Path) -> tuple[Path, ...]:
    place = base / text
    if os.path.isdir(place):  # first, because a folder may be named "[a]"
        return frames_in(place)
    if place.is_file():
        raise ValueError(f"{place} is a file, wanted a folder or a pattern: a line for each tracklet, not frame")
    if not glob.has_magic(text):
        raise ValueError(f"{place} is missing, wanted a folder or a pattern such as {text}/*.jpg")
    found = [Path(name) for name in glob.glob(os.path.join(glob.escape(str(base)), text))]
    frames = frames_among(sorted(found, key=lambda file: (natural_order(file.parent), natural_order(file))))
    for frame in frames:
        if not frame.is_file():
            raise ValueError(f"{frame} is no file, wanted frames")
    if not frames:
        raise ValueError(f"no frames are named like {place}, wanted at least one")
    return frames


def _check_repeats(lines: list[_Line]) -> None:
    """Each tracklet is in one line, or in two as query and gallery; all have a camera or none has."""
    seen: dict[str, _Line] = {}
    for line in lines:
        other = seen.setdefault(line.tracklet.where, line)
        pair = {line.subset, other.subset} == {"query", "gallery"} and line.tracklet == other.tracklet
        if other is not line and not pair:
            raise ValueError(f"{line.place} begins with the frame of {other.place}, wanted each tracklet once")
        if (line.tracklet.camera is None) != (lines[0].tracklet.camera is None):
            raise ValueError(f"one of {lines[0].place} and {line.place} has no camera, wanted one for all or none")
