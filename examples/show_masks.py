"""What STRF's four masks look at: a walker whose leg swings, and one behind a block that passes by.

python examples/show_masks.py                                 # by the weights that come with strfnet
python examples/show_masks.py --trained RUN                   # by a run of your own
"""

import argparse
from pathlib import Path

from strfnet.data.frames import read_clip
from strfnet.data.synthetic import Nuisances, draw_camera, draw_walker, render
from strfnet.inference.embedder import Network, make_embedder
from strfnet.visualization.attention import masks_of
from strfnet.visualization.figures import draw_masks
from strfnet.visualization.page import png

SCENES = {  # by name: the nuisances, and the frames that are shown
    "leg": (Nuisances(occlusion=0, jitter=0), [4, 5, 6, 7]),
    "block": (Nuisances(occlusion=1), [1, 3, 6, 9]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, help="folder of a training run, in place of our weights")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    ours = Network(model="strf_c2d_resnet8", weights=Path("walkers"), device="cpu")
    embedder = make_embedder(Network(trained=arguments.trained, device="cpu") if arguments.trained else ours)

    for name, (nuisances, chosen) in SCENES.items():
        tracklet = render(draw_walker(0, 17), draw_camera(0, 3), seed=29, nuisances=nuisances)
        clip = read_clip(tuple(tracklet), chosen, embedder.size)
        masks = masks_of(embedder.network, clip[None])
        for path, units in masks.items():
            told = ", ".join(f"{unit} {mask.min():.2f} to {mask.max():.2f}" for unit, mask in units.items())
            print(f"{name}, {path}: {told}")
        file = arguments.out / f"masks_{name}.png"
        file.write_bytes(png(draw_masks(clip, masks, title=f"{embedder.name}: a {name} that moves")))
        print(f"picture     {file}")


if __name__ == "__main__":
    main()
