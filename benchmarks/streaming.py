"""The cost of one more frame of a tracklet in a stream, beside that of embedding all frames again.

    python benchmarks/streaming.py                # ten minutes of one core
    python benchmarks/streaming.py --json FILE    # also write the results
    python benchmarks/streaming.py --quick        # a small network; only outputs are checked

Both are timed in turn, on one thread, by process CPU time. The stream has received all earlier frames and returns
the embedding after every push. Its cost does not depend on the number of frames before. The table also has the
share of multiply-adds, counted while both run. "Deployed" is the network with fused batch norms and
Winograd's convolutions (`strfnet.optimize` without compiling), as stream and on the clip. Exits 1 if embeddings
differ or a goal is missed.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from interleaved import Spread, difference, in_turn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import strfnet
from strfnet.inference.stream import Stream
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import map_channels, resnet_maps

CASE, FRAMES, GOAL = "p3dc_resnet50", 32, 8.0  # embedding the clip anew takes at least so many times as long
TRIED = 8  # frames on which passes of the deployed network are tried
TOLERANCE = 1e-5  # of the largest value


@dataclass(frozen=True)
class Row:
    """One network at one length: seconds of each way, how many times as long the clip anew takes, its share of work.

    ``more`` frames are pushed before the embedding is asked for. ``ratios`` are of the clip anew by the stream: both
    of the network as it is, both "deployed", and the network's own clip by the "deployed stream".
    """

    network: str
    frames: int
    more: int
    seconds: dict[str, float]
    ratios: dict[str, Spread]
    macs: float
    apart: float


def strf_p3dc(depth: str) -> ReIDNetwork:
    """STRF on P3D-C with a mask for every place of every frame, as the default one averages over all frames."""
    maps = resnet_maps(depth)
    backbone = strfnet.inflate(
        maps, unit=partial(strfnet.STRF, mask="joint"), last_stride=1 if depth == "resnet50" else None
    )
    return ReIDNetwork(backbone, Head(map_channels(maps), None, pooling="max_mean"))


def measured(name: str, network: ReIDNetwork, frames: int, more: int, size: tuple[int, int], rounds: int) -> Row:
    """A stream that is ``more`` frames short of ``frames`` takes them; then it goes on for ``rounds`` rounds."""
    network = awake(network).eval()
    clip = torch.randn(1, 3, frames, *size, generator=torch.Generator().manual_seed(0))
    deployed = strfnet.optimize(network, (1, 3, min(frames, TRIED), *size), compiled=False)
    ways: dict[str, Callable[[], Tensor]] = {}
    variants: dict[str, Any] = {"": network, "deployed ": deployed}
    for form, of_form in variants.items():
        ways[f"{form}stream"] = partial(go_on, begun(Stream(of_form), clip, more), clip[:, :, -more:])
        ways[f"{form}anew"] = partial(anew, of_form, clip)
    (streamed, ours), (expected, theirs) = counted(ways["stream"]), counted(ways["anew"])
    others = (ways["deployed stream"](), ways["deployed anew"]())
    apart = max(difference(embedding, expected) for embedding in (streamed, *others))
    timings = in_turn(ways, rounds=rounds)
    ratios = {
        "eager": timings.ratio("anew", "stream"),
        "deployed": timings.ratio("deployed anew", "deployed stream"),
        "deployed stream": timings.ratio("anew", "deployed stream"),
    }
    return Row(name, frames, more, {way: timings.of(way).median for way in ways}, ratios, ours / theirs, apart)


def begun(stream: Stream, clip: Tensor, more: int) -> Stream:
    stream.push(clip[:, :, :-more])
    stream.embedding()
    return stream


def go_on(stream: Stream, frames: Tensor) -> Tensor:
    stream.push(frames)
    return stream.embedding()


def anew(network: Any, clip: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(clip).embedding


def counted(call: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """The answer, and the operations of convolutions and matrix products that it takes."""
    with FlopCounterMode(display=False) as counter:
        answer = call()
    return answer, counter.get_total_flops()


def awake(network: ReIDNetwork) -> ReIDNetwork:
    """Norms and layers that start as zero or one get other values, in place: asleep, errors would not show."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(std=0.1, generator=generator)
        for parameter in network.parameters():
            if parameter.ndim > 1 and not parameter.any():
                parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return network


def rows(depth: str, size: tuple[int, int], lengths: tuple[int, ...], rounds: int) -> Iterator[Row]:
    forms: dict[str, Callable[[], ReIDNetwork]] = {
        f"{form}_{depth}": partial(strfnet.create_model, f"{form}_{depth}", num_classes=None)
        for form in ("p3dc", "i3d", "c2d")
    }
    forms[f"strf_p3dc_{depth}, joint"] = partial(strf_p3dc, depth)
    for name, build in forms.items():
        for frames in lengths:
            yield measured(name, build(), frames, 1, size, rounds)
    name = f"p3dc_{depth}"
    yield measured(name, forms[name](), lengths[-1], 4, size, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file")
    parser.add_argument("--quick", action="store_true", help="a small network; speed is not judged")
    given = parser.parse_args()
    torch.set_num_threads(1)
    asked = ("resnet8", (64, 32), (8,), 2) if given.quick else ("resnet50", (256, 128), (8, 16, 32), 5)
    print(
        f"{asked[1][0]}x{asked[1][1]}, one tracklet, float32, one thread, CPU time, median of {asked[3]}", flush=True
    )
    print("the clip anew takes so many times as long as the stream: both eager, both deployed, the stream deployed")
    print(f"{'network':27}{'frames':>7}{'more':>5}{'MACs':>8}{'apart':>9}{'anew (ms)':>12}{'stream (ms)':>12}"
          f"{'eager':>18}{'deployed':>18}{'deployed stream':>18}")  # fmt: skip
    found = []
    for row in rows(*asked):
        found.append(row)
        times = [f"{ratio.median:.2f} ({ratio.least:.1f}-{ratio.most:.1f})" for ratio in row.ratios.values()]
        print(f"{row.network:27}{row.frames:7}{row.more:5}{row.macs:8.3f}{row.apart:9.1e}"
              f"{1000 * row.seconds['anew']:12.1f}{1000 * row.seconds['stream']:12.1f}"
              + "".join(f"{shown:>18}" for shown in times), flush=True)  # fmt: skip
    reached = {f"embeddings agree within {TOLERANCE:g} of the largest": all(row.apart <= TOLERANCE for row in found)}
    if not given.quick:
        judged = next(row for row in found if (row.network, row.frames, row.more) == (CASE, FRAMES, 1))
        for way in ("eager", "deployed", "deployed stream"):
            name = f"{CASE}, {FRAMES} frames, {way}: the clip anew takes at least {GOAL:g} times as long"
            reached[name] = judged.ratios[way].median >= GOAL
    print()
    for goal, kept in reached.items():
        print(f"{'reached' if kept else 'MISSED ':8} {goal}")
    if given.json is not None:
        given.json.write_text(json.dumps({"rows": [asdict(row) for row in found], "reached": reached}, indent=2))
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
