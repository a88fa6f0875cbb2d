"""Tracklets of a report as JPEG files, with their captions."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from strfnet.data.frames import read_clip
from strfnet.data.tracklet import DataSet
from strfnet.visualization.captions import caption_of, frame_name, shown_frames
from strfnet.visualization.figures import MARKS, images_of
from strfnet.visualization.ranked_lists import RankedItem

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


def report_list(data_set: DataSet, query: int, found: Sequence[RankedItem], *, note: str = "") -> list[ReportItem]:
    """Returns a query and its ranked list for `strfnet.visualization.report_page`.

    Args:
        data_set: the data set.
        query: row of the query in ``data_set.test``.
        found: output of `ranked_list`.
        note: a line about the query, such as its AP.

    Raises: ValueError if a frame cannot be read.
    """
    items = [ReportItem(_tracklet(data_set, query), "query", note)]
    for item in found:
        text = f"{MARKS[item.mark][1]} {item.distance:.3f}"
        items.append(ReportItem(_tracklet(data_set, item.row), item.mark, text))
    return items


def _tracklet(data_set: DataSet, row: int) -> ReportTracklet:
    tracklet = data_set.test[row]
    frames = shown_frames(tracklet, _FRAMES)
    images = images_of(read_clip(tracklet.frames, frames, SIZE))
    source = f"{len(tracklet.frames)} frames, the first is {tracklet.where}"
    return ReportTracklet(
        row,
        tuple(_jpeg(image) for image in (255 * images).round().astype(np.uint8)),
        tuple(frame_name(tracklet, frame) for frame in frames),
        tuple(caption_of(tracklet, row, frames[len(frames) // 2])),
        source,
    )


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, format="JPEG", quality=85)
    return file.getvalue()
