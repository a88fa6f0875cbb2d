"""Embeddings of tracklets."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from strfnet.data.frames import MAX_PIXELS, as_float, normalize, read_pixels
from strfnet.data.sampling import restricted_first
from strfnet.data.tracklet import Tracklet
from strfnet.system.modes import in_evaluation
from strfnet.system.progress import Advance, ProgressLine


def embed(
    network: nn.Module,
    tracklets: Sequence[Tracklet],
    *,
    frames: int = 8,
    clips: Callable[[int], list[list[int]]] | None = None,
    size: tuple[int, int] = (256, 128),
    interpolation: str = "bilinear",
    batch: int = 8,
    workers: int = 0,
    ragged: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: bool = False,
) -> Tensor:
    """Computes one embedding per tracklet: the mean over its clips, weighted by their frames.

    If the network averages features over frames, and its BN neck is affine as it is in evaluation, this mean equals
    the embedding of all frames at once, except for layers that connect frames of different clips.

    The network runs in evaluation and inference mode. One in training mode stays so, also for other threads: a copy
    runs that shares its weights. Clips are converted to the device and the floating-point type of its first
    parameter. Clips with the same number of frames share a batch, or with ``ragged`` any clips, so tracklets may have
    any length. The clips of one batch are in memory at a time, and with ``workers`` the pixels of two more, in bytes.

    Args:
        network: takes clips (b, 3, t, h, w) and returns (b, d), or an object whose ``embedding`` is (b, d).
        tracklets: at least one. Embeddings of a subset are a subset of the embeddings.
        frames: t, if ``clips`` is None.
        clips: a clip sampler: a function from the length of a tracklet to the frames of its clips, such as
            ``evaluation_sampler("all_frames", frames=32)``. None for one clip by ``restricted_first``.
        size: height and width of a frame in pixels.
        interpolation: "bilinear" or "bicubic", as in training.
        batch: b, clips of a batch.
        workers: threads that decode the next clips while the network runs; 0 for none.
        ragged: clips of unequal numbers of frames share a batch; the network is called as ``network(clips, lengths)``
            then. It fills the batches of short tracklets.
        max_pixels: of an image file; a larger image is not decoded.
        progress: whether to show progress on stderr.

    Returns: float32 (n, d) on the CPU, in the order of the tracklets; means are computed in float64.
    Raises: ValueError if there are no tracklets, a frame cannot be read, a tracklet gets no clip, the network
    returns something else, or an embedding is not finite (naming the first frame of the tracklet); or for a
    network in training mode that cannot be copied.
    """
    choose = clips or (lambda length: [restricted_first(length, frames)])
    with ProgressLine(len(tracklets), "tracklets embedded", "frames", shown=progress) as line:
        (embeddings,) = embed_each(
            network,
            [tracklets],
            clips=choose,
            size=size,
            interpolation=interpolation,
            batch=batch,
            workers=workers,
            ragged=ragged,
            max_pixels=max_pixels,
            advance=line.advance,
        )
    return embeddings


def embed_each(
    network: nn.Module,
    groups: Iterable[Sequence[Tracklet]],
    *,
    clips: Callable[[int], list[list[int]]],
    size: tuple[int, int],
    interpolation: str,
    batch: int,
    workers: int,
    ragged: bool = False,
    max_pixels: int = MAX_PIXELS,
    advance: Advance,
) -> Generator[Tensor]:
    """Yields the embeddings of groups of tracklets, each as `embed` computes them for the group alone.

    A batch contains clips of one group only, so the embeddings of a group do not depend on other groups, not even by
    rounding. The next group is decoded while the network runs on this one. Closing the generator ends its threads
    and restores the modes of the network.

    ``groups`` are iterated as far ahead as clips are decoded. ``advance`` is called after each batch with the numbers
    of tracklets that it completed and of its frames. All other arguments are those of `embed`.

    Yields: float32 (n, d) on the CPU for each group of n.
    Raises: ValueError as `embed` does.
    """
    if batch < 1 or workers < 0:
        raise ValueError(f"got batches of {batch} by {workers} workers, wanted at least 1 and 0")
    network = in_evaluation(network)
    like = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32

    def read(group: _Group, piece: _Piece) -> Tensor:
        frames = group.tracklets[piece.row].frames
        return read_pixels(frames, piece.indices, size, interpolation=interpolation, max_pixels=max_pixels)

    batches = (
        (group, part) for group in map(_Group, groups) for part in _batches(group.pieces(clips), batch, ragged)
    )
    with closing(_decoded(batches, read, workers)) as decoded:
        for group, part, stacked in decoded:
            lengths = [len(piece.indices) for piece in part]
            options = (torch.tensor(lengths),) if len(set(lengths)) > 1 else ()
            with torch.inference_mode():
                output = network(_normalized(stacked.to(like.device), lengths).to(dtype), *options)
            finished = group.add(part, output)
            advance(finished, sum(len(piece.indices) for piece in part))
            if group.finished == len(group.tracklets):
                yield group.means()


class _Piece(NamedTuple):
    """A clip before decoding: the row of its tracklet, its frames, and the number of clips of the tracklet."""

    row: int
    indices: list[int]
    of: int


def _batches(pieces: Iterator[_Piece], size: int, ragged: bool) -> Iterator[list[_Piece]]:
    """Batches of pieces, in the order in which they become full; of the same number of frames, unless ``ragged``."""
    waiting: dict[int, list[_Piece]] = {}
    for piece in pieces:
        frames = 0 if ragged else len(piece.indices)
        alike = waiting.setdefault(frames, [])
        alike.append(piece)
        if len(alike) == size:
            yield waiting.pop(frames)
    yield from waiting.values()


class _Group:
    """Tracklets, and the sums of the embeddings of their clips, in float64, weighted by frames."""

    def __init__(self, tracklets: Sequence[Tracklet]) -> None:
        if not tracklets:
            raise ValueError("got 0 tracklets, wanted at least 1")
        self.tracklets = tracklets
        self.sums = torch.zeros(len(tracklets), 0, dtype=torch.float64)
        self.frames = torch.zeros(len(tracklets), 1, dtype=torch.float64)
        self.clips = [0] * len(tracklets)
        self.finished = 0

    def pieces(self, choose: Callable[[int], list[list[int]]]) -> Iterator[_Piece]:
        for row, tracklet in enumerate(self.tracklets):
            chosen = choose(len(tracklet.frames))
            if not chosen:
                raise ValueError(
                    f"got no clips of the {len(tracklet.frames)} frames of {tracklet.where}, wanted some"
                )
            yield from (_Piece(row, indices, len(chosen)) for indices in chosen)

    def add(self, part: list[_Piece], output: object) -> int:
        """Adds the output for a batch; returns the number of tracklets it completed."""
        vectors = _checked(output, [self.tracklets[piece.row] for piece in part]).double()
        if not self.sums.shape[1]:
            self.sums = self.sums.new_zeros(len(self.tracklets), vectors.shape[1])
        before = self.finished
        rows = torch.tensor([piece.row for piece in part])
        frames = torch.tensor([[len(piece.indices)] for piece in part], dtype=torch.float64)
        self.sums.index_add_(0, rows, frames * vectors)
        self.frames.index_add_(0, rows, frames)
        for piece in part:
            self.clips[piece.row] += 1
            self.finished += self.clips[piece.row] == piece.of
        return self.finished - before

    def means(self) -> Tensor:
        return (self.sums / self.frames).float()


def _decoded(
    batches: Iterator[tuple[_Group, list[_Piece]]], read: Callable[[_Group, _Piece], Tensor], workers: int
) -> Generator[tuple[_Group, list[_Piece], Tensor]]:
    """Yields each batch with its pixels (b, c, t, h, w), in order."""
    if not workers:
        yield from ((group, part, _stacked([read(group, piece) for piece in part])) for group, part in batches)
        return
    pool = ThreadPoolExecutor(workers)
    ahead: deque[tuple[_Group, list[_Piece], list[Future[Tensor]]]] = deque()
    try:
        for group, part in batches:
            ahead.append((group, part, [pool.submit(read, group, piece) for piece in part]))
            if len(ahead) > 2:
                yield _joined(*ahead.popleft())
        while ahead:
            yield _joined(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(group: _Group, part: list[_Piece], clips: list[Future[Tensor]]) -> tuple[_Group, list[_Piece], Tensor]:
    return group, part, _stacked([clip.result() for clip in clips])


def _normalized(pixels: Tensor, lengths: Sequence[int]) -> Tensor:
    """The clips of a batch on its device, with zeros past the end of the shorter ones."""
    clips = normalize(pixels)
    for clip, length in zip(clips, lengths, strict=True):
        clip[:, length:] = 0
    return clips


def _stacked(clips: Sequence[Tensor]) -> Tensor:
    """The pixels of clips (c, t, h, w) in one tensor; anything past the end of the shorter ones."""
    if len({clip.dtype for clip in clips}) > 1:
        clips = [as_float(clip) for clip in clips]
    c, _, h, w = clips[0].shape
    stacked = clips[0].new_empty(len(clips), c, max(clip.shape[1] for clip in clips), h, w)
    for row, clip in zip(stacked, clips, strict=True):
        row[:, : clip.shape[1]] = clip
    return stacked


def _checked(output: object, part: Sequence[Tracklet]) -> Tensor:
    """The embeddings in the output of a network, float32 on the CPU."""
    vectors = getattr(output, "embedding", output)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(part):
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"the network returned {got} for {len(part)} clips, wanted ({len(part)}, d)")
    vectors = vectors.float().cpu()
    finite = vectors.isfinite().all(dim=1).tolist()
    if not all(finite):
        where = part[finite.index(False)].where
        raise ValueError(f"the embedding of the tracklet of {where} holds NaN or infinity")
    return vectors
