"""Ranks tracklets with a trained network, and prints its mAP and rank-1 accuracy beside chance.

python examples/rank_tracklets.py                # synthetic walkers, the shipped weights
python examples/rank_tracklets.py --data DIR     # DIR/<identity>/<camera>/<tracklet>/*.jpg, a ResNet-50 with STRF
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from strfnet.data import Tracklet, read_folder
from strfnet.data.synthetic import draw_set
from strfnet.evaluation import cosine_distances, rank_embeddings
from strfnet.inference import embed, save_embeddings
from strfnet.models import create_model, find_network

SHOWN = 5  # queries, and ranks of each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of tracklets (default: synthetic walkers)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the embeddings (default: demo)")
    arguments = parser.parse_args()
    if arguments.data is None:
        print("rendering 40 synthetic walkers from 4 cameras; none of them was in the training", flush=True)
        tracklets = list(draw_set(train=1, test=40, cameras=4, distractors=0, junk=0, seed=2).test)
        found = find_network("strf_c2d_resnet8", weights="walkers")
    else:
        tracklets = read_folder(arguments.data)
        found = find_network("strf_p3dc_resnet50")  # with the ImageNet weights that torch.hub has downloaded, if any
    size = found.preprocessing.size

    def embedded(network: nn.Module) -> Tensor:
        return embed(network, tracklets, frames=8, size=size, batch=8, progress=True)

    print(f"embedding {len(tracklets)} tracklets with {found.name} ({found.weights})", flush=True)
    embeddings = embedded(found.network)
    scores = {found.name: ranked(embeddings, tracklets)}
    if found.trained:
        print("embedding them with the untrained network", flush=True)
        torch.manual_seed(0)
        scores = {"untrained": ranked(embedded(create_model(found.name, num_classes=None)), tracklets), **scores}

    print_gallery(embeddings, tracklets)
    print(f"\nretrieval from other cameras, {len(tracklets)} tracklets")
    print(f"{'':20}{'mAP %':>8}{'R1 %':>8}")
    for name, (precision, first) in {"random order": chance(tracklets), **scores}.items():
        print(f"{name:20}{100 * precision:8.1f}{100 * first:8.1f}")
    if not found.trained:
        print(f"This network has {found.weights}: it was not trained for re-identification.")

    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "embeddings.safetensors"
    save_embeddings(file, embeddings, tracklets)
    print(f"\nembeddings {file} ({len(embeddings)} x {embeddings.shape[1]})")


def ranked(embeddings: Tensor, tracklets: list[Tracklet]) -> tuple[float, float]:
    """Returns mAP and rank-1 accuracy; every tracklet is a query, and finds its identity from other cameras."""
    identities = [item.identity for item in tracklets]
    cameras = [item.camera for item in tracklets] if several_cameras(tracklets) else None
    ranking = rank_embeddings(
        embeddings,
        embeddings,
        identities,
        identities,
        query_cameras=cameras,
        gallery_cameras=cameras,
        self_match=range(len(tracklets)),
    )
    return ranking.mean_average_precision, float(ranking.cmc[0])


def several_cameras(tracklets: list[Tracklet]) -> bool:
    return len({item.camera for item in tracklets}) > 1


def chance(tracklets: list[Tracklet]) -> tuple[float, float]:
    """Returns the mean metrics of twenty sets of random embeddings."""
    generator = torch.Generator().manual_seed(0)
    trials = [ranked(torch.randn(len(tracklets), 64, generator=generator), tracklets) for _ in range(20)]
    precision, first = torch.tensor(trials).mean(dim=0).tolist()
    return precision, first


def print_gallery(embeddings: Tensor, tracklets: list[Tracklet]) -> None:
    """Prints the nearest tracklets of a few queries."""
    width = max(len(name(item)) for item in tracklets) + 2
    distances, several = cosine_distances(embeddings, embeddings), several_cameras(tracklets)
    print(f"\n{'query':{width}}  nearest tracklets of other cameras (+ same identity, - another) and distances")
    for query in range(0, len(tracklets), max(1, len(tracklets) // SHOWN))[:SHOWN]:
        asked = tracklets[query]
        others = [
            row for row, item in enumerate(tracklets) if row != query and (not several or item.camera != asked.camera)
        ]
        line = f"{name(asked):{width}}"
        for row in sorted(others, key=lambda row: float(distances[query, row]))[:SHOWN]:
            mark = "+" if tracklets[row].identity == asked.identity else "-"
            line += f"  {mark} {name(tracklets[row]):{width}}{distances[query, row]:.3f}"
        print(line)


def name(tracklet: Tracklet) -> str:
    return f"{tracklet.identity}" if tracklet.camera is None else f"{tracklet.identity}/{tracklet.camera}"


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
