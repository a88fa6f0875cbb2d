"""Trains the weights shipped with strfnet again, and evaluates them on other synthetic walkers.

python examples/pretrain_walkers.py --out pretrained     # ten minutes; finished parts are not repeated

Training uses the walkers of one seed, evaluation those of two others, from other cameras. The walkers are figures of
few shapes and colours, so the network is of no use on people.
"""

import argparse
from pathlib import Path

from strfnet.cli import main as strfnet
from strfnet.data.synthetic import draw_set, write_mars

RECIPE = Path(__file__).parent / "recipes" / "pretrained.yaml"
MODEL = "strf_c2d_resnet8"
TRAINED_ON = 1  # seed of the walkers; without --data, the commands of strfnet use seed 0
EVALUATED_ON = (0, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/pretrained"), help="folder (default: demo/pretrained)")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME=VALUE", help="changes of the recipe")
    arguments = parser.parse_args()
    weights = arguments.out / f"{MODEL}_walkers.safetensors"
    training = written(arguments.out, TRAINED_ON, train=200, test=40)
    changes = [f"--{change}" for change in arguments.train]
    run("train", "--config", RECIPE, "--data", training, "--out", arguments.out / "run", *changes)
    run("convert", arguments.out / "run", weights)
    for seed in EVALUATED_ON:
        print(f"\nwalkers of seed {seed}, none of them seen in training")
        others = written(arguments.out, seed, train=1, test=40)
        call = ("--model", MODEL, "--weights", weights, "--data", others, "--format", "mars", "--complete=false")
        run("evaluate", *call, "--protocol", "ap3d")


def written(out: Path, seed: int, *, train: int, test: int) -> Path:
    """Returns a folder of walkers as JPEGs in the layout of MARS."""
    folder = out / f"walkers{seed}"
    if not folder.exists():
        print(f"writing {train} + {test} walkers to {folder}", flush=True)
        write_mars(folder, draw_set(train=train, test=test, cameras=4, seed=seed))
    return folder


def run(*words: str | Path) -> None:
    """Runs a command of strfnet. Raises: SystemExit if it fails."""
    if code := strfnet([str(word) for word in words]):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
