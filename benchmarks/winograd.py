"""Winograd's convolutions beside direct ones: time and error for the shapes of a ResNet-50 on frames of 256x128.

    python benchmarks/winograd.py            # under a minute of one core

In turns, on one thread, by process CPU time, median of nine rounds. The error is the largest difference from the
float64 output, as a share of the largest value. The widths below ``winograd.FEWEST`` show why they are not
replaced. Exits 1 if one that is replaced is slower, or its error above 1e-5.
"""

import copy
import sys
from functools import partial

import torch
from interleaved import difference, in_turn
from torch import nn

from strfnet.deployment.winograd import FEWEST, is_suited, transform

SHAPES = ((64, 64, 32), (128, 32, 16), (256, 16, 8), (512, 16, 8))  # channels, rows, columns
FRAMES = (1, 6, 8, 32)


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{'channels':>8}{'map':>8}{'frames':>8}{'direct (ms)':>13}{'Winograd':>10}{'times':>18}"
          f"{'error, direct':>15}{'Winograd':>10}")  # fmt: skip
    kept = True
    for channels, rows, columns in SHAPES:
        direct = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        tiled = copy.deepcopy(direct)
        transform(tiled)
        for frames in FRAMES:
            maps = torch.randn(frames, channels, rows, columns).relu().to(memory_format=torch.channels_last)
            with torch.inference_mode():
                exact = copy.deepcopy(direct).double()(maps.double())
                errors = [difference(conv(maps), exact) for conv in (direct, tiled)]
                timings = in_turn({"direct": partial(direct, maps), "Winograd": partial(tiled, maps)}, rounds=9)
            ratio = timings.ratio("direct", "Winograd")
            shown = f"{ratio.median:.2f} ({ratio.least:.2f}-{ratio.most:.2f})"
            direct_ms, tiled_ms = (1000 * timings.of(way).median for way in ("direct", "Winograd"))
            print(f"{channels:8}{f'{rows}x{columns}':>8}{frames:8}{direct_ms:13.1f}{tiled_ms:10.1f}{shown:>18}"
                  f"{errors[0]:15.1e}{errors[1]:10.1e}", flush=True)  # fmt: skip
            if is_suited(direct):
                kept = kept and ratio.median > 1 and errors[1] < 1e-5
    print(f"\n{'reached' if kept else 'MISSED'}: from {FEWEST} channels on faster, and within 1e-5")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
