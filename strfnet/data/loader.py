"""Batches of training clips, decoded by worker processes. They do not depend on workers, world size or resuming."""

import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from strfnet.data.frames import MAX_PIXELS, as_float, normalize, read_pixels
from strfnet.data.randomness import generator
from strfnet.data.sampling import training_sampler
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation, Changes
from strfnet.data.workers import explained, signals_held, start_worker
from strfnet.layers.lengths import zero_past_end
from strfnet.system.compat import tree_map_only
from strfnet.system.reading import Shown, show


class Draw(NamedTuple):
    """All that a clip depends on besides the tracklets, the seed and the settings.

    ``position`` counts the clips of an epoch over all batches and processes, so it does not depend on the world size.
    """

    epoch: int
    position: int
    row: int


class ClipBatch(NamedTuple):
    """Clips (b, 3, t, h, w) float32, normalized; labels (b,) and rows of the tracklets (b,), int64.

    Clips and labels are on the device of the loader, rows and lengths on the CPU. ``lengths`` (b,), int64, count the
    frames of each clip that exist; the others are zeros. None if all exist. All batches have the same t, so that the
    shares of several processes have one shape; 2-D layers skip the frames that do not exist.
    """

    clips: Tensor
    labels: Tensor
    rows: Tensor
    lengths: Tensor | None = None


def draws(batches: Sequence[Sequence[int]], epoch: int, *, rank: int = 0, world_size: int = 1) -> list[list[Draw]]:
    """The draws of one process in an epoch: its slice of every batch.

    Slices are contiguous and in the order of the ranks. Their lengths differ by one at most.

    Args:
        batches: rows, as ``identity_batches`` returns them.
        epoch: counted from 0.
        rank: of this process, from 0.
        world_size: number of processes.

    Raises: ValueError for a rank that is out of range, or a batch with fewer rows than processes.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}, wanted at least 0 and less than the world size {world_size}")
    if any(len(batch) < world_size for batch in batches):
        fewest = min(map(len, batches))
        raise ValueError(f"a batch has {fewest} rows for {world_size} processes, wanted at least one for each")
    slices, position = [], 0
    for batch in batches:
        slices.append([Draw(epoch, position + at, batch[at]) for at in part_of(len(batch), rank, world_size)])
        position += len(batch)
    return slices


def part_of(rows: int, rank: int, world_size: int) -> range:
    """The rows of a batch that a process has."""
    return range(rows * rank // world_size, rows * (rank + 1) // world_size)


class TrainingClips(Dataset[tuple[Tensor, int, int]]):
    """Training clips by ``Draw``: frames sampled, decoded, resized, normalized and augmented.

    A clip is a pure function of its draw and of the arguments below, because every draw has its own generator.

    Args:
        tracklets: the training data.
        labels: the class of each tracklet, a whole number from 0.
        seed: of the run.
        frames: t; "strided_ragged" takes fewer of a shorter tracklet.
        sampling: a key of ``strfnet.data.sampling.TRAINING_SAMPLERS``.
        stride: of the samplings "strided" and "strided_ragged".
        size: height and width in pixels.
        interpolation: "bilinear" or "bicubic".
        max_pixels: of an image file; a larger image is not decoded.
        augmentation: random changes; None for none.

    Raises: ValueError, before any frame is read, for no tracklets, labels that are not one whole number from 0 for
    each, or an argument that ``generator``, ``training_sampler`` or ``read_clip`` refuses.
    """

    def __init__(
        self,
        tracklets: Sequence[Tracklet],
        labels: Sequence[int],
        *,
        seed: int,
        frames: int = 8,
        sampling: str = "restricted_random",
        stride: int = 8,
        size: tuple[int, int] = (256, 128),
        interpolation: str = "bilinear",
        max_pixels: int = MAX_PIXELS,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.tracklets, self.labels = tuple(tracklets), _checked(labels, len(tracklets))
        self.seed, self.frames, self.size, self.interpolation = seed, frames, size, interpolation
        self.max_pixels, self.augmentation = max_pixels, augmentation
        self._indices = training_sampler(sampling, frames=frames, stride=stride)
        # Errors are raised now, not in the training.
        generator("clip", seed=seed, epoch=0)
        read_pixels([np.zeros((1, 1, 3), np.uint8)], [0], size, interpolation=interpolation)

    def __len__(self) -> int:
        return len(self.tracklets)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        """The clip (3, t, h, w), its label and its row. Raises: ValueError for an unreadable frame, naming it."""
        pixels, length, changes = self.read(draw)
        batch = default_collate([changes]) if changes is not None else None
        return self.finish(pixels[None], batch)[0, :, :length], self.labels[draw.row], draw.row

    def read(self, draw: Draw) -> tuple[Tensor, int, Changes | None]:
        """The pixels of a clip (see `read_pixels`), padded to t frames; how many exist; and the drawn changes."""
        epoch, position, row = draw
        if not 0 <= row < len(self):
            raise ValueError(f"row is {row}, wanted one of {len(self)} tracklets, counted from 0")
        rng = generator("clip", seed=self.seed, epoch=epoch, position=position)
        frames = self.tracklets[row].frames
        indices = self._indices(len(frames), rng=rng)
        settings: dict[str, Any] = {"interpolation": self.interpolation, "max_pixels": self.max_pixels}
        pixels = read_pixels(frames, indices, self.size, **settings)
        if len(indices) < self.frames:
            pixels = F.pad(pixels, (0, 0, 0, 0, 0, self.frames - len(indices)))
        changes = None if self.augmentation is None else self.augmentation.draw(pixels.shape[1:], rng)
        return pixels, len(indices), changes

    def finish(self, pixels: Tensor, changes: Changes | None) -> Tensor:
        """Pixels of a batch (b, 3, t, h, w), normalized and changed, on their device."""
        clips = normalize(pixels)
        return clips if self.augmentation is None or changes is None else self.augmentation.apply(clips, changes)


def load(
    clips: TrainingClips,
    plan: Sequence[list[Draw]],
    *,
    workers: int = 0,
    pin_memory: bool = False,
    device: torch.device | None = None,
) -> DataLoader[Any]:
    """A loader that yields one ``ClipBatch`` for each list of draws, in order.

    Workers decode and draw the changes. Their pixels are uint8, a quarter of the shared memory, unless frames are
    16-bit or resized bicubically. Batches are normalized and changed on the device, to which a GPU copies them beside
    its computations.

    Its workers end with the iteration, also when it is left early, by an error or by Ctrl-C. They are forked on Linux
    and share frames in memory; elsewhere each has a copy. Torch's global generators are not used. To resume in the
    middle of an epoch, pass the rest of the plan.

    Args:
        clips: the clips by draw.
        plan: the draws of each batch, as ``draws`` returns them.
        workers: processes that decode, with one thread each; 0 decodes in this process.
        pin_memory: whether batches are in page-locked memory, for asynchronous copies to a GPU.
        device: of the batches; None is the CPU.

    Raises: ValueError for negative ``workers``; while iterating, ValueError naming the path of a bad frame, and
    OSError if the shared memory is too small for the batches of the workers.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}, wanted 0 or more processes")
    return _Loader(
        _Batches(clips),
        torch.device("cpu") if device is None else device,
        batch_sampler=list(plan),
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=start_worker if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # otherwise each iteration draws a seed from the global generator
    )


class _Pixels(NamedTuple):
    """A batch as workers send it."""

    pixels: Tensor
    changes: Changes | None
    labels: Tensor
    rows: Tensor
    lengths: Tensor | None
    warned: Sequence[Shown] = ()


class _Batches(Dataset[Any]):
    """Whole batches of clips. An error is returned as a value, because a worker would add its traceback."""

    def __init__(self, clips: TrainingClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, batch: list[Draw]) -> _Pixels | ValueError:
        if get_worker_info() is None:
            return self._read(batch)
        # The main process shows the warnings, since a worker does not know which it has shown in other epochs.
        with warnings.catch_warnings(record=True) as caught:
            read = self._read(batch)
        warned = [(str(one.message), one.category, one.filename, one.lineno) for one in caught]
        return read if isinstance(read, ValueError) else read._replace(warned=warned)

    def _read(self, batch: list[Draw]) -> _Pixels | ValueError:
        try:
            pixels, lengths, changes = zip(*map(self.clips.read, batch), strict=True)
        except ValueError as error:
            return ValueError(*error.args)
        if len({clip.dtype for clip in pixels}) > 1:
            pixels = tuple(map(as_float, pixels))
        rows = [draw.row for draw in batch]
        labels = [self.clips.labels[row] for row in rows]
        # in a worker, default_collate stacks directly in shared memory
        collated = None if changes[0] is None else default_collate(list(changes))
        ragged = torch.tensor(lengths) if min(lengths) < self.clips.frames else None
        return _Pixels(default_collate(list(pixels)), collated, torch.tensor(labels), torch.tensor(rows), ragged)


class _Loader(DataLoader[Any]):
    def __init__(self, batches: _Batches, device: torch.device, **options: Any) -> None:
        super().__init__(batches, **options)
        self._clips, self._device = batches.clips, device

    def __iter__(self) -> Any:
        copied = _Copied(self._device)
        for batch in explained(self._started()):  # a name for it would keep the workers in a traceback
            if isinstance(batch, ValueError):
                raise batch
            for warning in batch.warned:
                show(*warning)
            pixels, changes, labels = copied(batch[:3])
            clips = zero_past_end(self._clips.finish(pixels, changes), batch.lengths)
            yield ClipBatch(clips, labels, batch.rows, batch.lengths)

    def _started(self) -> Any:
        with signals_held():
            return super().__iter__()


class _Copied:
    """Copies tensors to a device, to a CUDA device on a stream of its own, while the GPU computes on another."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, tensors: Any) -> Any:
        if self.stream is None:
            return tree_map_only(Tensor, lambda tensor: tensor.to(self.device), tensors)
        current = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            copies = tree_map_only(Tensor, lambda tensor: tensor.to(self.device, non_blocking=True), tensors)
        current.wait_stream(self.stream)
        tree_map_only(Tensor, lambda copy: copy.record_stream(current), copies)  # so its memory is kept until then
        return copies


def _identity(batch: Any) -> Any:
    return batch


def _checked(labels: Sequence[int], tracklets: int) -> list[int]:
    values = np.asarray(labels)
    if values.shape != (tracklets,) or values.dtype.kind not in "iu" or values.min() < 0:
        wanted = f"({tracklets},) of whole numbers from 0, one a tracklet"
        raise ValueError(f"labels are {values.dtype} {values.shape}, wanted {wanted}")
    return values.tolist()
