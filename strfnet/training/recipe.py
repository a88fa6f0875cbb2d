"""A training run, said completely in plain values. Reading this file loads no torch."""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from strfnet.system.names import check_name

BATCHES = ("every_identity", "groups", "distinct")
LOSSES = ("strf", "nvan")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("steps", "cosine", "one_cycle")
PRECISIONS = ("fp32", "bf16", "fp16")

# What a run may be resumed with another value of, since it has no part in what the weights become (a device has
# by its rounding, and data are recognised by what they hold, wherever they lie).
CHANGEABLE = (
    "data",
    "complete",
    "device",
    "workers",
    "evaluate_every",
    "protocol",
    "save_every",
    "keep",
    "tensorboard",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training run is made of; the defaults are AP3D's recipe, on which STRF's tables build.

    Args:
        model: the network, one of `strfnet models`.
        weights: of its image network, as torchvision names them, such as IMAGENET1K_V1; null starts at random.
        start_from: weights of a whole network to start from, a safetensors file or a folder of an earlier run.
        data: folder of the data set, or its CSV file; null, with the format, for walkers drawn in memory.
        format: how the data set lies on disk: mars, duke, ls_vid, ilids, prid, folder or csv.
        split: which of the data set's splits, where it has several.
        complete: whether a published data set must have its published counts.
        height: of the frames, in pixels.
        width: of the frames, in pixels.
        interpolation: how frames are brought to that size, bilinear or bicubic.
        frames: T, frames of a clip.
        stride: frames from one frame of a strided clip to the next.
        sampling: which frames of a tracklet a clip takes.
        batch: clips a batch holds, on all processes together: identities times tracklets.
        identities: P, identities or groups in a batch.
        tracklets: K, tracklets of each.
        batches: how an epoch is cut into batches: every_identity (NVAN), groups (AP3D) or distinct (torchreid).
        flip: chance that a clip is mirrored.
        crop: chance that a clip is enlarged by an eighth and cropped.
        erasing: chance that a rectangle of a clip is painted over.
        per_frame: which of flip, crop and erasing are drawn for each frame instead of once for the clip.
        loss: cross-entropy plus batch-hard triplets, strf (cosine, margin) or nvan (Euclidean, soft margin).
        mined_on: what triplets are of, feature (before the neck) or embedding (behind it); null as in the loss's
            paper.
        smoothing: label smoothing of the cross-entropy, from 0 to below 1.
        optimizer: adam, adamw, or sgd with a momentum of 0.9.
        lr: learning rate, the highest of its schedule.
        weight_decay: added to the gradient; decoupled from it for adamw.
        epochs: how many.
        steps_per_epoch: an epoch ends after so many optimizer steps; null for all its batches.
        schedule: of the learning rate: steps (times gamma at each milestone), cosine (to 0) or one_cycle.
        milestones: epochs after which a steps schedule drops.
        gamma: factor of each drop.
        warmup: epochs, or a part of one, in which the learning rate grows; 0 for none (one_cycle: for 3 of 10).
        precision: of the arithmetic, fp32, bf16 or fp16; weights are fp32 in all.
        accumulate: batches whose mean gradient makes one step; triplets are mined in each batch on its own.
        sync_batchnorm: batch norms take the statistics of the batches of all processes.
        clip_gradients: the greatest norm of the gradient; null for no limit.
        evaluate_every: epochs between evaluations; the last epoch is always evaluated.
        protocol: by which evaluations rank.
        save_every: steps between checkpoints; null saves at the end of each epoch only.
        keep: checkpoints kept, the newest ones.
        seed: of weights, batches, frames and augmentation.
        deterministic: ask torch for the kernels that give the same answer each time, where it has them.
        workers: processes that read frames, for each process that trains; 0 reads in that one.
        device: such as cpu or cuda:1; null takes GPUs if there are any.
        tensorboard: also write what TensorBoard shows.

    Raises: ValueError naming the argument, its value and the value wanted.
    Source: AP3D's published code: 32 = 8 x 4 clips of 4 frames, Adam at 3e-4 with a weight decay of 5e-4, times
    0.1 after 60, 120 and 180 of 240 epochs. Ours: what concerns saving, processes and devices.
    """

    model: str = "strf_p3dc_resnet50"
    weights: str | None = None
    start_from: Path | None = None
    data: Path | None = None
    format: str | None = None
    split: int = 0
    complete: bool = True
    height: int = 256
    width: int = 128
    interpolation: str = "bilinear"
    frames: int = 4
    stride: int = 8
    sampling: str = "strided"
    batch: int = 32
    identities: int = 8
    tracklets: int = 4
    batches: str = "groups"
    flip: float = 0.5
    crop: float = 0.0
    erasing: float = 0.0
    per_frame: tuple[str, ...] = ()
    loss: str = "strf"
    mined_on: str | None = None
    smoothing: float = 0.0
    optimizer: str = "adam"
    lr: float = 3e-4
    weight_decay: float = 5e-4
    epochs: int = 240
    steps_per_epoch: int | None = None
    schedule: str = "steps"
    milestones: tuple[int, ...] = (60, 120, 180)
    gamma: float = 0.1
    warmup: float = 0.0
    precision: str = "fp32"
    accumulate: int = 1
    sync_batchnorm: bool = False
    clip_gradients: float | None = None
    evaluate_every: int = 10
    protocol: str = "ap3d"
    save_every: int | None = None
    keep: int = 2
    seed: int = 0
    deterministic: bool = True
    workers: int = 2
    device: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        from strfnet.data.sampling import TRAIN_CLIPS

        self.check_names({**_NAMES, "sampling": TRAIN_CLIPS})
        for change in self.per_frame:
            check_name("per_frame", change, ("flip", "crop", "erasing"))
        for name in _FROM_ONE:
            _check_number(name, getattr(self, name), whole=True, least=1)
        for name in _FROM_ZERO:
            _check_number(name, getattr(self, name), whole=True, least=0)
        for name in ("steps_per_epoch", "save_every"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), whole=True, least=1)
        for name in ("weight_decay", "warmup"):
            _check_number(name, getattr(self, name), least=0)
        for name in ("flip", "crop", "erasing"):
            _check_number(name, getattr(self, name), least=0, most=1)
        if self.mined_on is not None:
            check_name("mined_on", self.mined_on, ("feature", "embedding"))
        _check_number("smoothing", self.smoothing, least=0, below=1)
        for name in ("lr", "gamma", "clip_gradients"):
            if getattr(self, name) is not None or name != "clip_gradients":
                _check_number(name, getattr(self, name), above=0)
        if self.batch != self.identities * self.tracklets:
            given = f"{self.identities} identities x {self.tracklets} tracklets"
            raise ValueError(f"batch must be {given} = {self.identities * self.tracklets}, got {self.batch}")
        if self.identities < 2:
            raise ValueError(f"identities must be at least 2, or no triplet has a negative, got {self.identities}")
        if any(epoch < 1 for epoch in self.milestones) or list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must be epochs from 1 that grow, got {list(self.milestones)}")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup must end within the {self.epochs} epochs, got {self.warmup:g}")

    def check_names(self, known: Mapping[str, Collection[str]]) -> None:
        """Check what is known only outside: for a field such as "model", the names it may have.

        Raises: ValueError naming the nearest.
        """
        for name, names in known.items():
            check_name(name, getattr(self, name), names)

    def check_device(self) -> None:
        """Raises: ValueError for a device that is not there, or that the precision needs and is not there."""
        import torch

        cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
        there = ["cpu", *(["cuda"] if cuda else []), *(f"cuda:{number}" for number in range(cuda))]
        if self.device is not None and self.device not in there:
            raise ValueError(f"device {self.device!r} is not there, wanted one of {', '.join(there)}")
        if self.precision == "fp16" and (self.device == "cpu" or not cuda):
            raise ValueError("precision fp16 needs a GPU, wanted fp32 or bf16 on the CPU")

    def to_json(self) -> dict[str, Any]:
        """Names and values as JSON has them; `from_json` takes them back."""
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {**plain, "milestones": list(self.milestones), "per_frame": list(self.per_frame)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Recipe":
        """The recipe of these values. Raises: ValueError for an unknown name, with the nearest; see `Recipe`."""
        names = [field.name for field in fields(cls)]
        for name in content:
            check_name("field of a recipe", name, names)
        values = dict(content)
        for name in ("start_from", "data"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        for name in ("milestones", "per_frame"):
            if name in values:
                values[name] = tuple(values[name])
        return cls(**values)

    def differences(self, other: "Recipe") -> list[str]:
        """What keeps a run of this recipe from going on as ``other``: lines such as "lr was 0.1 and is 0.2".

        The fields of `CHANGEABLE` may differ, and a run on a schedule of steps may be given more epochs.
        """
        free = {*CHANGEABLE, *(["epochs"] if self.schedule == "steps" else [])}
        before, after = self.to_json(), other.to_json()
        return [
            f"{name} was {before[name]} and is {after[name]}"
            for name in before
            if before[name] != after[name] and name not in free
        ]


_NAMES = {
    "batches": BATCHES,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "interpolation": ("bilinear", "bicubic"),
}
_SHAPES = ("height", "width", "frames", "stride", "batch", "identities", "tracklets")
_FROM_ONE = (*_SHAPES, "epochs", "accumulate", "evaluate_every", "keep")
_FROM_ZERO = ("split", "seed", "workers")


def _check_number(
    field: str,
    value: float,
    *,
    whole: bool = False,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    below: float = math.inf,
) -> None:
    """Refuse what is no number, NaN and infinity included, or lies outside of its bounds."""
    right = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and math.isfinite(value)
    if right and least <= value <= most and above < value < below:
        return
    bounds = {"at least": least, "above": above, "at most": most, "below": below}
    wanted = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if math.isfinite(bound))
    raise ValueError(f"{field} must be {'a whole number ' if whole else ''}{wanted}, got {value}")
