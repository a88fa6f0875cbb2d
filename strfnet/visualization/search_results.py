"""The figure of a search: the query and its hits, with path, camera and time below each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfnet.data.frames import MAX_PIXELS
from strfnet.data.tracklet import Frame, Tracklet
from strfnet.visualization.captions import times_of
from strfnet.visualization.figures import QUERY, THUMB, framed
from strfnet.visualization.page import Page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS, _CELL, _HEAD = 5, (THUMB[0] + 88, 190), 40  # cells of a row; pixels of a cell (y, x), of the title
_LETTERS = 25  # of a line below an image
_HIT, _SIZE = "#666666", 8.8  # points: 11 pixels


def draw_search(
    query: Tracklet | Mapping[str, Any],
    hits: Sequence[tuple[float, Mapping[str, Any]]],
    *,
    title: str = "",
    max_pixels: int = MAX_PIXELS,
) -> "Figure":
    """Draws the query and the hits of a search, an image each, with distance, path, camera and time.

    Of a tracklet in memory, its middle frame is shown, and of a record its ``path``, the first frame. Where there is
    no such file, as for tracklets that were never written, the image is empty.

    Args:
        query: the tracklet, or the record of a gallery's tracklet, as `load_embeddings` returns it.
        hits: distance and record of each hit, in order; there may be none.
        title: title of the figure.
        max_pixels: of an image file; a larger image is not decoded.

    Raises: ValueError if an image cannot be read; ImportError if matplotlib is missing.
    """
    rows = 1 + len(hits) // _COLUMNS
    page = Page(_COLUMNS * _CELL[1] + 10, _HEAD + rows * _CELL[0])
    page.write(10, 24, title, fontsize=11, weight="bold")
    record = query if isinstance(query, Mapping) else _record(query)
    frames = query.frames if isinstance(query, Tracklet) else _frames(record)
    cells = [(frames, QUERY, ["query", *_lines(record)])]
    for rank, (distance, hit) in enumerate(hits, start=1):
        cells.append((_frames(hit), _HIT, [f"{rank}   distance {distance:.3f}", *_lines(hit)]))
    h, w = THUMB
    for place, (frames, colour, lines) in enumerate(cells):
        x, y = 10 + place % _COLUMNS * _CELL[1], _HEAD + place // _COLUMNS * _CELL[0]
        page.show(framed(Tracklet(frames, None) if frames else None, colour, max_pixels), x, y, w, h)
        if not frames:
            page.write(x + w / 2, y + h / 2, "no image", fontsize=_SIZE, ha="center", va="center", color=_HIT)
        page.write(x, y + h + 4, "\n".join(lines), fontsize=_SIZE, va="top", color="#222222", linespacing=1.15)
    if not hits:
        page.write(10 + _CELL[1], _HEAD + h / 2, "no match", fontsize=11)
    return page.figure


def _record(tracklet: Tracklet) -> dict[str, Any]:
    return {"path": tracklet.where, "camera": tracklet.camera, "details": tracklet.details}


def _frames(record: Mapping[str, Any]) -> tuple[Frame, ...]:
    path = Path(record["path"])
    return (path,) if path.is_file() else ()


def _lines(record: Mapping[str, Any]) -> list[str]:
    """The end of the path in two lines of a cell's width, the camera and the times."""
    details, path = record["details"], record["path"]
    path = path if len(path) <= 2 * _LETTERS else f"…{path[1 - 2 * _LETTERS :]}"
    camera = "" if record["camera"] is None else f"camera {record['camera']}"
    lines = [path[:_LETTERS], path[_LETTERS:], camera[:_LETTERS], times_of(details)]
    return [line for line in lines if line]
