"""Draws STRF's four masks over a walker whose legs swing, and over one behind a passing block.

python examples/show_masks.py                   # with the shipped weights
python examples/show_masks.py --trained RUN     # with a run of your own
"""

import argparse
from pathlib import Path

from strfnet.data import read_clip
from strfnet.data.synthetic import Nuisances, draw_camera, draw_walker, render
from strfnet.models import find_network
from strfnet.visualization import draw_masks, masks_of, png

SCENES = {  # name: nuisances, frames of the clip
    "leg": (Nuisances(occlusion=0, jitter=0), [4, 5, 6, 7]),
    "block": (Nuisances(occlusion=1), [1, 3, 6, 9]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, help="folder of a training run (default: the shipped weights)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the figures (default: demo)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = find_network(arguments.trained or "walkers")

    for name, (nuisances, frames) in SCENES.items():
        tracklet = render(draw_walker(0, 17), draw_camera(0, 3), seed=29, nuisances=nuisances)
        clip = read_clip(tuple(tracklet), frames, found.preprocessing.size)
        masks = masks_of(found.network, clip[None])
        for path, units in masks.items():
            ranges = ", ".join(f"{unit} {mask.min():.2f} to {mask.max():.2f}" for unit, mask in units.items())
            print(f"{name}, {path}: {ranges}")
        file = arguments.out / f"masks_{name}.png"
        file.write_bytes(png(draw_masks(clip, masks, title=f"{found.name}: a {name} that moves")))
        print(f"figure {file}")


if __name__ == "__main__":
    main()
