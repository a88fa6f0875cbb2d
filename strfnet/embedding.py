"""Tracklets turned into vectors by a network, and the vectors kept in a file."""

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from strfnet.data.frames import read_clip
from strfnet.data.sampling import restricted_first
from strfnet.data.tracklet import Tracklet
from strfnet.files import write_whole


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
    progress: bool = False,
) -> Tensor:
    """One vector per tracklet: the mean over its clips, each as heavy as it has frames.

    A network whose feature is a mean over frames, and whose neck is a batch norm, so answers as it would to all
    frames at once as far as its layers do not look across the ends of clips: in evaluation the neck is affine,
    and the mean behind it is what it makes of the mean before it.

    The network is run in evaluation and inference mode and is left in the modes it came in, module by module.
    Clips go to it on the device and in the floating-point type of its first parameter. Clips with equally many
    frames share a batch, whichever tracklets they are from, so that tracklets may be of any lengths. Only the
    clips of one batch, and with ``workers`` of two more, are in memory at a time.

    Args:
        network: takes clips (b, 3, t, h, w); returns (b, d), or an object whose ``embedding`` is (b, d).
        tracklets: at least one; a part of a data set gives the same part of its embeddings.
        frames: t, where ``clips`` is not given.
        clips: from a tracklet's length to the frames of its clips, such as ``evaluation_form("all_frames",
            frames=32)`` of `strfnet.data.sampling`; one clip by ``restricted_first`` if None.
        size: height and width of the clips in pixels.
        interpolation: "bilinear" or "bicubic", as in training.
        batch: b, clips at a time.
        workers: threads that decode the next clips while the network is at work; 0 for none.
        progress: whether to count on stderr what is done, with the time that is left.

    Returns: float32 (n, d) on the CPU, in the order of the tracklets; means are taken in float64.
    Raises: ValueError if there are no tracklets, a frame cannot be read, a tracklet gets no clip, the network
    returns something else, or an embedding is not finite (naming the tracklet's first frame).
    """
    if not tracklets or batch < 1 or workers < 0:
        given = f"{len(tracklets)} tracklets in batches of {batch} by {workers} workers"
        raise ValueError(f"got {given}, wanted at least 1, 1 and 0")
    like = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    choose = clips or (lambda length: [restricted_first(length, frames)])

    def read(piece: _Piece) -> Tensor:
        return read_clip(tracklets[piece.row].frames, piece.indices, size, interpolation=interpolation)

    means = _Means(tracklets)
    batches = _batches(_pieces(tracklets, choose), batch)
    ready = closing(_decoded(batches, read, workers))
    with _evaluating(network), _counting(len(tracklets), progress) as tell, ready as decoded:
        for part, stacked in decoded:
            with torch.inference_mode():
                answer = network(stacked.to(like.device, dtype))
            means.add(part, answer)
            tell(means.finished)
    return means.result()


class _Piece(NamedTuple):
    """A clip to be: the row of its tracklet, its frames, and how many clips the tracklet has."""

    row: int
    indices: list[int]
    of: int


def _pieces(tracklets: Sequence[Tracklet], choose: Callable[[int], list[list[int]]]) -> Iterator[_Piece]:
    for row, tracklet in enumerate(tracklets):
        chosen = choose(len(tracklet.frames))
        if not chosen:
            raise ValueError(f"got no clips of the {len(tracklet.frames)} frames of {tracklet.where}, wanted some")
        yield from (_Piece(row, indices, len(chosen)) for indices in chosen)


def _batches(pieces: Iterator[_Piece], size: int) -> Iterator[list[_Piece]]:
    """Pieces with equally many frames together, in the order in which batches become full."""
    waiting: dict[int, list[_Piece]] = {}
    for piece in pieces:
        alike = waiting.setdefault(len(piece.indices), [])
        alike.append(piece)
        if len(alike) == size:
            yield waiting.pop(len(piece.indices))
    yield from waiting.values()


def _decoded(
    batches: Iterator[list[_Piece]], read: Callable[[_Piece], Tensor], workers: int
) -> Generator[tuple[list[_Piece], Tensor]]:
    """Each batch with its clips (b, c, t, h, w), in order."""
    if not workers:
        yield from ((part, torch.stack([read(piece) for piece in part])) for part in batches)
        return
    pool = ThreadPoolExecutor(workers)
    ahead: deque[tuple[list[_Piece], list[Future[Tensor]]]] = deque()
    try:
        for part in batches:
            ahead.append((part, [pool.submit(read, piece) for piece in part]))
            if len(ahead) > 2:
                yield _joined(*ahead.popleft())
        while ahead:
            yield _joined(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _joined(part: list[_Piece], clips: list[Future[Tensor]]) -> tuple[list[_Piece], Tensor]:
    return part, torch.stack([clip.result() for clip in clips])


class _Means:
    """Sums of what the network says of the clips of each tracklet, in float64, weighted by frames."""

    def __init__(self, tracklets: Sequence[Tracklet]) -> None:
        self.tracklets = tracklets
        self.sums = torch.zeros(len(tracklets), 0, dtype=torch.float64)
        self.frames = torch.zeros(len(tracklets), 1, dtype=torch.float64)
        self.clips = [0] * len(tracklets)
        self.finished = 0

    def add(self, part: list[_Piece], answer: object) -> None:
        vectors = _checked(answer, [self.tracklets[piece.row] for piece in part]).double()
        if not self.sums.shape[1]:
            self.sums = self.sums.new_zeros(len(self.tracklets), vectors.shape[1])
        for piece, vector in zip(part, vectors, strict=True):
            self.sums[piece.row] += len(piece.indices) * vector
            self.frames[piece.row] += len(piece.indices)
            self.clips[piece.row] += 1
            self.finished += self.clips[piece.row] == piece.of

    def result(self) -> Tensor:
        return (self.sums / self.frames).float()


def save_embeddings(path: str | Path, embeddings: Tensor, tracklets: Sequence[Tracklet]) -> None:
    """Write vectors and whose they are into one safetensors file, whole or not at all.

    The tensor is called ``embeddings``; the metadata's ``tracklets`` is a JSON list with the identity, the
    camera, the number of frames and the path of the first frame of each. A file of this name is replaced only
    when the new one is safely on disk.

    Raises: ValueError if ``embeddings`` is not one row per tracklet; OSError if the file cannot be written.
    """
    from safetensors.torch import save

    if embeddings.ndim != 2 or len(embeddings) != len(tracklets):
        wanted = f"one row for each of {len(tracklets)} tracklets"
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, wanted {wanted}")
    described = [
        {
            "identity": item.identity,
            "camera": item.camera,
            "frames": len(item.frames),
            "path": item.where,
        }
        for item in tracklets
    ]
    tensors = {"embeddings": embeddings.detach().cpu().contiguous()}
    write_whole(Path(path), save(tensors, metadata={"tracklets": json.dumps(described)}))


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module is in its own mode again, a norm frozen in training too."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _checked(answer: object, part: Sequence[Tracklet]) -> Tensor:
    """The embeddings in a network's answer, float32 on the CPU."""
    vectors = getattr(answer, "embedding", answer)
    if not isinstance(vectors, Tensor) or vectors.ndim != 2 or len(vectors) != len(part):
        got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
        raise ValueError(f"the network returned {got} for {len(part)} clips, wanted ({len(part)}, d)")
    vectors = vectors.float().cpu()
    for vector, tracklet in zip(vectors, part, strict=True):
        if not vector.isfinite().all():
            raise ValueError(f"the embedding of the tracklet of {tracklet.where} holds NaN or infinity")
    return vectors


@contextmanager
def _counting(total: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Tells on stderr how many tracklets are done: one line rewritten on a terminal, else one every 10 s."""
    began = told = time.monotonic()
    terminal = shown and sys.stderr.isatty()

    def tell(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if shown and (terminal or done == total or now - told > 10):
            told = now
            text = f"{done} of {total} tracklets embedded, {(now - began) / max(done, 1) * (total - done):.0f} s left"
            print(f"\r{text:<60}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if terminal:
            print(file=sys.stderr)
