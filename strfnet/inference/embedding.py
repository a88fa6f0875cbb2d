"""Tracklets turned into vectors by a network, and the vectors kept in a file."""

import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from strfnet.data.frames import read_clip
from strfnet.data.sampling import restricted_first
from strfnet.data.tracklet import Tracklet
from strfnet.system.files import write_atomically
from strfnet.system.modes import evaluating
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
        clips: from a tracklet's length to the frames of its clips, such as ``evaluation_sampler("all_frames",
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
            tell=line.advance,
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
    tell: Advance,
) -> Generator[Tensor]:
    """The embeddings of one group of tracklets after the other, each as `embed` makes them of the group alone.

    A batch holds clips of one group only, so a group's embeddings do not depend on its neighbours by as much as
    rounding; but the next group is decoded while the network is at work on this one. Closing the generator ends
    its threads and gives the network its modes back.

    ``groups`` are asked for one after the other, as far ahead as clips are decoded; ``tell`` is called after each
    batch with the tracklets that it has finished, and its frames.

    All other arguments are those of `embed`. Yields: float32 (n, d) on the CPU for each group of n.
    Raises: ValueError, as `embed` does.
    """
    if batch < 1 or workers < 0:
        raise ValueError(f"got batches of {batch} by {workers} workers, wanted at least 1 and 0")
    like = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32

    def read(group: _Group, piece: _Piece) -> Tensor:
        return read_clip(group.tracklets[piece.row].frames, piece.indices, size, interpolation=interpolation)

    batches = ((group, part) for group in map(_Group, groups) for part in _batches(group.pieces(clips), batch))
    with evaluating(network), closing(_decoded(batches, read, workers)) as decoded:
        for group, part, stacked in decoded:
            with torch.inference_mode():
                answer = network(stacked.to(like.device, dtype))
            finished = group.add(part, answer)
            tell(finished, sum(len(piece.indices) for piece in part))
            if group.finished == len(group.tracklets):
                yield group.means()


class _Piece(NamedTuple):
    """A clip to be: the row of its tracklet, its frames, and how many clips the tracklet has."""

    row: int
    indices: list[int]
    of: int


def _batches(pieces: Iterator[_Piece], size: int) -> Iterator[list[_Piece]]:
    """Pieces with equally many frames together, in the order in which batches become full."""
    waiting: dict[int, list[_Piece]] = {}
    for piece in pieces:
        alike = waiting.setdefault(len(piece.indices), [])
        alike.append(piece)
        if len(alike) == size:
            yield waiting.pop(len(piece.indices))
    yield from waiting.values()


class _Group:
    """Tracklets, and the sums of what the network says of their clips, in float64, weighted by frames."""

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

    def add(self, part: list[_Piece], answer: object) -> int:
        """Add the answer to a batch; how many tracklets it has finished."""
        vectors = _checked(answer, [self.tracklets[piece.row] for piece in part]).double()
        if not self.sums.shape[1]:
            self.sums = self.sums.new_zeros(len(self.tracklets), vectors.shape[1])
        before = self.finished
        for piece, vector in zip(part, vectors, strict=True):
            self.sums[piece.row] += len(piece.indices) * vector
            self.frames[piece.row] += len(piece.indices)
            self.clips[piece.row] += 1
            self.finished += self.clips[piece.row] == piece.of
        return self.finished - before

    def means(self) -> Tensor:
        return (self.sums / self.frames).float()


def _decoded(
    batches: Iterator[tuple[_Group, list[_Piece]]], read: Callable[[_Group, _Piece], Tensor], workers: int
) -> Generator[tuple[_Group, list[_Piece], Tensor]]:
    """Each batch with its clips (b, c, t, h, w), in order."""
    if not workers:
        yield from ((group, part, torch.stack([read(group, piece) for piece in part])) for group, part in batches)
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
    return group, part, torch.stack([clip.result() for clip in clips])


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
    tensors = {"embeddings": embeddings.detach().cpu().contiguous()}
    write_atomically(Path(path), save(tensors, metadata={"tracklets": describe(tracklets)}))


def describe(tracklets: Sequence[Tracklet]) -> str:
    """The JSON list of whose embeddings they are, see `save_embeddings`."""
    described = (
        {"identity": item.identity, "camera": item.camera, "frames": len(item.frames), "path": item.where}
        for item in tracklets
    )
    return f"[{', '.join(map(json.dumps, described))}]"  # a list of 100,000 dictionaries is not held


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
