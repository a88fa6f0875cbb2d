"""Tracklets from a video and the boxes of its tracks."""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strfnet.data.tracklet import DETAILS, Frame, Tracklet
from strfnet.data.tracks import Box
from strfnet.data.video import Video
from strfnet.system.files import lock, make_folder, room_for, write_atomically
from strfnet.system.names import check_commas
from strfnet.system.progress import ProgressLine

LISTING = "tracklets.csv"
_SKIPPED: NDArray[np.uint8] = np.zeros((0, 0, 3), np.uint8)  # a frame that the clips of a tracklet do not use
CROPPED = ".crop.json"  # in the folder of a camera: what its crops depend on


@dataclass(frozen=True)
class Cropping:
    """Which boxes become frames of a tracklet.

    Args:
        padding: Margin on each side of a box, as a fraction of its width and height.
        min_height: Least height of a box in pixels, with its margin and within the frame.
        min_width: Least width of a box in pixels, likewise.
        min_length: Least number of frames of a track.
        step: Every n-th frame of a track is kept, from its first.

    Raises: ValueError naming an argument that is out of range.
    """

    padding: float = 0.0
    min_height: int = 16
    min_width: int = 8
    min_length: int = 1
    step: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.padding <= 2:
            raise ValueError(f"padding is {self.padding}, wanted a fraction of the box from 0 to 2")
        for name in ("min_height", "min_width", "min_length", "step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, wanted at least 1")


@dataclass(frozen=True)
class _Crop:
    """A frame of a tracklet before it is decoded: number in the video, position in the track, box in pixels."""

    track: str
    number: int
    at: int
    edges: tuple[int, int, int, int]


def read_video(
    video: str | Path,
    boxes: Sequence[Box],
    *,
    camera: str | int | None = None,
    cropping: Cropping | None = None,
    clips: Callable[[int], list[list[int]]] | None = None,
    progress: bool = False,
) -> list[Tracklet]:
    """Read the tracklets of a video into memory; nothing is written.

    Args:
        video: the file.
        boxes: of `read_tracks`.
        camera: of the tracklets.
        cropping: which boxes are kept; None for the defaults.
        clips: a clip sampler. Only frames of its clips are kept in memory; other frames are empty and cannot be read.
            None keeps all frames.
        progress: whether to show progress on stderr.

    Returns: one tracklet for each track, without identity; ``details`` has its track, frames and times.
    Raises: ValueError as `Video` does, if no track is left, or if a box is in a frame that the video does not have.
    """
    source = Video(video)
    plan = _plan(source, boxes, cropping or Cropping())
    lengths = _lengths(plan)
    needed = {
        track: set(range(length)) if clips is None else {index for clip in clips(length) for index in clip}
        for track, length in lengths.items()
    }
    frames: dict[str, list[Frame]] = {track: [_SKIPPED] * length for track, length in lengths.items()}
    times = _Times()
    for crop, time, picture in _crops(source, plan, lambda crop: crop.at in needed[crop.track], progress):
        times.add(crop, time)
        if picture is not None:
            frames[crop.track][crop.at] = picture.copy()
    return [Tracklet(tuple(frames[track]), None, camera, {"track": track, **times.of(track)}) for track in lengths]


def crop_video(
    video: str | Path,
    boxes: Sequence[Box],
    out: str | Path,
    *,
    camera: str,
    cropping: Cropping | None = None,
    quality: int = 95,
    progress: bool = False,
) -> list[Path]:
    """Write the tracklets of a video as folders of JPEG files, and a listing of them.

    The files are ``out/<camera>/<track>/<number of the frame>.jpg``. ``out/tracklets.csv`` has a line for each
    tracklet, with camera, track, and the numbers and times in seconds of its first and last frame; the lines of
    other cameras are kept, and so are identities and further columns. `read_listing` reads it.

    If the call is interrupted, the same call goes on with the crops that are missing.

    Args:
        video: the file.
        boxes: of `read_tracks`.
        out: the folder, made if it is missing.
        camera: name of the camera, a plain name.
        cropping: which boxes are kept; None for the defaults.
        quality: of the JPEG files, 1 to 100.
        progress: whether to show progress on stderr.

    Returns: the folders of the tracklets.
    Raises: ValueError as `read_video` does, for a camera that is no plain name, or if the camera's folder has crops
    of another video, other boxes or other settings, or its listing other columns.
    """
    from PIL import Image

    cropping, out, folder = cropping or Cropping(), Path(out), Path(out) / camera
    if Path(camera).name != camera or camera.startswith("."):
        raise ValueError(f"camera is {camera!r}, wanted a plain name that can be a folder's")
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}, wanted 1 to 100")
    source = Video(video)
    plan = _plan(source, boxes, cropping)
    make_folder(folder)
    locked = lock(out / ".lock")
    try:
        _listed(out / LISTING)  # before the work
        _claim(folder, source, boxes, cropping, quality)
        times = _Times()

        def file(crop: _Crop) -> Path:
            return folder / crop.track / f"{crop.number:06d}.jpg"

        for track in _lengths(plan):
            (folder / track).mkdir(exist_ok=True)
        kept = {path for track in _lengths(plan) for path in (folder / track).glob("*.jpg")}
        for crop, time, picture in _crops(source, plan, lambda crop: file(crop) not in kept, progress):
            times.add(crop, time)
            if picture is None:
                continue
            content = io.BytesIO()
            Image.fromarray(picture).save(content, "JPEG", quality=quality, subsampling=0)
            unfinished = file(crop).with_suffix(".part")
            with room_for(file(crop), content.tell()):
                unfinished.write_bytes(content.getvalue())
            unfinished.replace(file(crop))
        tracks = list(_lengths(plan))
        _list(out, camera, {track: times.of(track) for track in tracks})
    finally:
        locked.close()
    return [folder / track for track in tracks]


class _Times:
    """Numbers and times of the first and the last frame of each track."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[int, float]] = {}
        self._last: dict[str, tuple[int, float]] = {}

    def add(self, crop: _Crop, time: float) -> None:
        self._last[crop.track] = (crop.number, time)
        self._first.setdefault(crop.track, (crop.number, time))

    def of(self, track: str) -> dict[str, str]:
        (first, start), (last, end) = self._first[track], self._last[track]
        values = (str(first), str(last), f"{start:.3f}", f"{end:.3f}")
        return dict(zip(DETAILS[1:], values, strict=True))


def _plan(video: Video, boxes: Iterable[Box], cropping: Cropping) -> dict[int, list[_Crop]]:
    """The crops of each frame of a video."""
    kept: dict[str, list[tuple[int, tuple[int, int, int, int]]]] = defaultdict(list)
    count = 0
    for box in boxes:
        count += 1
        left, top, right, bottom = edges = box.in_pixels(video.width, video.height, cropping.padding)
        if right - left >= cropping.min_width and bottom - top >= cropping.min_height:
            kept[box.track].append((box.frame, edges))
    plan: dict[int, list[_Crop]] = defaultdict(list)
    for track, found in kept.items():
        found = found[:: cropping.step]
        if len(found) >= cropping.min_length:
            for at, (number, edges) in enumerate(found):
                plan[number].append(_Crop(track, number, at, edges))
    if not plan:
        raise ValueError(
            f"no track of {count} boxes is left: wanted boxes in {video.width} x {video.height} pixels of at least "
            f"{cropping.min_width} x {cropping.min_height}, and {cropping.min_length} or more in a track"
        )
    return plan


def _lengths(plan: dict[int, list[_Crop]]) -> dict[str, int]:
    """The frames of each track."""
    lengths: dict[str, int] = {}
    for crops in plan.values():
        for crop in crops:
            lengths[crop.track] = max(lengths.get(crop.track, 0), crop.at + 1)
    return lengths


def _crops(
    video: Video, plan: dict[int, list[_Crop]], wanted: Callable[[_Crop], bool], progress: bool
) -> Iterator[tuple[_Crop, float, NDArray[np.uint8] | None]]:
    """Yields each crop with the time of its frame, and its picture if it is wanted."""
    last, number = max(plan), -1
    with ProgressLine(last + 1, "frames read", "crops", shown=progress) as line:
        for number, time, picture in video.read(lambda number: any(map(wanted, plan.get(number, ())))):
            crops = plan.get(number, [])
            for crop in crops:
                left, top, right, bottom = crop.edges
                part = picture[top:bottom, left:right] if picture is not None and wanted(crop) else None
                yield crop, time, part
            line.advance(1, len(crops))
            if number == last:
                return
    found = f"{video.path} has {number + 1} frames"
    raise ValueError(f"the tracks have frame {last} (from 0), but {found}: wanted the video of these tracks")


def _claim(folder: Path, video: Video, boxes: Iterable[Box], cropping: Cropping, quality: int) -> None:
    """Check that a folder holds nothing but crops of the same call, and write what they depend on into it."""
    status = video.path.stat()
    facts = {
        "video": [video.path.name, status.st_size, status.st_mtime_ns],
        "boxes": hashlib.sha256(repr(list(boxes)).encode()).hexdigest(),
        "cropping": repr(cropping),
        "quality": quality,
    }
    file = folder / CROPPED
    if not file.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds other files, wanted a new folder or one that this command began")
    if file.exists():
        found = json.loads(file.read_text())
        names = [name for name in facts if found.get(name) != facts[name]]
        if names:
            raise ValueError(f"{folder} has crops with another {', '.join(names)}: remove it, or name another camera")
    else:
        write_atomically(file, json.dumps(facts).encode())


def _list(out: Path, camera: str, rows: dict[str, dict[str, str]]) -> None:
    """Write the lines of a camera into the listing, which keeps what its owner has filled in."""
    columns, before = _listed(out / LISTING)
    names = dict.fromkeys(("path", "identity", "camera", "subset", *DETAILS, *columns))
    known = {row.get("path"): row for row in before}  # with the identities and columns that were filled in since
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(row for row in before if row.get("camera") != camera)
    for track, times in rows.items():
        path = f"{camera}/{track}"
        row = {
            "identity": "",
            "subset": "test",
            **known.get(path, {}),
            "path": path,
            "camera": camera,
            "track": track,
        }
        writer.writerow({**row, **times})
    write_atomically(out / LISTING, text.getvalue().encode())


def _listed(file: Path) -> tuple[Sequence[str], list[dict[str, str]]]:
    """Returns the columns and lines of an earlier listing, none if it is missing. Raises: ValueError for another."""
    if not file.exists():
        return (), []
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened)
        columns = reader.fieldnames or ()
        check_commas(columns, f"line 1 of {file}")
        if columns and not {"path", "camera"} <= set(columns):
            raise ValueError(f"line 1 of {file} has columns {', '.join(columns)}, wanted path and camera among them")
        return columns, list(reader)
