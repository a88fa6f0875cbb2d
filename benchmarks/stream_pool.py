"""Boxes a second of `StreamPool`, beside one `Stream` a track.

    python benchmarks/stream_pool.py                # a quarter of an hour of one core
    python benchmarks/stream_pool.py --json FILE    # also write the results
    python benchmarks/stream_pool.py --quick        # a small network; only embeddings are checked

A video of many tracks goes on: each turn brings some boxes of every track, resized and normalised, and then the
embeddings of all tracks are requested. Both are timed in turn, on one thread, by process CPU time. "Deployed" is the
network with fused batch norms and Winograd's convolutions (`strfnet.optimize` without compiling), in both. Exits 1
if embeddings differ or a goal is missed.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Spread, difference, in_turn
from numpy.typing import NDArray
from streaming import awake
from torch import Tensor

import strfnet
from strfnet.data.frames import read_clip
from strfnet.inference.pool import StreamPool

GOAL = 3.0  # times the boxes a second of one stream a track
TOLERANCE = 1e-5  # of the largest value
FIRST = 6  # frames of the youngest track before the first turn; the oldest has 3 more


@dataclass(frozen=True)
class Row:
    """One network at one size.

    ``boxes`` of each track arrive between embeddings. ``ratios`` are of the time of one stream a track by that of the
    pool: both of the network as it is, both deployed, and streams of the network by the deployed pool.
    """

    network: str
    size: tuple[int, int]
    frames: int | None
    boxes: int
    second: dict[str, float]  # boxes a second of each way
    ratios: dict[str, Spread]
    apart: float


class Streams:
    """One stream a track."""

    def __init__(self, network: Any, size: tuple[int, int], frames: int | None) -> None:
        self.network, self.size, self.frames = network, size, frames
        self.streams: dict[int, strfnet.Stream] = {}

    def push(self, track: int, box: NDArray[np.uint8]) -> None:
        stream = self.streams.get(track) or strfnet.Stream(self.network, frames=self.frames)
        stream.push(read_clip([box], [0], self.size))
        self.streams[track] = stream

    def embeddings(self) -> Tensor:
        return torch.cat([stream.embedding() for stream in self.streams.values()])


def measured(name: str, size: tuple[int, int], *, frames: int | None, boxes: int, tracks: int, rounds: int) -> Row:
    network = awake(strfnet.create_model(name, num_classes=None)).eval()
    deployed = strfnet.optimize(network, (16, 3, frames or 6, *size), compiled=False)  # a batch of the pool
    picture = np.random.default_rng(0).integers(0, 256, (tracks, 90, 40, 3), dtype=np.uint8)
    ways: dict[str, Any] = {}
    for form, of_form in {"": network, "deployed ": deployed}.items():
        ways[f"{form}streams"] = Streams(of_form, size, frames)
        ways[f"{form}pool"] = StreamPool(of_form, colors="rgb", size=size, frames=frames)

    def turn(way: Any, count: int = boxes) -> Tensor:
        for _ in range(count):
            for track in range(tracks):
                way.push(track, picture[track])
        return way.embeddings()

    for way in ways.values():
        for track in range(tracks):
            for _ in range(FIRST - 1 + track % 4):
                way.push(track, picture[track])
    outputs = {name: turn(way, 1) for name, way in ways.items()}
    apart = max(difference(output, outputs["streams"]) for output in outputs.values())
    timings = in_turn({name: partial(turn, way) for name, way in ways.items()}, rounds=rounds, shortest=0)
    ratios = {
        "eager": timings.ratio("streams", "pool"),
        "deployed": timings.ratio("deployed streams", "deployed pool"),
        "deployed pool": timings.ratio("streams", "deployed pool"),
    }
    second = {name: tracks * boxes / timings.of(name).median for name in ways}
    return Row(name, size, frames, boxes, second, ratios, apart)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="a small network; speed is not judged")
    parser.add_argument("--tracks", type=int, default=50, help="tracks of the video (default: 50)")
    parser.add_argument("--only", metavar="HEIGHT", type=int, help="height of the one size to run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    depth, sizes = ("resnet8", [(64, 32)]) if given.quick else ("resnet50", [(64, 32), (256, 128)])
    cases = [(f"p3dc_{depth}", None, 1), (f"p3dc_{depth}", None, 8), (f"strf_p3dc_{depth}", 8, 1)]
    print(f"{'network':20}{'size':>9}{'clip':>6}{'boxes':>6}{'apart':>9}{'boxes/s: streams':>18}{'pool':>8}"
          f"{'deployed':>10}{'eager':>18}{'deployed':>18}{'deployed pool':>18}")  # fmt: skip
    found = []
    for size in sizes:
        for name, frames, boxes in cases:
            if given.only in (None, size[0]):
                tracks, rounds = (6, 1) if given.quick else (given.tracks, 3 if size[0] == 64 else 2)
                row = measured(name, size, frames=frames, boxes=boxes, tracks=tracks, rounds=rounds)
                found.append(row)
                times = [f"{ratio.median:.2f} ({ratio.least:.1f}-{ratio.most:.1f})" for ratio in row.ratios.values()]
                print(f"{name:20}{f'{size[0]}x{size[1]}':>9}{frames or 'all':>6}{boxes:6}{row.apart:9.1e}"
                      f"{row.second['streams']:18.1f}{row.second['pool']:8.1f}{row.second['deployed pool']:10.1f}"
                      + "".join(f"{shown:>18}" for shown in times), flush=True)  # fmt: skip
    reached = {f"embeddings agree within {TOLERANCE:g} of the largest": all(row.apart <= TOLERANCE for row in found)}
    if not given.quick:
        for row in found:
            for form in ("eager", "deployed pool"):
                case = f"{row.network}, {row.size[0]}x{row.size[1]}, {row.boxes} boxes, {form}"
                reached[f"{case}: {GOAL:g} times the boxes a second"] = row.ratios[form].median >= GOAL
    print()
    for goal, kept in reached.items():
        print(f"{'reached' if kept else 'MISSED ':8} {goal}")
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": [asdict(row) for row in found], "reached": reached}, indent=2))
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
