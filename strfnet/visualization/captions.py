"""What a figure says about a tracklet: identity, camera, track or row, time and the shown frame."""

from collections.abc import Mapping
from pathlib import Path

from strfnet.data.tracklet import Tracklet


def shown_frames(tracklet: Tracklet, count: int) -> list[int]:
    """Up to ``count`` frames of a tracklet, evenly spaced; of one, the middle."""
    length = len(tracklet.frames)
    count = min(count, length)
    return [(2 * number + 1) * length // (2 * count) for number in range(count)]


def caption_of(tracklet: Tracklet, row: int, frame: int) -> list[str]:
    """Returns the lines below a tracklet.

    Args:
        tracklet: the tracklet.
        row: its row of the test set.
        frame: the shown frame, counted from 0.
    """
    details = tracklet.details
    times = times_of(details)
    return [
        "identity unknown" if tracklet.identity is None else f"identity {tracklet.identity}",
        *([] if tracklet.camera is None else [f"camera {tracklet.camera}"]),
        f"track {details['track']}" if "track" in details else f"test row {row}",
        *([times] if times else []),
        f"frame {frame_name(tracklet, frame)}",
    ]


def times_of(details: Mapping[str, str]) -> str:
    """The first and the last time of a tracklet to a tenth of a second; empty if they are not known."""
    times = [details[name] for name in ("first_time", "last_time") if details.get(name)]
    return f"{'–'.join(dict.fromkeys(map(_rounded, times)))} s" if times else ""


def _rounded(seconds: str) -> str:
    try:
        return f"{float(seconds):.1f}"
    except ValueError:  # in a listing of one's own
        return seconds


def frame_name(tracklet: Tracklet, frame: int) -> str:
    """The file of a frame without its suffix, which has the frame's number; of images in memory its position."""
    file = tracklet.frames[frame]
    return file.stem if isinstance(file, Path) else f"{frame + 1} of {len(tracklet.frames)}"


def shortened(text: str, length: int) -> str:
    """Text of at most ``length`` characters: the start and the end of longer text, where numbers are."""
    if len(text) <= length:
        return text
    end = length // 2
    return f"{text[: length - end - 1]}…{text[-end:]}"
