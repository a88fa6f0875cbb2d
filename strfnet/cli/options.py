"""The arguments of each command as a record. The parser reads names, types, defaults and help texts from here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from strfnet.data.choices import Kind
from strfnet.data.readers.folder import Layout
from strfnet.data.readers.formats import FORMATS, Format
from strfnet.data.sampling import EVALUATION_SAMPLERS
from strfnet.data.tracks import Units
from strfnet.data.video import Cropping
from strfnet.evaluation.protocols import PROTOCOLS, ProtocolName
from strfnet.inference.search_settings import SearchSettings
from strfnet.system.names import check_name
from strfnet.system.references import is_reference
from strfnet.training.recipe import Recipe

SUFFIXES = {
    "masks": "png",
    "attention": "png",
    "match": "png",
    "ranks": "png",
    "cmc": "png",
    "curve": "png",
    "report": "html",
}


@dataclass(frozen=True, kw_only=True)
class Data:
    """Data set.

    Args:
        data: Folder of the data set, or its CSV file. Default: synthetic walkers, drawn in memory.
        format: Layout of the data set on disk.
        layout: Layout of the folders of the format folder; camera/track for tracklets without identities.
        split: Split to read, from 0; ilids and prid have 10 splits, other data sets one. all, of evaluate, averages
            the metrics of all splits.
        complete: Require the published numbers of tracklets. Use false for a part of a published data set, or for
            other data in its layout.
    """

    data: Path | None = field(default=None, metadata={"metavar": "PATH"})
    format: Format = "folder"
    layout: Layout = "identity/camera/track"
    split: int | Literal["all"] = field(default=0, metadata={"metavar": "N|all"})
    complete: bool = True


@dataclass(frozen=True, kw_only=True)
class Network:
    """Network.

    Args:
        trained: Training run whose network is used, at its newest checkpoint; or a weights file that names its
            network. {split} in it stands for the split, as in runs/ilids_{split}.
        best: Use the weights of the run's best evaluation instead of the newest checkpoint.
        model: Network to use without a run: one of `strfnet models`, "walkers", or package.module:function.
        weights: Weights for --model: a file of strfnet or of published code, a training run, or "walkers", which are
            shipped with strfnet. Default: weights of the 2-D backbone that torchvision has downloaded before, else
            random weights.
        options: Options of --model, as JSON such as {"stripes": 8}. Default: those that the weights remember.
        height: Height of a frame in pixels. Default: as in training, else 256.
        width: Width of a frame in pixels. Default: as in training, else 128.
        seed: Seed of random weights.
    """

    trained: Path | None = None
    best: bool = False
    model: str | None = None
    weights: Path | None = None
    options: dict[str, Any] | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.trained is not None and self.model is not None:
            raise ValueError(f"trained is {self.trained} and model is {self.model}, wanted one of the two")
        if self.trained is not None and self.weights is not None:
            raise ValueError(f"weights are {self.weights}, but a training run has its own; wanted model with them")
        if self.trained is not None and self.options is not None:
            raise ValueError(f"options are {self.options}, but a training run has its own; wanted model with them")
        if self.trained is None and self.best:
            raise ValueError("best is true, but only a training run has best weights; wanted trained with it")
        _check_positive(height=self.height, width=self.width)

    @property
    def missing(self) -> bool:
        """Whether the call names no network."""
        return self.trained is None and self.model is None

    def check_given(self) -> None:
        """Raises: ValueError if the call names no network."""
        if self.missing:
            raise ValueError("trained is None and model is None, wanted one of the two")


@dataclass(frozen=True, kw_only=True)
class Inference:
    """Inference.

    Args:
        interpolation: Interpolation when frames are resized. Default: as in training, else bilinear.
        batch: Clips of a batch.
        workers: Threads that read frames.
        device: Device, such as cpu or cuda:1. Default: a GPU if there is one.
        optimize: Optimize the network for full batches first, which takes up to a minute (see `strfnet.optimize`).
        ragged: Let clips of unequal numbers of frames share a batch.
        max_pixels: Pixels of an image file; a larger image is not decoded.
        precision: fp32 without TF32, tf32 with it (CUDA), or bf16. Default: float32 under the flags of PyTorch.
    """

    interpolation: Literal["bilinear", "bicubic"] | None = None
    batch: int = 8
    workers: int = 2
    device: str | None = None
    optimize: bool = False
    ragged: bool = False
    max_pixels: int = 2**24
    precision: Literal["fp32", "tf32", "bf16"] | None = None

    def __post_init__(self) -> None:
        _check_positive(batch=self.batch, max_pixels=self.max_pixels)
        if self.ragged and self.optimize:
            raise ValueError(
                "ragged is true, but an optimized network takes clips of one shape; wanted one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the networks known by name."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Count the parameters and multiply-adds (MACs) of a network.

    Args:
        model: One of `strfnet models`, or package.module:function.
        options: Options of the network, as JSON such as {"stripes": 8}.
        clip: Shape of the clip: batch, channels, frames, height, width.
        depth: Levels of modules in the table.
        json: Print JSON with all modules instead of a table.
    """

    model: str = field(metadata={"positional": True, "metavar": "NAME"})
    options: dict[str, Any] | None = None
    clip: tuple[int, int, int, int, int] = field(default=(1, 3, 8, 256, 128), metadata={"metavar": tuple("BCTHW")})
    depth: int = 2
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.clip) < 1:
            raise ValueError(f"clip must be five integers of at least 1, got {list(self.clip)}")
        if self.depth < 0:
            raise ValueError(f"depth must be at least 0, got {self.depth}")
        _check_model(self.model)


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a training run or published weights into a strfnet file, or back.

    Args:
        source: Training run, file of strfnet, file of published code, or file of a 2-D ResNet.
        target: File to write: one of strfnet if it ends in .safetensors, else as published code writes it.
        name: Network of the source, where its parameter names fit several.
        options: Options of the network that published code does not store, as JSON such as {"stripes": 8}.
    """

    source: Path = field(metadata={"positional": True, "metavar": "IN"})
    target: Path = field(metadata={"positional": True, "metavar": "OUT"})
    name: str | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            _check_model(self.name)


@dataclass(frozen=True, kw_only=True)
class Check:
    """Decode every frame of a data set and list what is wrong; the exit code is 1 if something is.

    Args:
        data: Folder of the data set, or its CSV file.
        format: Layout of the data set on disk.
        split: Split to read, from 0.
        allow: Findings that are right for these data, such as [one_frame,one_camera]: they are not listed.
        workers: Threads that decode frames. Default: one for each processor.
        write_listing: CSV file to write, which lists the tracklets without a finding (for --format csv).
    """

    data: Path = field(metadata={"positional": True, "metavar": "DATA"})
    format: Format = "folder"
    split: int = 0
    allow: tuple[Kind, ...] = ()
    workers: int | None = None
    write_listing: Path | None = field(default=None, metadata={"metavar": "FILE"})

    def __post_init__(self) -> None:
        _check_positive(workers=self.workers)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network on a data set, or resume a training run.

    Args:
        out: Folder of the run. If it contains a run that was stopped, training resumes.
        data_changed: Resume although the training tracklets have changed, at the beginning of the epoch.
        unsaid: Fields of the recipe that are derived from the weights and the data, because they are not given.
    """

    out: Path = field(metadata={"metavar": "DIR"})
    data_changed: bool = False
    recipe: Recipe
    unsaid: tuple[str, ...] = field(default=(), metadata={"names_of_derived": True})

    def __post_init__(self) -> None:
        recipe = self.recipe
        _check_model(recipe.model)
        recipe.check_names({"protocol": PROTOCOLS, **({} if recipe.format is None else {"format": FORMATS})})
        recipe.check_device()
        for entry in recipe.more_data:
            format, _, path = entry.partition(":")
            if not path:
                raise ValueError(f"more_data holds {entry!r}, wanted format:path, such as duke:/data/Duke")
            check_name("format", format, FORMATS)
        if recipe.more_data and recipe.data is None:
            raise ValueError(f"more_data is {list(recipe.more_data)} without data, wanted data to evaluate on")
        if (recipe.data is None) != (recipe.format is None):
            wanted = "wanted both, or neither for synthetic walkers"
            raise ValueError(f"data is {recipe.data} and format is {recipe.format}, {wanted}")


@dataclass(frozen=True, kw_only=True)
class _OnTracklets:
    """The arguments of a command that shows tracklets to a network."""

    data_set: Data
    network: Network
    inference: Inference
    clips: str | None

    def __post_init__(self) -> None:
        self._check_network()
        if self.clips is not None:
            clip_sampler(self.clips)
        if self.data_set.split == "all" and not isinstance(self, Evaluate):
            raise ValueError("split is all, but only evaluate averages over splits; wanted the number of one")

    def _check_network(self) -> None:
        self.network.check_given()


@dataclass(frozen=True, kw_only=True)
class Evaluate(_OnTracklets):
    """Rank the gallery of a data set for its queries and print mAP and CMC.

    Args:
        protocol: Evaluation protocol; all prints every protocol that applies to the data set.
        clips: Clip sampler and frames of a clip, such as restricted_first:8. Default: those of the protocol.
        rerank: Re-rank the distances by k-reciprocal neighbours.
        embeddings: Files of embeddings to evaluate in place of a network. Labels are those of the data set if one is
            named, else those of the files.
        out: JSON file to write the metrics to.
    """

    protocol: ProtocolName | Literal["all"] = "all"
    clips: str | None = field(default=None, metadata={"metavar": "SAMPLER:N"})
    rerank: bool = False
    embeddings: list[Path] | None = field(default=None, metadata={"metavar": "FILE"})
    out: Path | None = field(default=None, metadata={"metavar": "FILE"})

    def _check_network(self) -> None:
        if self.embeddings is None:
            self.network.check_given()
        elif not self.network.missing or self.clips is not None:
            given = "clips" if self.network.missing else "a network"
            raise ValueError(f"got embeddings and {given}, wanted one of the two: the files have theirs")


@dataclass(frozen=True, kw_only=True)
class Show(_OnTracklets):
    """Draw figures of attention, rankings and training, and an HTML report.

    Args:
        masks: Draw the masks of every STRF unit over the frames of a tracklet.
        attention: Draw the attention of one pixel in every non-local block and AP3D registration.
        match: Draw which regions make a query and another tracklet similar.
        ranks: Draw ranked lists of queries, with right and wrong matches marked.
        cmc: Draw the CMC curve of each protocol.
        curve: Draw losses and metrics of the training run.
        report: Write an HTML page with the metrics and all of these figures.
        out: File to write (.png, or .html for the report), or a folder for several.
        protocol: Evaluation protocol; all shows every protocol that applies to the data set, and ranked lists of the
            first.
        row: Test row of the tracklet or query to show. Default: the first query; the hardest queries for lists.
        other: Test row of the tracklet that is compared with the query. Default: the first that counts in its ranked
            list.
        clips: Clip sampler and frames of the clip for masks, attention and match; the first clip is shown.
        place: Pixel whose attention is shown, as [frame, row, column]. Default: the middle of the upper body.
        ranks_shown: Tracklets of a ranked list.
        queries_shown: Ranked lists.
    """

    masks: bool = False
    attention: bool = False
    match: bool = False
    ranks: bool = False
    cmc: bool = False
    curve: bool = False
    report: bool = False
    out: Path
    protocol: ProtocolName | Literal["all"] = "all"
    row: int | None = None
    other: int | None = None
    clips: str = field(default="all_frames:8", metadata={"metavar": "SAMPLER:N"})
    place: tuple[int, int, int] | None = None
    ranks_shown: int = 10
    queries_shown: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_positive(ranks_shown=self.ranks_shown, queries_shown=self.queries_shown)
        if not self.figures:
            raise ValueError(f"no figure is requested, wanted one or more of --{', --'.join(SUFFIXES)}")
        if self.curve and self.network.trained is None:
            raise ValueError("curve is true, but only a training run has a log; wanted trained with it")
        suffix = self.out.suffix.removeprefix(".")
        if suffix in SUFFIXES.values() and [SUFFIXES[name] for name in self.figures] != [suffix]:
            files = ", ".join(f"{name}.{SUFFIXES[name]}" for name in self.figures)
            raise ValueError(f"out is {self.out}, wanted a folder for {files}, or one file of the right type")

    @property
    def figures(self) -> list[str]:
        """The names of the requested figures, keys of ``SUFFIXES``."""
        return [name for name in SUFFIXES if getattr(self, name)]

    def file(self, name: str) -> Path:
        """The file of a figure."""
        single = self.out.suffix.removeprefix(".") in SUFFIXES.values()
        return self.out if single else self.out / f"{name}.{SUFFIXES[name]}"


@dataclass(frozen=True, kw_only=True)
class Boxes:
    """Boxes of tracks.

    Args:
        first_frame: Number of the video's first frame in the files of tracks, 0 or 1. Default: as their format
            defines.
        units: Units of the boxes in JSON lines and CSV. Default: pixels, unless all are within 0 .. 1.
    """

    first_frame: int | None = None
    units: Units | None = None


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


@dataclass(frozen=True, kw_only=True)
class Embed(_OnTracklets):
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


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export a network to ONNX or to a PyTorch program, and check its output.

    Args:
        out: File to write; it ends in .onnx for onnx, and in .pt2 for pt2 and package.
        format: onnx; pt2, a program for torch.export.load; package, machine code, which needs a C++ compiler.
        lengths: Let the file take clips of unequal lengths: a second input holds the number of frames of each.
        clips: Clip sampler and its frames that the metadata names, as strfnet embed takes them.
        distance: Distance of embeddings that the metadata names: cosine or euclidean.
    """

    out: Path = field(metadata={"metavar": "FILE"})
    format: Literal["onnx", "pt2", "package"] = "onnx"
    lengths: bool = False
    clips: str = field(default="restricted_first:8", metadata={"metavar": "SAMPLER:N"})
    distance: Literal["cosine", "euclidean"] = "cosine"
    network: Network

    def __post_init__(self) -> None:
        self.network.check_given()
        clip_sampler(self.clips)


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
        camera: Name of the query's camera, for camera-aware.
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


@dataclass(frozen=True, kw_only=True)
class Index:
    """Add files of embeddings to an index on disk, which strfnet search takes as its gallery.

    Args:
        embeddings: Files of strfnet embed, all of one network.
        out: Folder of the index, made if it is missing.
        faiss: Build an approximate index too, for millions of tracklets, and print its recall.
        recall: Fraction of the nearest 10 tracklets that the approximate index finds at least.
    """

    embeddings: list[Path] = field(metadata={"metavar": "FILE"})
    out: Path = field(metadata={"metavar": "DIR"})
    faiss: bool = False
    recall: float = 0.95


COMMANDS: dict[str, type] = {
    record.__name__.lower(): record
    for record in (Models, Profile, Convert, Crop, Check, Train, Evaluate, Embed, Search, Index, Show, Export)
}


def clip_sampler(text: str) -> tuple[str, int]:
    """Returns the name and the frames of a clip sampler, from text such as "all_frames:32"."""
    name, _, frames = text.partition(":")
    check_name("clip sampler", name, EVALUATION_SAMPLERS)
    if not frames.isdecimal() or int(frames) < 1:
        raise ValueError(f"clips is {text!r}, wanted a clip sampler and its frames, such as {name}:8")
    return name, int(frames)


def _check_model(name: str) -> None:
    from strfnet.models import list_models  # imports torch, which --help does not need

    if not is_reference(name):
        check_name("model", name, list_models())


def _check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
