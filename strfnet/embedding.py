"""Tracklets turned into vectors by a network, and the vectors kept in a file."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from strfnet.data.frames import read_clip
from strfnet.data.sampling import restricted_first
from strfnet.data.tracklet import Tracklet


def embed(
    network: nn.Module,
    tracklets: Sequence[Tracklet],
    *,
    frames: int = 8,
    size: tuple[int, int] = (256, 128),
    batch: int = 8,
    progress: bool = False,
) -> Tensor:
    """One vector per tracklet, from one clip of its frames.

    The network is run in evaluation and inference mode and is left in the modes it came in, module by module.
    Clips go to it on the device and in the floating-point type of its first parameter.

    Args:
        network: takes clips (b, 3, t, h, w); returns (b, d), or an object whose ``embedding`` is (b, d).
        tracklets: at least one.
        frames: t, chosen by ``restricted_first``.
        size: height and width of the clips in pixels.
        batch: b, clips at a time.
        progress: whether to count on stderr what is done, with the time that is left.

    Returns: float32 (n, d) on the CPU, in the order of the tracklets.
    Raises: ValueError if there are no tracklets, a frame cannot be read, the network returns something else,
    or an embedding is not finite (naming the tracklet's first frame).
    """
    if not tracklets or batch < 1:
        raise ValueError(f"got {len(tracklets)} tracklets in batches of {batch}, wanted at least 1 of each")
    like = next(chain(network.parameters(), network.buffers()), torch.empty(0))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    embeddings: list[Tensor] = []
    with _evaluating(network), _counting(len(tracklets), progress) as tell:
        for start in range(0, len(tracklets), batch):
            part = tracklets[start : start + batch]
            clips = torch.stack([_clip(tracklet, frames, size) for tracklet in part])
            with torch.inference_mode():
                answer = network(clips.to(like.device, dtype))
            embeddings.append(_checked(answer, part))
            tell(start + len(part))
    return torch.cat(embeddings)  # outside inference mode, so that the result can be trained on


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
            "path": str(item.frames[0]),
        }
        for item in tracklets
    ]
    tensors = {"embeddings": embeddings.detach().cpu().contiguous()}
    _write_whole(Path(path), save(tensors, metadata={"tracklets": json.dumps(described)}))


def _clip(tracklet: Tracklet, frames: int, size: tuple[int, int]) -> Tensor:
    return read_clip(tracklet.frames, restricted_first(len(tracklet.frames), frames), size)


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
            raise ValueError(f"the embedding of the tracklet of {tracklet.frames[0]} holds NaN or infinity")
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
            text = f"{done} of {total} tracklets embedded, {(now - began) / done * (total - done):.0f} s left"
            print(f"\r{text:<60}" if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if terminal:
            print(file=sys.stderr)


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: whoever reads it, even after a crash, finds the old content or the new."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    if os.name == "posix":
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)  # the new name is safe when its folder is
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
