"""Batches of training clips, decoded by worker processes. They do not depend on workers, world size or resuming."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from strfnet.data.frames import read_clip
from strfnet.data.randomness import generator
from strfnet.data.sampling import training_sampler
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation


class Draw(NamedTuple):
    """All that a clip depends on besides the tracklets, the seed and the settings.

    ``position`` counts the clips of an epoch over all batches and processes, so it does not depend on the world size.
    """

    epoch: int
    position: int
    row: int


class ClipBatch(NamedTuple):
    """Clips (b, 3, t, h, w) float32, normalized; labels (b,) and rows of the tracklets (b,), int64."""

    clips: Tensor
    labels: Tensor
    rows: Tensor


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
        begin, end = (len(batch) * part // world_size for part in (rank, rank + 1))
        slices.append([Draw(epoch, position + at, batch[at]) for at in range(begin, end)])
        position += len(batch)
    return slices


class TrainingClips(Dataset[tuple[Tensor, int, int]]):
    """Training clips by ``Draw``: frames sampled, decoded, resized, normalized and augmented.

    A clip is a pure function of its draw and of the arguments below, because every draw has its own generator.

    Args:
        tracklets: the training data.
        labels: the class of each tracklet, a whole number from 0.
        seed: of the run.
        frames: t.
        sampling: a key of ``strfnet.data.sampling.TRAINING_SAMPLERS``.
        stride: of the sampling "strided".
        size: height and width in pixels.
        interpolation: "bilinear" or "bicubic".
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
        augmentation: Augmentation | None = None,
    ) -> None:
        self.tracklets, self.labels = tuple(tracklets), _checked(labels, len(tracklets))
        self.seed, self.size, self.interpolation = seed, size, interpolation
        self.augmentation = augmentation
        self._indices = training_sampler(sampling, frames=frames, stride=stride)
        # Errors are raised now, not in the training.
        generator("clip", seed=seed, epoch=0)
        read_clip([np.zeros((1, 1, 3), np.uint8)], [0], size, interpolation=interpolation)

    def __len__(self) -> int:
        return len(self.tracklets)

    def __getitem__(self, draw: Draw) -> tuple[Tensor, int, int]:
        """The clip (3, t, h, w), its label and its row. Raises: ValueError for an unreadable frame, naming it."""
        epoch, position, row = draw
        if not 0 <= row < len(self):
            raise ValueError(f"row is {row}, wanted one of {len(self)} tracklets, counted from 0")
        rng = generator("clip", seed=self.seed, epoch=epoch, position=position)
        frames = self.tracklets[row].frames
        indices = self._indices(len(frames), rng=rng)
        clip = read_clip(frames, indices, self.size, interpolation=self.interpolation)
        return clip if self.augmentation is None else self.augmentation(clip, rng), self.labels[row], row


def load(
    clips: TrainingClips, plan: Sequence[list[Draw]], *, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Any]:
    """A loader that yields one ``ClipBatch`` for each list of draws, in order.

    Its workers end with the iteration, also when it is left early, by an error or by Ctrl-C. They are forked on Linux
    and share frames in memory; elsewhere each has a copy. Torch's global generators are not used. To resume in the
    middle of an epoch, pass the rest of the plan.

    Args:
        clips: the clips by draw.
        plan: the draws of each batch, as ``draws`` returns them.
        workers: processes that decode, with one thread each; 0 decodes in this process.
        pin_memory: whether batches are in page-locked memory, for asynchronous copies to a GPU.

    Raises: ValueError for negative ``workers``; while iterating, ValueError naming the path of a bad frame.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}, wanted 0 or more processes")
    if workers and clips.augmentation is not None:
        # Imported once here, because each worker of each epoch would need a second or two.
        import torchvision.transforms.v2.functional  # noqa: F401
    return _Loader(
        _Batches(clips),
        batch_sampler=list(plan),
        collate_fn=_identity,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # otherwise each iteration draws a seed from the global generator
    )


class _Batches(Dataset[Any]):
    """Whole batches of clips. An error is returned as a value, because a worker would add its traceback."""

    def __init__(self, clips: TrainingClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, batch: list[Draw]) -> ClipBatch | ValueError:
        try:
            clips, labels, rows = zip(*(self.clips[draw] for draw in batch), strict=True)
        except ValueError as error:
            return ValueError(*error.args)
        # in a worker, default_collate stacks directly in shared memory
        return ClipBatch(default_collate(list(clips)), torch.tensor(labels), torch.tensor(rows))


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, ValueError):
                raise batch
            yield batch


def _identity(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """Ignore signals that are sent to the whole process group; the main process finishes its step.

    Otherwise Ctrl-C, or the SIGTERM of a scheduler or of torchrun, would kill workers that it still needs. A SIGTERM
    of the main process ends the worker, and so does the end of the main process, within 5 s.
    """
    gc.freeze()  # otherwise garbage collection writes to, and so copies, pages shared with the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None and hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_at_sigterm_of, args=(main.pid,), daemon=True).start()


def _end_at_sigterm_of(main: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)


def _checked(labels: Sequence[int], tracklets: int) -> list[int]:
    values = np.asarray(labels)
    if values.shape != (tracklets,) or values.dtype.kind not in "iu" or values.min() < 0:
        wanted = f"({tracklets},) of whole numbers from 0, one a tracklet"
        raise ValueError(f"labels are {values.dtype} {values.shape}, wanted {wanted}")
    return values.tolist()
