"""Eight threads on one network: each embeds, evaluates, streams, captures masks, saves and loads, over and over.

    python benchmarks/threads.py               # one minute
    python benchmarks/threads.py --minutes 10

The network is one of `strfnet.create_model` as it is returned, in training mode. Every output must equal, bit for
bit, that of the same call alone, and afterwards the network's weights, statistics and modes must be as they were.
Exits 1 otherwise. The table counts the calls.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from strfnet import create_model, load, save
from strfnet.data import DataSet, Tracklet
from strfnet.data.synthetic import draw_camera, draw_walker, render
from strfnet.evaluation import PROTOCOLS, evaluate_protocols
from strfnet.inference import Embedder, Stream, embed
from strfnet.models import Preprocessing, ReIDNetwork
from strfnet.visualization import masks_of

THREADS, SIZE = 8, (64, 32)


def walkers() -> tuple[Tracklet, ...]:
    """Four identities under two cameras."""
    return tuple(
        Tracklet(
            tuple(render(draw_walker(0, one), draw_camera(0, camera), frames=8, seed=(one, camera))), one, camera
        )
        for one in range(4)
        for camera in range(2)
    )


def uses(network: ReIDNetwork, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What threads do with the network, by name; each returns the same tensor every time."""
    tracklets = walkers()
    clip = torch.randn(2, 3, 4, *SIZE, generator=torch.Generator().manual_seed(0))

    def evaluated() -> Tensor:
        rows = tuple(range(len(tracklets)))
        data = DataSet("walkers", (), tracklets, rows[::2], rows[1::2])
        embedder = Embedder(network, "strf", Preprocessing(*SIZE), workers=1, precision="fp32")
        (result,) = evaluate_protocols(embedder.embed, data, [PROTOCOLS["mars"]])
        return torch.tensor([result.mean_average_precision, *result.cmc])

    def streamed() -> Tensor:
        stream = Stream(network, frames=2)
        for frame in clip.split(1, dim=2):
            stream.push(frame)
        return stream.embedding()

    def saved_and_loaded() -> Tensor:
        save(network, folder / "network.safetensors")  # one file for all threads
        with torch.inference_mode():
            return load(folder / "network.safetensors").eval()(clip).embedding

    return {
        "embed": lambda: embed(network, tracklets, frames=4, size=SIZE, workers=1),
        "evaluate": evaluated,
        "stream": streamed,
        "masks": lambda: next(iter(next(iter(masks_of(network, clip).values())).values())),
        "save and load": saved_and_loaded,
    }


def state(network: torch.nn.Module) -> tuple[dict[str, Tensor], list[bool]]:
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    return tensors, [module.training for module in network.modules()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="how long the threads run (default: 1)")
    minutes = parser.parse_args().minutes
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = create_model("strf_p3dc_resnet8", num_classes=4)
    with tempfile.TemporaryDirectory() as folder:
        calls = uses(network, Path(folder))
        before = state(network)
        alone = {name: call() for name, call in calls.items()}
        start, end = threading.Barrier(THREADS), time.monotonic() + 60 * minutes
        made: Counter[str] = Counter()
        wrong: Counter[str] = Counter()

        def work(number: int) -> None:
            start.wait()
            names = [*calls][number % len(calls) :] + [*calls][: number % len(calls)]
            while time.monotonic() < end:
                for name in names:
                    output = calls[name]()
                    made[name] += 1
                    wrong[name] += not torch.equal(output, alone[name])

        with ThreadPoolExecutor(THREADS) as pool:
            for done in [pool.submit(work, number) for number in range(THREADS)]:
                done.result()
    print(f"{'call':<16}{'calls':>8}{'other than alone':>18}")
    for name in calls:
        print(f"{name:<16}{made[name]:>8}{wrong[name]:>18}")
    (tensors, modes), (now, modes_now) = before, state(network)
    kept = modes == modes_now and all(torch.equal(now[name], value) for name, value in tensors.items())
    print(f"the network is {'as it was' if kept else 'NOT as it was'}")
    return 0 if kept and not wrong.total() else 1


if __name__ == "__main__":
    sys.exit(main())
