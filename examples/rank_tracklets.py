"""A ResNet-50 made to take clips with STRF ranks tracklets, and says what it costs.

python examples/rank_tracklets.py                # walking figures are drawn first
python examples/rank_tracklets.py --data DIR     # DIR/<identity>/<camera>/<tracklet>/*.jpg
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import resnet50

import strfnet
from strfnet.data.readers.folder import read_folder
from strfnet.data.synthetic import write_walkers
from strfnet.data.tracklet import Tracklet
from strfnet.evaluation.distances import cosine_distances
from strfnet.inference.embedding import embed, save_embeddings
from strfnet.models.resnet import weights_at_hand

SHOWN = 10  # queries, and ranks of each


def main() -> None:
    arguments = parse()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = arguments.data or drawn_walkers(arguments.out / "walkers")
    tracklets = read_folder(data)
    print(f"{len(tracklets)} tracklets of {len({item.identity for item in tracklets})} identities in {data}")

    image_network = torchvision_resnet50()
    network = strfnet.inflate(image_network, last_stride=1)  # STRF on P3D-C, as in the paper

    size = tuple(arguments.size)
    embeddings = embed(network, tracklets, frames=arguments.frames, size=size, batch=4, progress=True)
    print_rankings(tracklets, cosine_distances(embeddings, embeddings))
    print_costs(image_network, network, (1, 3, arguments.frames, *size))

    file = arguments.out / "embeddings.safetensors"
    save_embeddings(file, embeddings, tracklets)
    print(f"\nframes      {data}\nembeddings  {file}  ({len(embeddings)} x {embeddings.shape[1]})")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Rank tracklets with a ResNet-50 inflated with STRF.")
    parser.add_argument("--data", type=Path, help="<identity>/<camera>/<tracklet>/*.jpg; drawn if not given")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for what is written")
    parser.add_argument("--frames", type=int, default=8, help="of each clip")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("H", "W"), help="in pixels")
    return parser.parse_args()


def drawn_walkers(folder: Path) -> Path:
    if not folder.exists():
        print(f"no --data given: drawing walking figures into {folder}")
        write_walkers(folder, identities=6, cameras=2, tracklets=1, frames=16)
    return folder


def torchvision_resnet50() -> nn.Module:
    """An image network without its classifier, so that it answers with 2048 features; nothing is downloaded."""
    weights = weights_at_hand("resnet50")
    print(f"ResNet-50 with {f'{weights}, found at hand' if weights else 'random weights: none are at hand'}")
    torch.manual_seed(0)
    network = resnet50(weights=weights)
    network.fc = nn.Identity()
    return network.to(memory_format=torch.channels_last)  # the order its layers are fastest in


def print_rankings(tracklets: list[Tracklet], distances: Tensor) -> None:
    """The gallery of each query of the first camera: all that another camera saw."""
    cameras = [item.camera for item in tracklets]
    several = len(set(cameras)) > 1
    queries = [q for q in range(len(tracklets)) if not several or cameras[q] == cameras[0]]
    for q in queries[:SHOWN]:
        gallery = [g for g in range(len(tracklets)) if (cameras[g] != cameras[q] if several else g != q)]
        ranked = sorted(gallery, key=lambda g: float(distances[q, g]))
        print(f"\nquery {named(tracklets[q])}")
        for rank, g in enumerate(ranked[:SHOWN], start=1):
            mark = "right" if tracklets[g].identity == tracklets[q].identity else "wrong"
            print(f"{rank:5}  {mark}  {distances[q, g]:.4f}  {named(tracklets[g])}")
    print(f"\n{min(SHOWN, len(queries))} of {len(queries)} queries shown, with cosine distances.")
    print("This network has never been trained to tell people apart: the rankings show that everything")
    print("runs, and say nothing about the accuracy of STRF.")


def named(tracklet: Tracklet) -> str:
    return f"{tracklet.identity}" + (f"  {tracklet.camera}" if tracklet.camera is not None else "")


def print_costs(image_network: nn.Module, network: nn.Module, clip_shape: tuple[int, ...]) -> None:
    frames_alone = strfnet.inflate(image_network, temporal="c2d", unit=None, last_stride=1)
    before, after = (strfnet.profile(each, clip_shape) for each in (frames_alone, network))
    print(f"\n{after.table(depth=1)}\n")
    print(f"{'':24}{'parameters':>12}{'GMAC':>10}")
    print(f"{'ResNet-50, each frame':24}{before.parameters:12,}{before.gmacs:10.3f}")
    print(f"{'STRF on P3D-C':24}{after.parameters:12,}{after.gmacs:10.3f}")
    more = after.parameters - before.parameters, after.gmacs - before.gmacs
    print(f"{'difference':24}{more[0]:+12,}{more[1]:+10.3f}  ({after.macs / before.macs - 1:+.1%} GMAC)")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
