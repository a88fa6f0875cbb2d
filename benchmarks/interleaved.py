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
KNOWN, LONG = 0.015, 20.0  # the standard error at which ratios are known; seconds after which no further round begins


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

    @property
    def known(self) -> bool:
        """Whether the ratios of the first variant to each other one have standard errors of at most `KNOWN`.

        Up to ten rounds, the range of the ratios divided by the number of rounds is close to the standard error of
        their mean. It is taken relative to their median.
        """
        first, *others = self.seconds
        spreads = [self.ratio(first, other) for other in others]
        return all(each.most - each.least <= KNOWN * len(self.seconds[first]) * each.median for each in spreads)


def in_turn(
    variants: Mapping[str, Call],
    *,
    rounds: int,
    most: int | None = None,
    device: str = "cpu",
    shortest: float = SHORTEST,
    wall: bool = False,
) -> Timings:
    """Time every variant once in each of ``rounds`` rounds, and of up to ``most`` until ratios are known.

    After `LONG` seconds no further round begins. A call shorter than ``shortest`` seconds is repeated within its turn
    as often as that takes, judged by one call before the first round, which also warms it up; with ``shortest`` 0
    there is no such call on "cpu". Seconds are of process CPU time, all threads together, on "cpu", or with ``wall``
    of the clock; and between events on the device on "cuda", where every turn lasts 50 ms at least, after three calls
    that warm it up.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    taken = cuda_seconds if device == "cuda" else wall_seconds if wall else cpu_seconds
    if device == "cuda":
        shortest = max(shortest, SHORTEST / 2)
        for call in variants.values():
            taken(call, WARM_UPS)
    repeats = dict.fromkeys(variants, 1)
    if shortest > 0:
        repeats = {name: math.ceil(shortest / max(taken(call, 1), 1e-6)) for name, call in variants.items()}
    timings = Timings({name: [] for name in variants})
    began = time.perf_counter()
    for number in range(max(rounds, most or 0)):
        if number >= rounds and (timings.known or time.perf_counter() - began > LONG):
            break
        for name, call in variants.items():
            timings.seconds[name].append(taken(call, repeats[name]))
    return timings


def cpu_seconds(call: Call, repeats: int) -> float:
    """Processor time of one call, of all threads of this process."""
    return _seconds(call, repeats, time.process_time)


def wall_seconds(call: Call, repeats: int) -> float:
    """Time of one call by the clock."""
    return _seconds(call, repeats, time.perf_counter)


def _seconds(call: Call, repeats: int, clock: Callable[[], float]) -> float:
    began = clock()
    for _ in range(repeats):
        call()
    return (clock() - began) / repeats


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
