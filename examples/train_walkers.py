"""Trains a small network with and without STRF on walkers who differ in gait alone, and prints both beside chance.

python examples/train_walkers.py    # about a minute and a half on two cores

The walkers are synthetic and of one appearance: only the order of frames identifies them. The result shows that STRF
makes the order of frames readable. It says nothing about accuracy on real tracklets.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch import Tensor, nn

import strfnet
from strfnet.data import DataSet
from strfnet.data.synthetic import draw_gait_set
from strfnet.evaluation import Ranking, rank_embeddings
from strfnet.inference import embed
from strfnet.losses import strf_loss
from strfnet.training import Recipe, identity_labels, train

NETWORKS = {"C2D": "c2d_resnet8", "C2D + STRF": "strf_c2d_resnet8"}
RECIPE = Recipe(**yaml.safe_load((Path(__file__).parent / "recipes" / "walkers.yaml").read_text()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/runs"), help="folder of the runs (default: demo/runs)")
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs, help="epochs of 43 steps (default: 10)")
    arguments = parser.parse_args()

    torch.set_num_threads(
        1
    )  # small networks gain nothing from more, and the result is the same on any number of cores
    print("rendering 1120 training and 240 test tracklets of walkers who differ in gait alone", flush=True)
    data = draw_gait_set(height=RECIPE.height)
    networks = {name: learn(model, data, arguments.out / model, arguments.epochs) for name, model in NETWORKS.items()}
    rows = {"random order": chance(data), **{name: score(network, data) for name, network in networks.items()}}
    cost_of = {name: strfnet.profile(network, (1, 3, 8, 32, 16)) for name, network in networks.items()}

    print("\nretrieval of 12 new walkers by gait alone, and the cost of one clip (8 frames of 32 x 16 pixels)")
    print(f"{'':14}{'mAP %':>8}{'R1 %':>8}{'parameters':>14}{'MMAC':>8}")
    for name, (precision, first) in rows.items():
        cost = f"{cost_of[name].parameters:14,}{cost_of[name].macs / 1e6:8.2f}" if name in cost_of else ""
        print(f"{name:14}{100 * precision:8.1f}{100 * first:8.1f}{cost}")
    print("A 2-D network cannot see the order of frames: without STRF it stays near a random order, as it should.")
    print(f"\nruns {arguments.out}")


def learn(model: str, data: DataSet, folder: Path, epochs: int) -> nn.Module:
    """Returns a network trained by `RECIPE`; a finished run in the folder is loaded, an interrupted one continued."""
    recipe = replace(RECIPE, model=model, epochs=epochs, warmup=epochs / 7)
    print(f"\ntraining {model}, run {folder}", flush=True)
    torch.manual_seed(recipe.seed)
    network = strfnet.create_model(model, num_classes=max(identity_labels(data.train)) + 1)
    train(network, strf_loss(mined_on="feature", smoothing=recipe.smoothing), data.train, recipe, folder)
    return network


def score(network: nn.Module, data: DataSet) -> tuple[float, float]:
    """Returns mAP and rank-1 accuracy of the test."""
    size, halves = (RECIPE.height, RECIPE.width), [[*range(8)], [*range(8, 16)]]  # two clips of consecutive frames
    found = ranked(embed(network, data.test, clips=lambda length: halves, size=size, batch=48), data)
    return found.mean_average_precision, float(found.cmc[0])


def chance(data: DataSet) -> tuple[float, float]:
    """Returns mean mAP and rank-1 accuracy of a hundred random embeddings."""
    generator = torch.Generator().manual_seed(0)
    found = [ranked(torch.randn(len(data.test), 64, generator=generator), data) for _ in range(100)]
    precision, first = np.mean([(one.mean_average_precision, one.cmc[0]) for one in found], axis=0)
    return float(precision), float(first)


def ranked(embeddings: Tensor, data: DataSet) -> Ranking:
    query, gallery = ([data.test[row].identity for row in rows] for rows in (data.query, data.gallery))
    return rank_embeddings(embeddings[list(data.query)], embeddings[list(data.gallery)], query, gallery)


if __name__ == "__main__":
    main()
