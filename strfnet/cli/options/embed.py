"""The arguments of `strfnet embed`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from strfnet.cli.options.groups import Boxes, OnTracklets
from strfnet.data.crops import Cropping


@dataclass(frozen=True, kw_only=True)
class Embed(OnTracklets):
    """Write the embeddings of tracklets to a file.

    Args:
        out: File to write: safetensors, or .parquet, .npz or .csv for other tools. Its finished shards are in
            OUT.parts, from where the same command resumes.
        clips: Clip sampler and frames of a clip.
        metric: Distance by which embeddings are compared: cosine scales them to length 1, euclidean does not.
        subset: Subset of a data set to embed: train, or test with query and gallery. Default: test; for the format
            folder all tracklets of a folder that is no data set.
        video: Video file whose tracks are embedded instead of data; no frame is written.
        tracks: Files of tracks of the video, as for `strfnet crop`.
        camera: Name of the video's camera.
    """

    out: Path = field(metadata={"metavar": "FILE"})
    clips: str = field(default="restricted_first:8", metadata={"metavar": "SAMPLER:N"})
    metric: Literal["cosine", "euclidean"] = "cosine"
    subset: Literal["train", "test"] | None = None
    video: Path | None = field(default=None, metadata={"metavar": "FILE"})
    tracks: list[Path] | None = field(default=None, metadata={"metavar": "FILE"})
    camera: str | None = None
    boxes: Boxes
    cropping: Cropping

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_set.data is None and self.video is None:
            raise ValueError("data is missing, wanted the folder of the tracklets, or a video")
        if self.video is not None and self.subset is not None:
            raise ValueError(f"subset is {self.subset}, but a video has none; wanted a data set with it")
        if self.data_set.data is not None and self.video is not None:
            raise ValueError(f"data is {self.data_set.data} and video is {self.video}, wanted one of the two")
        if (self.video is None) != (self.tracks is None) or (self.video is None and self.camera is not None):
            raise ValueError(f"video is {self.video} and tracks are {self.tracks}, wanted both or neither")
