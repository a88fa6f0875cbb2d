"""Tracklets of a report as JPEG files, with their captions."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strfnet.data.frames import MAX_PIXELS, read_pixels
from strfnet.data.tracklet import DataSet
from strfnet.visualization.captions import caption_of, frame_name, shown_frames
from strfnet.visualization.figures import MARKS
from strfnet.visualization.ranked_items import RankedItem, check_rows

SIZE = (192, 96)  # height and width in pixels
_FRAMES = 7  # of a tracklet; the middle one is the tracklet's middle frame


@dataclass(frozen=True)
class ReportTracklet:
    """A tracklet of a report.

    Args:
        row: its row of the test set.
        frames: JPEG files of some frames, in temporal order; the middle one stands for the tracklet.
        names: the name of each of these frames.
        caption: lines about the tracklet and its middle frame.
        source: where all its frames are.
    """

    row: int
    frames: tuple[bytes, ...]
    names: tuple[str, ...]
    caption: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class ReportItem:
    """An item of a ranked list: the tracklet, its mark ("query", "right", "wrong", "not counted") and a line."""

    tracklet: ReportTracklet
    mark: str
    text: str


def report_lists(
    data_set: DataSet,
    lists: Mapping[int, Sequence[RankedItem]],
    *,
    notes: Mapping[int, str] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> tuple[list[ReportItem], ...]:
    """Returns queries and their ranked lists for a section of `report_page`; a tracklet of several is read once.

    Args:
        data_set: the data set.
        lists: the output of `ranked_list` by query, a row of ``data_set.test``.
        notes: a line about a query, such as its AP.
        max_pixels: of an image file; a larger image is not decoded.

    Raises: ValueError if a row is no test tracklet, or a frame cannot be read.
    """
    check_rows(data_set, lists)
    rows = {row for query, found in lists.items() for row in (query, *(item.row for item in found))}
    tracklets = {row: _tracklet(data_set, row, max_pixels) for row in sorted(rows)}

    def listed(query: int, found: Sequence[RankedItem]) -> list[ReportItem]:
        first = ReportItem(tracklets[query], "query", (notes or {}).get(query, "query"))
        others = (
            ReportItem(tracklets[item.row], item.mark, f"{MARKS[item.mark][1]} {item.distance:.3f}") for item in found
        )
        return [first, *others]

    return tuple(listed(query, found) for query, found in lists.items())


def _tracklet(data_set: DataSet, row: int, max_pixels: int) -> ReportTracklet:
    tracklet = data_set.test[row]
    frames = shown_frames(tracklet, _FRAMES)
    pixels = read_pixels(tracklet.frames, frames, SIZE, max_pixels=max_pixels)
    if pixels.is_floating_point():  # of 16-bit images
        pixels = (255 * pixels).round().byte()
    images = pixels.permute(1, 2, 3, 0).contiguous().numpy()
    source = f"{len(tracklet.frames)} frames, the first is {tracklet.where}"
    return ReportTracklet(
        row,
        tuple(map(_jpeg, images)),
        tuple(frame_name(tracklet, frame) for frame in frames),
        tuple(caption_of(tracklet, row, frames[len(frames) // 2])),
        source,
    )


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=85)
    return file.getvalue()
