"""Which frames of a tracklet a network gets to see: one clip to train on, one or more to be tested with.

Indices count from 0; n is the length of the tracklet, t the frames of a clip. Training functions draw from the
generator they are handed, once and in a fixed order, so that the same generator gives the same frames.
"""

from collections.abc import Callable
from functools import partial
from itertools import accumulate

from numpy.random import Generator

TrainClip = Callable[..., list[int]]  # of length, frames and rng
TestClips = Callable[..., list[list[int]]]  # of length and frames


def restricted_random(length: int, frames: int, rng: Generator) -> list[int]:
    """One frame of each chunk, when a tracklet is cut into as many chunks as the clip has frames.

    Chunks hold ceil(n / t) frames; where they run past the end, the last frame is repeated, which makes it
    likelier than the others. Draws are uniform and independent of each other.

    Returns: t indices, never decreasing. Raises: ValueError if either number is below 1.
    Source: restricted random sampling as in the code of Liu et al., STE-NVAN, BMVC 2019, and of CF-AAN.
    """
    _check(length, frames)
    stride = -(-length // frames)
    drawn = rng.integers(stride, size=frames).tolist()
    return [min(chunk * stride + entry, length - 1) for chunk, entry in enumerate(drawn)]


def restricted_first(length: int, chunks: int) -> list[int]:
    """The first frame of each chunk, when a tracklet is cut into as many chunks as the clip has frames.

    Chunks hold ceil(length / chunks) frames; where they run past the end, the last frame is repeated. So 9
    frames in 8 chunks give 0 2 4 6 8 8 8 8, which is not an even spread, but the published one.

    Returns: ``chunks`` indices, never decreasing, in 0 .. length - 1.
    Raises: ValueError if either number is below 1.
    Source: restricted random sampling as tested in Liu et al., STE-NVAN, BMVC 2019.
    """
    if length < 1 or chunks < 1:
        raise ValueError(f"got {length} frames in {chunks} chunks, wanted at least 1 of each")
    stride = -(-length // chunks)
    return [min(chunk * stride, length - 1) for chunk in range(chunks)]


def restricted_all(length: int, frames: int) -> list[list[int]]:
    """Every frame, in ceil(n / t) clips: clip i takes entry i of each chunk of ``restricted_random``.

    Source: the "all sampled" test of CF-AAN's code, 2021.
    """
    _check(length, frames)
    stride = -(-length // frames)
    return [[min(chunk * stride + i, length - 1) for chunk in range(frames)] for i in range(stride)]


def balanced_random(length: int, frames: int, rng: Generator) -> list[int]:
    """One frame of each chunk, when no chunk is more than one frame longer than another, longer ones first.

    Nothing is padded, so the frames of a chunk are equally likely. A tracklet of fewer than t frames gives
    ``random_sorted``. Source: BiCnet-TKS's code.
    """
    _check(length, frames)
    if length < frames:
        return random_sorted(length, frames, rng)
    return [start + int(rng.integers(size)) for start, size in _balanced(length, frames)]


def balanced_first(length: int, frames: int) -> list[int]:
    """The first frame of each chunk of ``balanced_random``.

    Ours: a tracklet of fewer than t frames repeats its last one, where BiCnet-TKS's code draws.
    """
    _check(length, frames)
    return [min(start, length - 1) for start, _ in _balanced(length, frames)]


def strided(length: int, frames: int, rng: Generator, *, stride: int = 8) -> list[int]:
    """Every ``stride``-th frame from a random start.

    A tracklet of at least t times ``stride`` frames has all its starts alike, from the first frame to the one
    from which the last pick is frame n - 1; a shorter one gives ``random_sorted`` instead.

    Raises: ValueError if a number is below 1.
    Source: AP3D's code, with 4 frames and a stride of 8.
    """
    _check(length, frames)
    if stride < 1:
        raise ValueError(f"stride is {stride}, wanted at least 1 frame")
    if length < frames * stride:
        return random_sorted(length, frames, rng)
    start = int(rng.integers(length - (frames - 1) * stride))
    return [start + at * stride for at in range(frames)]


def strided_first(length: int, frames: int) -> list[int]:
    """From the first frame on with the widest stride of 8, 4, 2 and 1 that stays inside; else frames looped.

    Source: the quick test between AP3D's epochs, with 4 frames.
    """
    _check(length, frames)
    stride = next((stride for stride in (8, 4, 2, 1) if (frames - 1) * stride < length), 0)
    return [at * stride for at in range(frames)] if stride else [at % length for at in range(frames)]


def random_sorted(length: int, frames: int, rng: Generator) -> list[int]:
    """Any t different frames in the order of time; from fewer than t frames, t draws with replacement.

    Source: "random" in torchreid, and AP3D's training on tracklets too short for its window.
    """
    _check(length, frames)
    return sorted(rng.choice(length, size=frames, replace=length < frames).tolist())


def evenly(length: int, frames: int) -> list[int]:
    """Frames at equal steps of floor(n / t) from the first one on; a shorter tracklet repeats its last frame.

    So 17 frames give clips of 8 the same picks as 16 do. Source: torchreid, in training and test.
    """
    _check(length, frames)
    step = max(1, length // frames)
    return [min(at * step, length - 1) for at in range(frames)]


def consecutive(length: int, frames: int, rng: Generator) -> list[int]:
    """Neighbouring frames from a random start, every start alike; a shorter tracklet is looped.

    Source: Video-Person-ReID's code, which however never takes the last start; ours does.
    """
    _check(length, frames)
    start = int(rng.integers(max(1, length - frames + 1)))
    return [(start + at) % length for at in range(frames)]


def middle(length: int, frames: int) -> list[int]:
    """The t neighbouring frames in the middle, one nearer to the start if need be; a shorter tracklet is looped.

    Ours, to test what was trained with ``consecutive``.
    """
    _check(length, frames)
    start = max(0, length - frames) // 2
    return [(start + at) % length for at in range(frames)]


def dense(length: int, frames: int) -> list[list[int]]:
    """All frames, in consecutive clips of t; the frames that are left for the last clip are looped to fill it.

    Source: "dense" in Video-Person-ReID's code.
    """
    return [[piece[at % len(piece)] for at in range(frames)] for piece in all_frames(length, frames)]


def all_frames(length: int, frames: int) -> list[list[int]]:
    """All frames, each once, in consecutive pieces of t; the last piece may be shorter.

    Source: AP3D's final test, in pieces of 32.
    """
    _check(length, frames)
    return [list(range(start, min(start + frames, length))) for start in range(0, length, frames)]


def _certain(pick: Callable[[int, int], list[int]], length: int, frames: int, rng: Generator) -> list[int]:
    """A training function that draws nothing."""
    return pick(length, frames)


def _single(pick: Callable[[int, int], list[int]], length: int, frames: int) -> list[list[int]]:
    """A test function of one clip."""
    return [pick(length, frames)]


# Partial functions rather than closures: they can be sent to another process.
TRAIN_CLIPS: dict[str, TrainClip] = {
    "restricted_random": restricted_random,
    "balanced_random": balanced_random,
    "strided": strided,
    "random_sorted": random_sorted,
    "consecutive": consecutive,
    "evenly": partial(_certain, evenly),
}
TEST_CLIPS: dict[str, TestClips] = {
    "restricted_first": partial(_single, restricted_first),
    "restricted_all": restricted_all,
    "balanced_first": partial(_single, balanced_first),
    "strided_first": partial(_single, strided_first),
    "evenly": partial(_single, evenly),
    "middle": partial(_single, middle),
    "dense": dense,
    "all_frames": all_frames,
}


def training_form(name: str, *, frames: int, stride: int = 8) -> TrainClip:
    """The training function of a name, when clips have ``frames`` frames: what a recipe asks for.

    Args:
        name: a key of ``TRAIN_CLIPS``.
        frames: t.
        stride: of "strided"; the others have none and leave it aside.

    Returns: a function of a tracklet's length and, by name, a generator ``rng``.
    Raises: ValueError for another name, or a number below 1.
    """
    _check_form(name, list(TRAIN_CLIPS), frames, stride)
    form = TRAIN_CLIPS[name]
    return partial(form, frames=frames, **({"stride": stride} if form is strided else {}))


def evaluation_form(name: str, *, frames: int) -> Callable[[int], list[list[int]]]:
    """The test function of a name, a key of ``TEST_CLIPS``, when clips have ``frames`` frames.

    Returns: a function of a tracklet's length. Raises: ValueError for another name, or ``frames`` below 1.
    """
    _check_form(name, list(TEST_CLIPS), frames)
    return partial(TEST_CLIPS[name], frames=frames)


def _balanced(length: int, frames: int) -> list[tuple[int, int]]:
    """First frame and size of each chunk; those that no frame is left for start behind the last."""
    sizes = [(length - chunk - 1) // frames + 1 for chunk in range(frames)]
    return list(zip(accumulate(sizes, initial=0), sizes, strict=False))


def _check(length: int, frames: int) -> None:
    if length < 1 or frames < 1:
        raise ValueError(f"got a tracklet of {length} frames for clips of {frames}, wanted at least 1 of each")


def _check_form(name: str, names: list[str], frames: int, stride: int = 1) -> None:
    if name not in names:
        raise ValueError(f"sampling is {name!r}, wanted one of {', '.join(names)}")
    if min(frames, stride) < 1:
        raise ValueError(f"got clips of {frames} frames and a stride of {stride}, wanted at least 1 of each")
