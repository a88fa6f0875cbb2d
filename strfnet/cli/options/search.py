"""The arguments of `strfnet search`."""

from dataclasses import dataclass, field
from pathlib import Path

from strfnet.cli.options.groups import Boxes, Inference, Network
from strfnet.inference.search_settings import SearchSettings


@dataclass(frozen=True, kw_only=True)
class QueryNetwork(Network):
    __doc__ = Network.__doc__

    def __post_init__(self) -> None:
        if (self.trained, self.model) != (None, None):  # none for a row of the gallery
            super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class Search:
    """List the tracklets of a gallery that are nearest to a query.

    Args:
        query: Folder of the frames of a tracklet; an image; a video with box, or with tracks and track; or the number
            of a row of the gallery, from 0, which needs no network.
        gallery: File of strfnet embed, or folder of strfnet index. Clips and preprocessing of the query are those of
            the gallery.
        camera: Name of the query's camera in the gallery, for camera-aware.
        box: Box in one frame of the video, as [frame, left, top, width, height] in pixels, frames from 0.
        tracks: Files of tracks of the video, as for strfnet crop.
        track: Name of the track that is the query.
        json: Print a line of JSON for each hit.
        picture: PNG file to draw the query and its hits to.
    """

    query: str = field(metadata={"metavar": "QUERY"})
    gallery: Path = field(metadata={"metavar": "PATH"})
    camera: str | None = None
    box: tuple[int, int, int, int, int] | None = None
    tracks: list[Path] | None = field(default=None, metadata={"metavar": "FILE"})
    track: str | None = None
    json: bool = False
    picture: Path | None = field(default=None, metadata={"metavar": "FILE"})
    search: SearchSettings
    network: QueryNetwork
    inference: Inference
    boxes: Boxes

    def __post_init__(self) -> None:
        if (self.tracks is None) != (self.track is None) or (self.tracks is not None and self.box is not None):
            given = f"box is {self.box}, tracks are {self.tracks} and track is {self.track}"
            raise ValueError(f"{given}, wanted box, or tracks with track, for a video")
        if self.box is not None and (min(self.box[3:]) < 1 or self.box[0] < 0):
            raise ValueError(f"box is {list(self.box)}, wanted [frame, left, top, width, height] in pixels")
