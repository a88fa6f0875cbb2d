"""Interleaved timing: variants are called in turn and timed by process CPU time.

Wall time is noisy on a shared machine, and its speed drifts. So variants take turns, A B A B, in one process, and
ratios are computed for each round from adjacent times.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]
WARM_UPS = 3  # calls on a GPU, in which kernels are chosen and compiled
SHORTEST = 0.1  # seconds that a turn should last at least: the clock and the interpreter cost microseconds


@dataclass(frozen=True)
class Spread:
    """A median, and the least and the largest of what it is the median of."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Timings:
    """Seconds of each variant, one a round."""

    seconds: dict[str, list[float]]

    def of(self, name: str) -> Spread:
        return Spread.of(self.seconds[name])

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times as long ``slow`` takes as ``fast``, of each round."""
        pairs = zip(self.seconds[slow], self.seconds[fast], strict=True)
        return Spread.of([one / other for one, other in pairs])


def in_turn(variants: Mapping[str, Call], *, rounds: int, device: str = "cpu", shortest: float = SHORTEST) -> Timings:
    """Time every variant once in each of ``rounds`` rounds.

    A call shorter than ``shortest`` seconds is repeated within its turn as often as that takes, judged by one
    call before the first round, which also warms it up; with ``shortest`` 0 there is no such call on "cpu". Seconds
    are of process CPU time, all threads together, on "cpu", and between events on the device on "cuda", where every
    turn lasts 50 ms at least, after three calls that warm it up.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    taken = cuda_seconds if device == "cuda" else cpu_seconds
    if device == "cuda":
        shortest = max(shortest, SHORTEST / 2)
        for call in variants.values():
            taken(call, WARM_UPS)
    repeats = dict.fromkeys(variants, 1)
    if shortest > 0:
        repeats = {name: math.ceil(shortest / max(taken(call, 1), 1e-6)) for name, call in variants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            seconds[name].append(taken(call, repeats[name]))
    return Timings(seconds)


def cpu_seconds(call: Call, repeats: int) -> float:
    """Processor time of one call, of all threads of this process."""
    began = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - began) / repeats


def cuda_seconds(call: Call, repeats: int) -> float:
    """Time of one call on the GPU, between two events."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    for _ in range(repeats):
        call()
    ended.record()
    torch.cuda.synchronize()
    return began.elapsed_time(ended) / 1000 / repeats


def peak_mib(call: Call) -> float:
    """MiB that a call adds on the GPU at its peak."""
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def difference(answer: Tensor, expected: Tensor) -> float:
    """The largest difference in parts of the largest expected value; infinite if either is not finite."""
    one, other = answer.detach().double().cpu(), expected.detach().double().cpu()
    if one.shape != other.shape:
        raise ValueError(f"answer must have the shape {tuple(other.shape)}, got {tuple(one.shape)}")
    apart = ((one - other).abs().max() / other.abs().max().clamp(min=1e-300)).item()
    return apart if math.isfinite(apart) else math.inf
