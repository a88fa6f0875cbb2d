"""Video files, decoded once."""

from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av import VideoFrame


class Video:
    """A video file that is decoded once, from the first frame to the last.

    The picture is upright: the rotation that a phone stores is applied, as OpenCV does, so that boxes fit.

    Args:
        path: a file that FFmpeg can read.

    Attributes:
        width: of a frame in pixels, upright.
        height: likewise.

    Raises: ValueError naming the file if it is missing, no video or damaged; ImportError naming what to install.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path} is {'no file' if self.path.exists() else 'missing'}, wanted a video")
        decoded = self._decoded()
        first = next(decoded, None)
        if first is None:
            raise ValueError(f"{path} has no frames, wanted a video")
        self._frames = chain([first], decoded)
        self.height, self.width = _upright(first).shape[:2]

    def read(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, float, NDArray[np.uint8] | None]]:
        """Yields each frame's number from 0, its time in seconds from the first frame, and its picture, once.

        Args:
            wanted: whether the picture of a frame is needed; others are not converted, and are None.

        Yields: pictures as RGB uint8 (h, w, 3).
        Raises: ValueError naming the file and the frame where the video is damaged.
        """
        start: float | None = None
        for number, frame in enumerate(self._frames):
            start = frame.time if start is None else start
            if frame.time is None or start is None:
                raise ValueError(f"frame {number} of {self.path} has no time, wanted a video with time stamps")
            yield number, frame.time - start, _upright(frame) if wanted(number) else None

    def _decoded(self) -> Iterator["VideoFrame"]:
        try:
            import av
        except ImportError as error:
            raise ImportError('video needs PyAV: pip install "strfnet[video]"') from error
        number = 0
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ValueError(f"{self.path} has no video stream, wanted a video")
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for frame in container.decode(stream):
                    yield frame
                    number += 1
        except av.FFmpegError as error:
            raise ValueError(f"cannot read {self.path} at frame {number}: {error.strerror or error}") from error


def _upright(frame: "VideoFrame") -> NDArray[np.uint8]:
    turns = round(frame.rotation / 90)  # counterclockwise
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
