"""The arguments of `strfnet crop`."""

from dataclasses import dataclass, field
from pathlib import Path

from strfnet.cli.options.groups import Boxes
from strfnet.data.crops import Cropping


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Cut the tracklets out of a video: a folder of JPEG files for each track, and a listing.

    Args:
        video: Video file.
        tracks: Files of tracks: MOT Challenge text, a folder of text files of ultralytics, JSON lines, or CSV.
        camera: Name of the camera.
        out: Folder to write to. It may have tracklets of other cameras. The same command resumes.
        quality: Quality of the JPEG files.
    """

    video: Path = field(metadata={"metavar": "FILE"})
    tracks: list[Path] = field(metadata={"metavar": "FILE"})
    camera: str
    out: Path = field(metadata={"metavar": "DIR"})
    quality: int = 95
    boxes: Boxes
    cropping: Cropping
