"""Batches of training clips, decoded by worker processes; workers, ranks and resuming change no bit of them."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from strfnet.data.frames import read_clip
from strfnet.data.randomness import generator
from strfnet.data.sampling import training_form
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation


class Draw(NamedTuple):
    """One tracklet's turn: all that its clip depends on, besides the tracklets, the seed and the settings.

    ``position`` counts the places of an epoch over all batches and ranks, so it is the same however many
    processes share the work.
    """

    epoch: int
    position: int
    row: int


class ClipBatch(NamedTuple):
    """Clips (b, 3, t, h, w) float32, normalised; labels (b,) and rows of the tracklets (b,), int64."""

    clips: Tensor
    labels: Tensor
    rows: Tensor


def draws(batches: Sequence[Sequence[int]], epoch: int, *, rank: int = 0, ranks: int = 1) -> list[list[Draw]]:
    """The turns of an epoch that one of several processes takes: its slice of every batch.

    Slices are contiguous and in the order of the ranks, so that those of all ranks, joined, are the batch; of
    a batch that the ranks do not divide, they differ in length by one at most.

    Args:
        batches: rows, as ``identity_batches`` gives them.
        epoch: counted from 0.
        rank: of this process, from 0.
        ranks: how many processes there are.

    Raises: ValueError if there is no such rank, or a batch has fewer rows than there are ranks.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank is {rank} of {ranks}, wanted a rank from 0 to one less than there are")
    if any(len(batch) < ranks for batch in batches):
        fewest = min(map(len, batches))
        raise ValueError(f"a batch has {fewest} rows for {ranks} ranks, wanted at least one row for each")
    turns, position = [], 0
    for batch in batches:
        begin, end = (len(batch) * part // ranks for part in (rank, rank + 1))
        turns.append([Draw(epoch, position + at, batch[at]) for at in range(begin, end)])
        position += len(batch)
    return turns


class TrainingClips(Dataset[tuple[Tensor, int, int]]):
    """Training clips by ``Draw``: frames chosen, decoded, resized, normalised, augmented.

    A pure function of the draw and of what it was made with: every draw has a generator of its own.

    Args:
        tracklets: to train on.
        labels: the class of each, a whole number from 0.
        seed: of the run.
        frames: t.
        sampling: a key of ``strfnet.data.sampling.TRAIN_CLIPS``.
        stride: of the sampling "strided".
        size: height and width in pixels.
        interpolation: "bilinear" or "bicubic".
        augmentation: what may happen to a clip; nothing if None.

    Raises: ValueError for no tracklets, labels that are not one whole number from 0 for each, a bad seed, or
    what ``training_form`` and ``read_clip`` refuse of the settings, before any frame is read.
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
        self._indices = training_form(sampling, frames=frames, stride=stride)
        # What would be refused while training is refused now.
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
    """A loader that yields one ``ClipBatch`` for each list of draws, in their order.

    Its workers live as long as one iteration; leaving that early, an error and Ctrl-C end them too. They are
    forked on Linux, so that frames in memory are shared and not copied; elsewhere each has a copy of its own.
    Torch's global generators are not touched. To go on in the middle of an epoch, hand in the rest of the plan.

    Args:
        clips: what is drawn from.
        plan: draws of each batch, as ``draws`` gives them.
        workers: processes that decode, each with one thread; 0 decodes in this one.
        pin_memory: whether batches lie in page-locked memory, for copies to a GPU in the background.

    Raises: ValueError for negative ``workers``; while iterating, ValueError naming the path of a bad frame.
    """
    if workers < 0:
        raise ValueError(f"workers is {workers}, wanted 0 or more processes")
    if workers and clips.augmentation is not None:
        # Once here, rather than a second or two in each worker of each epoch.
        import torchvision.transforms.v2.functional  # noqa: F401
    return _Loader(
        _Batches(clips),
        batch_sampler=list(plan),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker if workers else None,
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # else each iteration draws a seed from the global one
    )


class _Batches(Dataset[Any]):
    """Whole batches of clips; an error in a worker becomes a value, which travels better than a traceback."""

    def __init__(self, clips: TrainingClips) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitems__(self, batch: list[Draw]) -> ClipBatch | ValueError:
        try:
            clips, labels, rows = zip(*(self.clips[draw] for draw in batch), strict=True)
        except ValueError as error:
            return ValueError(*error.args)
        # default_collate stacks right into shared memory, where this is a worker
        return ClipBatch(default_collate(list(clips)), torch.tensor(labels), torch.tensor(rows))


class _Loader(DataLoader[Any]):
    def __iter__(self) -> Iterator[ClipBatch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, ValueError):
                raise batch
            yield batch


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(_: int) -> None:
    """Leaves the signals that reach a whole group of processes to the main one, which may have a step to finish.

    Else Ctrl-C, or the SIGTERM of a scheduler or of torchrun, would kill workers that it still needs. One sent
    by the main process itself ends the worker; so does the end of the main process, at the latest in 5 s.
    """
    gc.freeze()  # so that collecting does not write to, and thereby copy, the pages shared with the main process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None and hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        Thread(target=_end_when_told_by, args=(main.pid,), daemon=True).start()


def _end_when_told_by(main: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != main:
        pass
    os._exit(0)


def _checked(labels: Sequence[int], tracklets: int) -> list[int]:
    values = np.asarray(labels)
    if values.shape != (tracklets,) or values.dtype.kind not in "iu" or values.min() < 0:
        wanted = f"({tracklets},) of whole numbers from 0, one a tracklet"
        raise ValueError(f"labels are {values.dtype} {values.shape}, wanted {wanted}")
    return values.tolist()
