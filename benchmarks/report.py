"""The time of a report over many queries: tiny frames, embeddings given.

Command: `python benchmarks/report.py --shown 5000`, which shows the ranked lists of all queries.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from strfnet.cli.commands.show import Figures
from strfnet.cli.options.groups import Data, Inference, Network
from strfnet.cli.options.show import Show
from strfnet.data import DataSet, Tracklet
from strfnet.evaluation import PROTOCOLS
from strfnet.inference import Embedder
from strfnet.models import Preprocessing, find_network

WIDTH = 128  # of an embedding
CAMERAS = 4
CLIP = "middle:2"


def draw(queries: int, gallery: int, frames: int) -> DataSet:
    """Noise of 32 x 16 pixels: queries and gallery items of one identity each four."""
    random = np.random.default_rng(0)

    def tracklet(number: int) -> Tracklet:
        images = random.integers(0, 256, (frames, 32, 16, 3), np.uint8)
        return Tracklet(tuple(images), number // CAMERAS, number % CAMERAS)

    test = tuple(map(tracklet, range(queries + gallery)))
    return DataSet("noise", (), test, tuple(range(queries)), tuple(range(len(test))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--gallery", type=int, default=5000, help="gallery items that are no query")
    parser.add_argument("--frames", type=int, default=2, help="of a tracklet")
    parser.add_argument("--shown", type=int, default=5, help="ranked lists")
    given = parser.parse_args()

    torch.manual_seed(0)
    data_set = draw(given.queries, given.gallery, given.frames)
    name, protocol = "strf_c2d_resnet8", PROTOCOLS["folder"]
    call = Show(
        report=True,
        out=Path(tempfile.gettempdir()),
        clips=CLIP,
        queries_shown=given.shown,
        data_set=Data(),
        network=Network(model=name),
        inference=Inference(),
    )
    found = find_network(name)
    figures = Figures(call, Embedder(found.network, name, Preprocessing(32, 16)), found, data_set, [protocol])
    figures.embeddings[protocol.clips, protocol.frames] = torch.randn(len(data_set.test), WIDTH)
    began = time.perf_counter()
    page = figures.draw("report")
    seconds = time.perf_counter() - began
    what = f"{given.queries} queries, {len(data_set.test)} gallery items, {given.shown} ranked lists"
    print(f"{what}: {seconds:.1f} s, {len(page) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
