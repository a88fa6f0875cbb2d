"""Boxes of tracked people in a video, from the files that trackers write."""

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from strfnet.system.names import check_choice, check_commas, nearest

Units = Literal["pixels", "relative"]

_TRACK = ("track", "track_id", "id")
_SIZES = (("left", "top", "width", "height"),)
_CORNERS = (("left", "top", "right", "bottom"), ("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
_UNCLEAR = {"x", "y", "w", "h", "box", "bbox", "xywh"}


class Box(NamedTuple):
    """A person in one frame of a video.

    Attributes:
        frame: number of the frame, from 0.
        track: name of the track, the same in all frames of one person.
        left, top, right, bottom: edges of the box, in pixels or, if ``relative``, as fractions of the frame's size.
        relative: whether the edges are fractions.
    """

    frame: int
    track: str
    left: float
    top: float
    right: float
    bottom: float
    relative: bool = False

    def in_pixels(self, width: int, height: int, padding: float = 0.0) -> tuple[int, int, int, int]:
        """The box in whole pixels, cut at the edges of the frame.

        Args:
            width: of the frame.
            height: of the frame.
            padding: added on each side, as a fraction of the box's width and height.

        Returns: left, top, right and bottom; right and bottom are exclusive. The box is empty where it is outside.
        """
        across, down = (width, height) if self.relative else (1, 1)
        left, right, top, bottom = self.left * across, self.right * across, self.top * down, self.bottom * down
        beside, above = padding * (right - left), padding * (bottom - top)
        edges = (left - beside, top - above, right + beside, bottom + above)
        limits = (width, height, width, height)
        left, top, right, bottom = (
            min(max(round(edge), 0), limit) for edge, limit in zip(edges, limits, strict=True)
        )
        return left, top, right, bottom


def read_tracks(
    paths: str | Path | Sequence[str | Path], *, first_frame: int | None = None, units: str | None = None
) -> list[Box]:
    """Read the boxes of one video from one or more files.

    Each file has one of these formats, known by its name and its first line:

    - MOT Challenge text, as ByteTrack and BoT-SORT write it: ``frame, id, left, top, width, height, score, ...`` in
      pixels. Frames count from 1. Of ground truth, which has nine columns, only pedestrians that count are read.
    - A folder of text files as ultralytics writes it with ``save_txt=True``: one file a frame, ``video_12.txt`` for
      frame 12 from 1, with lines ``class x y w h [confidence] id``: centre and size as fractions. Only class 0,
      person, is read.
    - JSON lines (``.jsonl``) or CSV with a first line of names (``.csv``): ``frame``, ``track`` (or ``track_id``,
      ``id``), and ``left, top, width, height`` or ``left, top, right, bottom`` (or ``x1, y1, x2, y2``, or ``xmin,
      ymin, xmax, ymax``). Other columns are ignored.

    With several files the name of a track is ``<file's stem>-<id>``, because each file counts its tracks from 1.

    Args:
        paths: the files, or the folder of ultralytics.
        first_frame: number of the video's first frame in the files, 0 or 1. None for what the format defines; JSON
            lines and CSV define none, so that it is needed unless a frame 0 is in them.
        units: "pixels" or "relative" (fractions of the frame's size) for JSON lines and CSV. None for pixels; boxes
            that are all within 0 .. 1 then raise an error.

    Returns: the boxes in the order of tracks and frames.
    Raises: ValueError naming file and line for a line that cannot be read, a box without extent, a frame before the
    first, a track with two boxes in one frame, detections without tracks, or data with two readings.
    """
    if first_frame not in (None, 0, 1):
        raise ValueError(f"first_frame is {first_frame}, wanted 0 or 1")
    if units is not None:
        check_choice("units", units, get_args(Units))
    files = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    if not files or len({file.stem for file in files}) < len(files):
        raise ValueError(f"tracks are {', '.join(map(str, files)) or 'no file'}, wanted files of different names")
    boxes: dict[tuple[str, int], tuple[Box, str]] = {}
    for file in files:
        for box, place in _read(file, first_frame, units):
            named = box._replace(track=f"{file.stem}-{box.track}") if len(files) > 1 else box
            _check(named, place)
            before = boxes.setdefault((named.track, named.frame), (named, place))[1]
            if before is not place:
                raise ValueError(f"{before} and {place} have the same track and frame, wanted one box")
    if not boxes:
        raise ValueError(f"{', '.join(map(str, files))} holds no boxes of people, wanted at least one")
    return [boxes[key][0] for key in sorted(boxes, key=lambda key: (_natural(key[0]), key[1]))]


def _read(file: Path, first_frame: int | None, units: str | None) -> Iterator[tuple[Box, str]]:
    if file.is_dir():
        if units == "pixels":
            raise ValueError(f"units are pixels, but {file} is a folder of ultralytics, whose boxes are relative")
        return _ultralytics(file, 1 if first_frame is None else first_frame)
    if not file.is_file():
        raise ValueError(f"{file} is missing, wanted tracks as text, .jsonl or .csv, or a folder of ultralytics")
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {file}: {error}") from error
    if file.suffix.lower() == ".jsonl":
        return iter(_named(_json_rows(file, lines), file, first_frame, units))
    first = next((line for line in lines if line.strip()), "")
    if re.match(r"[\s\d.,;e+-]+$", first):
        if units == "relative":
            raise ValueError(f"units are relative, but {file} is MOT text, whose boxes are in pixels")
        return _mot(file, lines, 1 if first_frame is None else first_frame)
    return iter(_named(_csv_rows(file, lines), file, first_frame, units))


def _mot(file: Path, lines: list[str], first_frame: int) -> Iterator[tuple[Box, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"line {number} of {file}"
        values = _numbers(re.split(r"[\s,]+", line.strip().rstrip(",")), place)
        if len(values) not in (6, 7, 8, 9, 10):
            raise ValueError(
                f"{place} has {len(values)} columns, wanted frame, id, left, top, width, height, score ..."
            )
        if len(values) == 9 and (values[6] == 0 or values[7] != 1):
            continue  # ground truth: not counted, or no pedestrian
        frame, track = _whole("frame", values[0], place), _whole("id", values[1], place)
        if track < 0:
            raise ValueError(f"{place} has the id {track}: detections without tracks, wanted the output of a tracker")
        if frame < first_frame:
            readings = "MOT frames count from 1; if these count from 0, say first_frame 0"
            raise ValueError(f"{place} has the frame {frame}: {readings}")
        left, top, width, height = values[2:6]
        yield Box(frame - first_frame, str(track), left, top, left + width, top + height), place


def _ultralytics(folder: Path, first_frame: int) -> Iterator[tuple[Box, str]]:
    files = {file: re.search(r"_(\d+)$", file.stem) for file in sorted(folder.glob("*.txt"))}
    if not files or not all(files.values()):
        wrong = next((file for file, found in files.items() if not found), folder)
        raise ValueError(f"{wrong} is no result of ultralytics, wanted files such as video_12.txt, one a frame")
    if len({file.stem[: found.start()] for file, found in files.items() if found}) > 1:
        raise ValueError(f"{folder} holds the results of several videos, wanted those of one")
    for file, found in files.items():
        frame = int(found[1]) - first_frame if found else 0
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if not line.strip():
                continue
            place = f"line {number} of {file}"
            words = line.split()
            values = _numbers(words, place)
            if len(values) not in (6, 7) or not words[-1].isdecimal():
                raise ValueError(f"{place} has no track, wanted `class x y w h [confidence] id` of `yolo track`")
            kind, x, y, width, height = values[:5]
            if kind == 0:
                edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
                yield Box(frame, words[-1], *edges, relative=True), place


def _json_rows(file: Path, lines: list[str]) -> Iterator[tuple[dict[str, object], str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place = f"line {number} of {file}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{place} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{place} is no JSON object, wanted names and values")
        yield row, place


def _csv_rows(file: Path, lines: list[str]) -> Iterator[tuple[dict[str, object], str]]:
    reader = csv.reader(lines, skipinitialspace=True, strict=True)
    names: list[str] = []
    try:
        for fields in reader:
            if not "".join(fields).strip():
                continue
            if not names:
                names = [field.strip() for field in fields]
                check_commas(names, f"line {reader.line_num} of {file}")
            elif len(fields) != len(names):
                raise ValueError(f"line {reader.line_num} of {file} has {len(fields)} fields, wanted {len(names)}")
            else:
                yield dict(zip(names, fields, strict=True)), f"line {reader.line_num} of {file}"
    except csv.Error as error:
        raise ValueError(f"cannot read {file} after line {reader.line_num}: {error}") from error


def _named(
    rows: Iterator[tuple[dict[str, object], str]], file: Path, first_frame: int | None, units: str | None
) -> list[tuple[Box, str]]:
    """The boxes of rows with named columns."""
    boxes = [(_box(row, place, units == "relative"), place) for row, place in rows]
    if first_frame is None and boxes and min(box.frame for box, _ in boxes) > 0:
        raise ValueError(
            f"frames of {file} count from 0, with nobody in the first one, or from 1: say first_frame 0 or 1"
        )
    if units is None and boxes and all(max(box.right, box.bottom) <= 1 for box, _ in boxes):
        raise ValueError(f"boxes of {file} are within 0 .. 1: fractions of the frame, or pixels? say units")
    return [(box._replace(frame=box.frame - (first_frame or 0)), place) for box, place in boxes]


def _box(row: dict[str, object], place: str, relative: bool) -> Box:
    names = row.keys()
    track = next((name for name in _TRACK if name in names), None)
    columns = [columns for columns in (*_SIZES, *_CORNERS) if names >= set(columns)]
    if "frame" not in names or track is None or len(columns) != 1:
        if not columns and (unclear := sorted(_UNCLEAR & names)):
            raise ValueError(
                f"{place} has {', '.join(unclear)}, which may be a corner or the centre: "
                "wanted left, top, width, height or left, top, right, bottom"
            )
        missing = "frame" if "frame" not in names else "track" if track is None else "left"
        known = nearest(missing, sorted(map(str, names))) if names else "nothing"
        wanted = "frame, track, and either left, top, width, height or left, top, right, bottom"
        raise ValueError(f"{place} has {', '.join(map(str, names))} (nearest to {missing}: {known}), wanted {wanted}")
    left, top, right, bottom = _numbers([row[name] for name in columns[0]], place)
    if columns[0] in _SIZES:
        right, bottom = left + right, top + bottom
    frame = _whole("frame", _numbers([row["frame"]], place)[0], place)
    name = str(row[track]).strip().removesuffix(".0")  # pandas writes a column of integers with gaps as floats
    return Box(frame, name, left, top, right, bottom, relative)


def _check(box: Box, place: str) -> None:
    if box.frame < 0:
        raise ValueError(f"{place} has a frame before the first one, wanted frames from first_frame on")
    if box.right <= box.left or box.bottom <= box.top:
        raise ValueError(f"{place} has a box without width or height, wanted both above 0")
    if not re.fullmatch(r"[^/\\\0]+", box.track) or box.track in (".", "..") or box.track.startswith("."):
        raise ValueError(f"{place} has the track {box.track!r}, wanted a plain name that can be a folder's")


def _numbers(words: Sequence[object], place: str) -> list[float]:
    values = []
    for word in words:
        try:
            value = float(str(word))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{place} has {word!r}, wanted a number")
        values.append(value)
    return values


def _whole(name: str, value: float, place: str) -> int:
    if value != int(value):
        raise ValueError(f"{place} has the {name} {value}, wanted a whole number")
    return int(value)


def _natural(track: str) -> list[str | int]:
    return [int(part) if at % 2 else part for at, part in enumerate(re.split(r"(\d+)", track))]
