"""Comparison of an exported file with its network, in a fresh process and in float64."""

import copy
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.deployment import exported

TOLERANCE = 1e-4  # the largest difference from the network in float64, as a share of the largest value ...
ROUNDING = 4  # ... or this many times the difference of its own float32 output, if that is more
MOST_ROUNDING = 1e-2  # of its own float32 output; a network that rounds more cannot be checked
CHECKED = ((1, 0), (1, 3), (3, 0), (3, 3))  # batch, and frames beyond the fewest, of the clips of the check


@dataclass(frozen=True)
class Check:
    """The outputs of the network and of the file for one random clip, compared.

    Args:
        clip_shape: (b, c, t, h, w).
        error: largest difference of the file's output from the network's in float64, as a share of the largest value.
        rounding: that of the network's own float32 output; None if it does not run in float64, and ``error`` is the
            difference from its float32 output.
        network_seconds: of one call of the original network.
        file_seconds: of one call of the file, with as many threads.
    """

    clip_shape: tuple[int, ...]
    error: float
    rounding: float | None
    network_seconds: float
    file_seconds: float


def verified(
    original: nn.Module, file: Path, format: str, description: dict[str, Any], size: tuple[int, int]
) -> tuple[Check, ...]:
    """Compares the outputs of the file and of the network. Raises: ValueError if they differ."""
    least = description["frames_at_least"]
    clips = [random_clip(b, t, size) for b, t in ((b, least + more) for b, more in CHECKED)]
    outputs, file_seconds, stored = _run(file, format, clips)
    if stored != json.loads(json.dumps(description)):
        raise ValueError(f"the {format} file has the metadata {stored}, wanted {description}; it is not kept")
    exact = copy.deepcopy(original).double()
    checks = []
    for clip, output, seconds in zip(clips, outputs, file_seconds, strict=True):
        with torch.inference_mode():
            own = original(clip)
            start = time.perf_counter()
            original(clip)
            network_seconds = time.perf_counter() - start
            expected = _in_float64(exact, clip)
        rounding = None if expected is None else _difference(own, expected)
        expected = own if expected is None else expected
        if output.shape != expected.shape:
            raise ValueError(
                f"the {format} file returns {tuple(output.shape)} for a clip of {tuple(clip.shape)}, wanted "
                f"{tuple(expected.shape)}; it is not kept"
            )
        if rounding is not None and rounding > MOST_ROUNDING:
            raise ValueError(
                f"the network's own output in float32 differs from that in float64 by {rounding:.1e} of the largest "
                f"value for a clip of {tuple(clip.shape)}, wanted at most {MOST_ROUNDING:.0e}; the file is not kept"
            )
        error, allowed = _difference(output, expected), max(TOLERANCE, ROUNDING * (rounding or 0.0))
        if not error <= allowed:
            raise ValueError(
                f"the {format} file's output for a clip of {tuple(clip.shape)} differs from the network's by "
                f"{error:.1e} of the largest value, wanted at most {allowed:.0e}; it is not kept"
            )
        checks.append(Check(tuple(clip.shape), error, rounding, network_seconds, seconds))
    return tuple(checks)


def _in_float64(network: nn.Module, clip: Tensor) -> Tensor | None:
    """The output in float64, or None from a network that does not compute in it, as one with float32 tensors."""
    try:
        output: Tensor = network(clip.double())
    except Exception:  # a network may raise anything
        return None
    return output if output.dtype == torch.float64 else None


def _difference(output: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((output.double() - expected.double()).abs().max() / expected.double().abs().max().clamp(min=1e-30))


def _run(file: Path, format: str, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[float], Any]:
    """Runs the file in a separate process. Returns the output and the seconds of each clip, and the metadata."""
    np.savez(file.parent / "clips.npz", *(clip.numpy() for clip in clips))
    # Not `python exported.py`, which would import from that file's folder, a part of this package.
    start = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    program = [sys.executable, "-c", start, exported.__file__, format, str(file), str(file.parent)]
    threads = str(torch.get_num_threads())
    done = subprocess.run([*program, threads], capture_output=True, text=True, cwd=file.parent)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"the {format} file does not run in a separate process: {last}; it is not kept")
    with np.load(file.parent / "outputs.npz") as found:
        outputs = [torch.from_numpy(found[f"arr_{number}"]) for number in range(len(clips))]
        return outputs, found["seconds"].tolist(), json.loads(str(found["description"]))


def random_clip(b: int, t: int, size: tuple[int, int]) -> Tensor:
    """A random clip, equal for equal shapes."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, wanted height and width of at least 1 pixel")
    return torch.randn(b, 3, t, *size, generator=torch.Generator().manual_seed(100 * b + t))
