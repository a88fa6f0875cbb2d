"""Peak memory of one inference of the non-local block against the form that holds the whole matrix.

    python benchmarks/memory.py

Each figure is taken in a fresh process: resident memory at its peak during one forward pass, less what was
resident before, inputs and weights included there. Large buffers are given back at once
(MALLOC_MMAP_THRESHOLD_), so resident memory is live memory. Linux only. Exits 1 if a goal is missed.
"""

import argparse
import ctypes
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from strfnet import NonLocalBlock

CHANNELS, HEIGHT, WIDTH = 512, 32, 16
SHARE_GOAL, EXPONENT_GOAL = 0.25, 1.0


class ExplicitNonLocal(nn.Module):
    """The dense block as published code computes it: 5-D convolutions, permuted copies, the whole matrix."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, _, t, h, w = x.shape
        theta = self.theta(x).view(b, -1, t * h * w).permute(0, 2, 1)
        phi = self.phi(x).view(b, -1, t * h * w)
        g = self.g(x).view(b, -1, t * h * w).permute(0, 2, 1)
        affinity = torch.matmul(theta, phi).softmax(dim=-1)
        gathered = torch.matmul(affinity, g).permute(0, 2, 1).contiguous()
        return self.W(gathered.view(b, -1, t, h, w)) + x


BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "explicit": ExplicitNonLocal,
    "strfnet": NonLocalBlock,
    "strfnet, dot": lambda channels: NonLocalBlock(channels, pairing="dot"),
    "strfnet, 16 stripes": lambda channels: NonLocalBlock(channels, stripes=16),
}


def resident(field: str) -> float:
    """A field of this process's status, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measure(block: str, frames: int) -> float:
    """MiB that one forward pass of a block adds at its peak; changes this process, so run it in a fresh one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = BLOCKS[block](CHANNELS).eval()
    order = torch.contiguous_format if block == "explicit" else torch.channels_last_3d
    clip = torch.randn(1, CHANNELS, frames, HEIGHT, WIDTH).contiguous(memory_format=order)
    with torch.inference_mode():
        network(clip[:, :, :1].contiguous(memory_format=order))
        ctypes.CDLL(None).malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = resident("VmRSS")
        network(clip)
    return resident("VmHWM") - before


def measured_afresh(block: str, frames: int) -> float:
    command = [sys.executable, __file__, "--measure", block, str(frames)]
    setting = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144"}
    done = subprocess.run(command, env=setting, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--measure", nargs=2, metavar=("BLOCK", "FRAMES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(measure(given.measure[0], int(given.measure[1])))
        return 0

    peaks = {name: {t: measured_afresh(name, t) for t in (8, 32)} for name in BLOCKS}
    share = peaks["strfnet"][8] / peaks["explicit"][8]
    exponents = {name: math.log(peak[32] / peak[8], 4) for name, peak in peaks.items()}
    reached = share <= SHARE_GOAL and exponents["strfnet"] <= EXPONENT_GOAL
    if given.json:
        print(json.dumps({"peaks_mib": peaks, "share": share, "exponents": exponents, "reached": reached}, indent=2))
        return 0 if reached else 1
    print(f"peak of one inference, {CHANNELS} channels, {HEIGHT} x {WIDTH} pixels, batch 1, float32, one thread")
    print(f"{'block':22}{'T = 8 (MiB)':>12}{'T = 32 (MiB)':>13}{'growth exponent':>16}")
    for name, peak in peaks.items():
        print(f"{name:22}{peak[8]:12.1f}{peak[32]:13.1f}{exponents[name]:16.2f}")
    print(f"\nshare of the explicit form at T = 8: {share:.2f} (goal: at most {SHARE_GOAL})")
    print(f"growth exponent from T = 8 to 32:    {exponents['strfnet']:.2f} (goal: at most {EXPONENT_GOAL})")
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
