"""All settings of a training run as plain values. Importing this file does not import torch."""

import math
import operator
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from strfnet.data.choices import Batches, Change, Interpolation, TrainingSampling
from strfnet.system.names import check_name
from strfnet.system.references import reference_to

Loss = Literal["strf", "nvan"]
Mined = Literal["feature", "embedding"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["steps", "cosine", "one_cycle"]
Precision = Literal["fp32", "bf16", "fp16"]

# Fields that may change when a run is resumed, because the trained weights do not depend on them. (On the device they
# do, by rounding. Data are compared by their content, not by their folder.)
CHANGEABLE = (
    "data",
    "more_data",
    "complete",
    "device",
    "max_pixels",
    "workers",
    "evaluate_every",
    "protocol",
    "save_every",
    "keep",
    "tensorboard",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings of a training run. The defaults are the recipe of AP3D, on which STRF's tables build.

    A field with the metadata "derived" is derived by `strfnet train` if it is not given; the help names the rule.

    Args:
        model: name of the network, one of `strfnet models`, or package.module:function, a function of your own that
            returns it (see `strfnet.create_model`).
        options: options of the network, see `strfnet.create_model`; on the command line JSON such as {"stripes": 8}.
        weights: weights to start from: torchvision's of the 2-D backbone, e.g. IMAGENET1K_V1; or of a whole network,
            a file of strfnet or of published code, the folder of an earlier run, or walkers; null starts at random.
        start_from: weights of a whole network, as for weights.
        data: folder of the data set, or its CSV file; null, with the format, draws synthetic walkers in memory.
        format: layout of the data set: mars, duke, ls_vid, ilids, prid, folder or csv.
        more_data: further data sets to train on, each as format:path, such as [duke:/data/Duke]; identities of
            different data sets stay apart, and evaluation is on ``data``.
        split: index of the split, for data sets that have several.
        complete: require the published counts of a published data set.
        height: height of the frames in pixels.
        width: width of the frames in pixels.
        interpolation: interpolation by which frames are resized.
        max_pixels: pixels of an image file; a larger image is not decoded.
        frames: frames of a clip, T.
        stride: distance between the frames of a strided clip.
        sampling: clip sampler, which selects the frames of a tracklet. Only strided_ragged makes shorter clips of
            tracklets of fewer than T frames; the others repeat frames.
        batch: clips in a batch, over all processes; identities times tracklets.
        identities: identities or groups in a batch, P.
        tracklets: tracklets of each identity, K.
        batches: division of an epoch into batches: every_identity (NVAN), groups (AP3D) or distinct (torchreid).
        flip: probability that a clip is mirrored.
        crop: probability that a clip is enlarged by an eighth and cropped.
        erasing: probability that a rectangle of a clip is erased.
        per_frame: which of flip, crop and erasing are drawn for each frame instead of once for the clip.
        loss: cross-entropy plus batch-hard triplets: strf (cosine, margin) or nvan (Euclidean, soft margin).
        mined_on: where triplets are mined: feature (before the BN neck) or embedding (after it); null follows the
            paper of the loss.
        smoothing: label smoothing of the cross-entropy, from 0 to below 1.
        optimizer: adam, adamw, or sgd with a momentum of 0.9.
        lr: highest learning rate of the schedule.
        lr_factors: factors of the learning rate by module path; on the command line JSON such as
            {"backbone.layer1": 0.1}. Of several paths, the longest counts.
        frozen: modules whose weights and batch-norm statistics stay, such as [backbone.conv1,backbone.bn1].
        weight_decay: weight decay, decoupled for adamw.
        epochs: number of epochs.
        steps_per_epoch: optimizer steps after which an epoch ends; null for all its batches.
        schedule: learning-rate schedule: steps (times gamma at each milestone), cosine (to 0) or one_cycle.
        milestones: epochs after which a steps schedule drops.
        gamma: factor of each drop.
        warmup: epochs of the learning-rate warm-up, also fractional; 0 for none (one_cycle: 3 of 10 epochs).
        precision: arithmetic of the network; the weights are always fp32.
        compile: compile the network with torch.compile for training.
        accumulate: batches whose mean gradient makes a step; triplets are mined in each batch alone.
        sync_batchnorm: compute batch-norm statistics over all processes.
        clip_gradients: greatest norm of the gradient; null for no limit.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        protocol: evaluation protocol.
        save_every: steps between checkpoints; null saves after each epoch only.
        keep: number of newest checkpoints to keep.
        seed: seed of weights, batches, frames and augmentation.
        deterministic: use deterministic kernels only, and refuse operations without one.
        workers: worker processes that read frames, for each training process; 0 reads in the training process.
        device: device such as cpu or cuda:1; null uses GPUs if there are any.
        tensorboard: write TensorBoard files too.

    Raises: ValueError naming the argument, its value and the values that are valid.
    Source: AP3D's published code: 32 = 8 x 4 clips of 4 frames, Adam at 3e-4 with a weight decay of 5e-4, times
    0.1 after 60, 120 and 180 of 240 epochs. Ours: the settings of saving, processes and devices.
    """

    model: str = field(default="strf_p3dc_resnet50", metadata={"derived": "that of the weights, else"})
    options: dict[str, Any] | None = None
    weights: str | None = None
    start_from: Path | None = None
    data: Path | None = None
    format: str | None = None
    more_data: tuple[str, ...] = ()
    split: int = 0
    complete: bool = True
    height: int = field(default=256, metadata={"derived": "that of the weights, else"})
    width: int = field(default=128, metadata={"derived": "that of the weights, else"})
    interpolation: Interpolation = field(default="bilinear", metadata={"derived": "that of the weights, else"})
    max_pixels: int = 2**24
    frames: int = 4
    stride: int = 8
    sampling: TrainingSampling = "strided"
    batch: int = field(default=32, metadata={"derived": "by the data, at most"})
    identities: int = field(default=8, metadata={"derived": "by the data, at most"})
    tracklets: int = field(default=4, metadata={"derived": "by the data, at most"})
    batches: Batches = field(default="groups", metadata={"derived": "distinct below 50 identities, else"})
    flip: float = 0.5
    crop: float = 0.0
    erasing: float = 0.0
    per_frame: tuple[Change, ...] = ()
    loss: Loss = "strf"
    mined_on: Mined | None = None
    smoothing: float = 0.0
    optimizer: Optimizer = "adam"
    lr: float = 3e-4
    lr_factors: dict[str, float] | None = field(default=None, metadata={"metavar": "JSON"})
    frozen: tuple[str, ...] = ()
    weight_decay: float = 5e-4
    epochs: int = field(default=240, metadata={"derived": "by the data and the weights, such as"})
    steps_per_epoch: int | None = None
    schedule: Schedule = "steps"
    milestones: tuple[int, ...] = field(default=(60, 120, 180), metadata={"derived": "at quarters, such as"})
    gamma: float = 0.1
    warmup: float = 0.0
    precision: Precision = "fp32"
    compile: bool = False
    accumulate: int = 1
    sync_batchnorm: bool = False
    clip_gradients: float | None = None
    evaluate_every: int = field(default=10, metadata={"derived": "a tenth of the epochs, at most"})
    protocol: str = "ap3d"
    save_every: int | None = None
    keep: int = 2
    seed: int = 0
    deterministic: bool = True
    workers: int = 2
    device: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if callable(self.model):
            object.__setattr__(self, "model", reference_to(self.model))
        for one in fields(self):
            value = getattr(self, one.name)
            choices = [get_args(part) for part in (one.type, *get_args(one.type)) if get_origin(part) is Literal]
            for name in value if isinstance(value, tuple) else (value,):
                if choices and name is not None:
                    check_name(one.name, name, choices[0])
            if one.name in _BOUNDS and (value is not None or one.default is not None):
                _check_number(one.name, value, whole=float not in (one.type, *get_args(one.type)))
        for path, factor in (self.lr_factors or {}).items():
            _check_number("lr", factor, whole=False, what=f"the factor of {path} in lr_factors")
        if self.batch != self.identities * self.tracklets:
            given = f"{self.identities} identities x {self.tracklets} tracklets"
            raise ValueError(f"batch must be {given} = {self.identities * self.tracklets}, got {self.batch}")
        if self.identities < 2:
            raise ValueError(f"identities must be at least 2, or no triplet has a negative, got {self.identities}")
        if any(epoch < 1 for epoch in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be epochs from 1 that grow, got {list(self.milestones)}")
        if self.ragged and self.compile:
            unequal = f"sampling {self.sampling!r} makes clips of unequal lengths, which no compiled network takes"
            raise ValueError(f"compile is true, but {unequal}; wanted one of the two")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must end within the {self.epochs} epochs, got {self.warmup:g}")

    @property
    def ragged(self) -> bool:
        """Whether clips may have fewer than ``frames`` frames."""
        return self.sampling == "strided_ragged"

    def check_names(self, known: Mapping[str, Collection[str]]) -> None:
        """Check fields whose choices other packages know, such as "model".

        Raises: ValueError with the nearest name.
        """
        for name, names in known.items():
            check_name(name, getattr(self, name), names)

    def check_device(self) -> None:
        """Raises: ValueError for a device that is not available, or fp16 without a GPU."""
        import torch

        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        available = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{number}" for number in range(cuda))]
        if self.device is not None and self.device not in available:
            raise ValueError(f"device {self.device!r} is not available, wanted one of {', '.join(available)}")
        if self.precision == "fp16" and (self.device == "cpu" or not cuda):
            raise ValueError("precision fp16 needs a GPU, wanted fp32 or bf16 on the CPU")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON can hold them; `from_json` reads them."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Recipe":
        """The recipe with these fields; what ``batch`` and its factors leave open follows from the others."""
        values = {one.name: given.get(one.name, one.default) for one in fields(cls)}
        if "batch" not in given:
            values["batch"] = values["identities"] * values["tracklets"]
        elif "identities" not in given:
            values["identities"] = max(1, values["batch"] // max(1, values["tracklets"]))
        elif "tracklets" not in given:
            values["tracklets"] = max(1, values["batch"] // max(1, values["identities"]))
        return cls(**values)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Recipe":
        """The recipe with these fields. Raises: ValueError for an unknown name, with the nearest; see `Recipe`."""
        names = [one.name for one in fields(cls)]
        for name in content:
            check_name("field of a recipe", name, names)
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
        values |= {name: Path(values[name]) for name in ("start_from", "data") if values.get(name) is not None}
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """The differences that prevent resuming a run of this recipe as ``other``, e.g. "lr was 0.1 and is 0.2".

        The fields of `CHANGEABLE` may differ, and so may the number of epochs of a steps schedule.
        """
        free = {*CHANGEABLE, *(["epochs"] if self.schedule == "steps" else [])}
        before, after = self.to_json(), other.to_json()
        return [
            f"{name} was {before[name]} and is {after[name]}"
            for name in before
            if before[name] != after[name] and name not in free
        ]


_COMPARISONS = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
_BOUNDS: dict[str, dict[str, float]] = {
    **{name: {"at least": 1} for name in ("height", "width", "frames", "stride", "batch", "identities", "tracklets")},
    **{name: {"at least": 1} for name in ("epochs", "accumulate", "evaluate_every", "keep", "steps_per_epoch")},
    **{name: {"at least": 1} for name in ("save_every", "max_pixels")},
    **{name: {"at least": 0} for name in ("split", "seed", "workers", "weight_decay", "warmup")},
    **{name: {"at least": 0, "at most": 1} for name in ("flip", "crop", "erasing")},
    **{name: {"above": 0} for name in ("lr", "gamma", "clip_gradients")},
    "smoothing": {"at least": 0, "below": 1},
}


def _check_number(name: str, value: float, *, whole: bool, what: str | None = None) -> None:
    """Raises: ValueError for a value that is no finite number, or is out of the bounds of its field."""
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not all(_COMPARISONS[word](value, bound) for word, bound in _BOUNDS[name].items()):
        wanted = " and ".join(f"{word} {bound:g}" for word, bound in _BOUNDS[name].items())
        raise ValueError(f"{what or name} must be {'a whole number ' if whole else ''}{wanted}, got {value}")
