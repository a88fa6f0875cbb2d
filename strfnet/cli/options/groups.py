"""Groups of arguments that several commands have, and checks of arguments."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from strfnet.data.readers.folder import Layout
from strfnet.data.readers.formats import Format
from strfnet.data.sampling import EVALUATION_SAMPLERS
from strfnet.data.tracks import Units
from strfnet.system.names import check_name
from strfnet.system.references import is_reference


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
        check_positive(height=self.height, width=self.width)

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
        check_positive(batch=self.batch, max_pixels=self.max_pixels)
        if self.ragged and self.optimize:
            raise ValueError(
                "ragged is true, but an optimized network takes clips of one shape; wanted one of the two"
            )


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
class OnTracklets:
    """The arguments of a command that shows tracklets to a network."""

    averages_splits: ClassVar[bool] = False

    data_set: Data
    network: Network
    inference: Inference
    clips: str | None

    def __post_init__(self) -> None:
        self._check_network()
        if self.clips is not None:
            clip_sampler(self.clips)
        if self.data_set.split == "all" and not self.averages_splits:
            raise ValueError("split is all, but only evaluate averages over splits; wanted the number of one")

    def _check_network(self) -> None:
        self.network.check_given()


def clip_sampler(text: str) -> tuple[str, int]:
    """Returns the name and the frames of a clip sampler, from text such as "all_frames:32"."""
    name, _, frames = text.partition(":")
    check_name("clip sampler", name, EVALUATION_SAMPLERS)
    if not frames.isdecimal() or int(frames) < 1:
        raise ValueError(f"clips is {text!r}, wanted a clip sampler and its frames, such as {name}:8")
    return name, int(frames)


def check_model(name: str) -> None:
    from strfnet.models import list_models  # imports torch, which --help does not need

    if not is_reference(name):
        check_name("model", name, list_models())


def check_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
