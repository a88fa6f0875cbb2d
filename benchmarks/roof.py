"""The roof: the best speed of this machine, measured by probes that run in the same rounds as the networks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from interleaved import Timings

CHANNELS, HEIGHT, WIDTH = 512, 32, 16
FRAMES = {"cpu": 4, "cuda": 256}  # a GPU is idle below a few milliseconds of work
SIDE = {"cpu": 2, "cuda": 16}  # of the matrix, in channels


@dataclass(frozen=True)
class Probe:
    """An operation, and its floating-point operations, two a multiply-add."""

    call: Callable[[], Any]
    flop: int


def probes(*, device: str = "cpu", dtype: torch.dtype = torch.float32, channels: int = CHANNELS) -> dict[str, Probe]:
    """A 3x3 convolution in both memory orders and a matrix product, all far too large to wait for memory."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(FRAMES[device], channels, HEIGHT, WIDTH, generator=generator).to(device, dtype)
    kernel = torch.randn(channels, channels, 3, 3, generator=generator).to(device, dtype)
    matrix = torch.randn(SIDE[device] * channels, SIDE[device] * channels, generator=generator).to(device, dtype)
    rows = frames.contiguous(memory_format=torch.channels_last)
    rows_kernel = kernel.contiguous(memory_format=torch.channels_last)
    flop = 2 * frames.numel() * channels * 9
    return {
        "probe: 3x3 convolution, channels last": Probe(lambda: F.conv2d(rows, rows_kernel, padding=1), flop),
        "probe: 3x3 convolution, contiguous": Probe(lambda: F.conv2d(frames, kernel, padding=1), flop),
        "probe: matrix product": Probe(lambda: matrix @ matrix, 2 * matrix.shape[0] ** 3),
    }


def best(timings: Timings, probed: dict[str, Probe]) -> float:
    """FLOP a second of the best probe, each by the median of its rounds."""
    return max(probe.flop / timings.of(name).median for name, probe in probed.items())
