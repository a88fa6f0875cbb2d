"""Clip samplers: which frames of a tracklet make one clip for training, or one or more clips for evaluation.

Indices count from 0; n is the length of the tracklet, t the frames of a clip. Training samplers draw from the given
generator in a fixed order, so equal generators give equal frames.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate

from numpy.random import Generator

from strfnet.system.names import check_choice

TrainingSampler = Callable[..., list[int]]  # of length, frames and rng
EvaluationSampler = Callable[..., list[list[int]]]  # of length and frames


def restricted_random(length: int, frames: int, rng: Generator) -> list[int]:
    """A random frame of each of t chunks of a tracklet.

    Chunks have ceil(n / t) frames. Past the end the last frame is repeated, which makes it more likely than the
    others. Draws are uniform and independent.

    Returns: t ascending indices. Raises: ValueError if either number is below 1.
    Source: the code of Liu et al., STE-NVAN, BMVC 2019, arXiv:1908.01683, and of CF-AAN.
    """
    _check(length, frames)
    stride = -(-length // frames)
    drawn = rng.integers(stride, size=frames).tolist()
    return [min(chunk * stride + entry, length - 1) for chunk, entry in enumerate(drawn)]


def restricted_first(length: int, frames: int) -> list[int]:
    """The first frame of each chunk of ``restricted_random``.

    9 frames in 8 chunks give 0 2 4 6 8 8 8 8, which is not even, but as published.

    Source: the test of Liu et al., STE-NVAN, BMVC 2019, arXiv:1908.01683.
    """
    _check(length, frames)
    stride = -(-length // frames)
    return [min(chunk * stride, length - 1) for chunk in range(frames)]


def restricted_all(length: int, frames: int) -> list[list[int]]:
    """All frames, in ceil(n / t) clips: clip i has entry i of each chunk of ``restricted_random``.

    Source: the "all sampled" test in the code of CF-AAN, 2021.
    """
    _check(length, frames)
    stride = -(-length // frames)
    return [[min(chunk * stride + i, length - 1) for chunk in range(frames)] for i in range(stride)]


def balanced_random(length: int, frames: int, rng: Generator) -> list[int]:
    """A random frame of each of t chunks whose lengths differ by one at most, the longer ones first.

    Nothing is padded, so the frames of a chunk are equally likely. A tracklet of fewer than t frames gives
    ``random_sorted``. Source: the code of BiCnet-TKS.
    """
    _check(length, frames)
    if length < frames:
        return random_sorted(length, frames, rng)
    return [start + int(rng.integers(size)) for start, size in _balanced(length, frames)]


def balanced_first(length: int, frames: int) -> list[int]:
    """The first frame of each chunk of ``balanced_random``.

    Ours: a tracklet of fewer than t frames repeats its last one; the code of BiCnet-TKS draws.
    """
    _check(length, frames)
    return [min(start, length - 1) for start, _ in _balanced(length, frames)]


def strided(length: int, frames: int, rng: Generator, *, stride: int = 8) -> list[int]:
    """Every ``stride``-th frame from a random start.

    In a tracklet of at least t times ``stride`` frames, all starts that keep the clip inside are equally likely. A
    shorter one gives ``random_sorted``.

    Raises: ValueError if a number is below 1.
    Source: the code of AP3D, with 4 frames and a stride of 8.
    """
    _check(length, frames)
    if stride < 1:
        raise ValueError(f"stride is {stride}, wanted at least 1 frame")
    if length < frames * stride:
        return random_sorted(length, frames, rng)
    start = int(rng.integers(length - (frames - 1) * stride))
    return [start + at * stride for at in range(frames)]


def strided_ragged(length: int, frames: int, rng: Generator, *, stride: int = 8) -> list[int]:
    """``strided``, but a tracklet of fewer than t frames gives a clip of all its frames, and repeats none.

    Ours.
    """
    return strided(length, min(length, frames), rng, stride=stride)


def strided_first(length: int, frames: int) -> list[int]:
    """A clip from the first frame with the widest stride of 8, 4, 2 and 1 that stays inside; else the frames are
    looped.

    Source: the quick test between AP3D's epochs, with 4 frames.
    """
    _check(length, frames)
    stride = next((stride for stride in (8, 4, 2, 1) if (frames - 1) * stride < length), 0)
    return [at * stride for at in range(frames)] if stride else [at % length for at in range(frames)]


def random_sorted(length: int, frames: int, rng: Generator) -> list[int]:
    """T different frames in temporal order; with replacement if there are fewer than t.

    Source: "random" in torchreid, and the training of AP3D on short tracklets.
    """
    _check(length, frames)
    return sorted(rng.choice(length, size=frames, replace=length < frames).tolist())


def evenly(length: int, frames: int, rng: Generator | None = None) -> list[int]:
    """Every floor(n / t)-th frame from the first; a shorter tracklet repeats its last frame. Nothing is drawn.

    17 frames give the same clip of 8 as 16 frames do. Source: torchreid, in training and evaluation.
    """
    _check(length, frames)
    step = max(1, length // frames)
    return [min(at * step, length - 1) for at in range(frames)]


def consecutive(length: int, frames: int, rng: Generator) -> list[int]:
    """Consecutive frames from a uniform random start; a shorter tracklet is looped.

    Source: the code of Video-Person-ReID. Ours: the last start is drawn too.
    """
    _check(length, frames)
    start = int(rng.integers(max(1, length - frames + 1)))
    return [(start + at) % length for at in range(frames)]


def middle(length: int, frames: int) -> list[int]:
    """The t consecutive frames in the middle, rounded to the start; a shorter tracklet is looped.

    Ours, to evaluate networks trained with ``consecutive``.
    """
    _check(length, frames)
    start = max(0, length - frames) // 2
    return [(start + at) % length for at in range(frames)]


def dense(length: int, frames: int) -> list[list[int]]:
    """All frames, in consecutive clips of t; the frames of the last clip are looped to fill it.

    Source: "dense" in the code of Video-Person-ReID.
    """
    return [[piece[at % len(piece)] for at in range(frames)] for piece in all_frames(length, frames)]


def all_frames(length: int, frames: int) -> list[list[int]]:
    """All frames, each once, in consecutive clips of t; the last clip may be shorter.

    Source: the final test of AP3D, in clips of 32.
    """
    _check(length, frames)
    return [list(range(start, min(start + frames, length))) for start in range(0, length, frames)]


def _single(pick: Callable[[int, int], list[int]], length: int, frames: int) -> list[list[int]]:
    """An evaluation sampler of one clip."""
    return [pick(length, frames)]


TRAINING_SAMPLERS: dict[str, TrainingSampler] = {
    sampler.__name__: sampler
    for sampler in (restricted_random, balanced_random, strided, strided_ragged, random_sorted, consecutive, evenly)
}
# Partial functions can be pickled for another process; closures cannot.
EVALUATION_SAMPLERS: dict[str, EvaluationSampler] = {
    **{
        one.__name__: partial(_single, one)
        for one in (restricted_first, balanced_first, strided_first, evenly, middle)
    },
    **{several.__name__: several for several in (restricted_all, dense, all_frames)},
}


def training_sampler(name: str, *, frames: int, stride: int = 8) -> TrainingSampler:
    """The training sampler of a name for clips of ``frames`` frames.

    Args:
        name: a key of ``TRAINING_SAMPLERS``.
        frames: t.
        stride: of "strided" and "strided_ragged"; the others ignore it.

    Returns: a function of the length of a tracklet and, by name, a generator ``rng``.
    Raises: ValueError for another name, or a number below 1.
    """
    check_choice("sampling", name, TRAINING_SAMPLERS)
    _check_frames(frames, stride)
    sampler = TRAINING_SAMPLERS[name]
    return partial(sampler, frames=frames, **({"stride": stride} if sampler in (strided, strided_ragged) else {}))


def evaluation_sampler(name: str, *, frames: int) -> Callable[[int], list[list[int]]]:
    """The evaluation sampler of a name, a key of ``EVALUATION_SAMPLERS``, for clips of ``frames`` frames.

    Returns: a function of the length of a tracklet. Raises: ValueError for another name, or ``frames`` below 1.
    """
    check_choice("sampling", name, EVALUATION_SAMPLERS)
    _check_frames(frames)
    return partial(EVALUATION_SAMPLERS[name], frames=frames)


def _balanced(length: int, frames: int) -> list[tuple[int, int]]:
    """The first frame and the size of each chunk; empty ones start after the last frame."""
    sizes = [(length - chunk - 1) // frames + 1 for chunk in range(frames)]
    return list(zip(accumulate(sizes, initial=0), sizes, strict=False))


def _check(length: int, frames: int) -> None:
    if length < 1 or frames < 1:
        raise ValueError(f"got a tracklet of {length} frames for clips of {frames}, wanted at least 1 of each")


def _check_frames(frames: int, stride: int = 1) -> None:
    if min(frames, stride) < 1:
        raise ValueError(f"got clips of {frames} frames and a stride of {stride}, wanted at least 1 of each")
