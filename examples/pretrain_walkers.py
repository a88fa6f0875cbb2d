"""The weights that come with strfnet, made anew: a small network learns to tell drawn walkers apart.

python examples/pretrain_walkers.py --out pretrained     # ten minutes; what is there already is not done again

It is trained on walkers of one drawing and judged on those of two others: other walkers, under other cameras. What
is drawn are figures of few shapes and colours, so the network is of no use on people.
"""

import argparse
from pathlib import Path

from strfnet.cli import main as strfnet
from strfnet.data.synthetic import draw_set, write_mars

RECIPE = Path(__file__).parent / "recipes" / "pretrained.yaml"
MODEL = "strf_c2d_resnet8"
TRAINED_ON = 1  # the seed; that of what `strfnet` draws where no data are named is 0
JUDGED_ON = (0, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo/pretrained"), help="folder for what is written")
    parser.add_argument("--train", nargs="*", default=[], metavar="NAME=VALUE", help="changes to the recipe")
    arguments = parser.parse_args()
    weights = arguments.out / f"{MODEL}_walkers.safetensors"
    training = drawn(arguments.out, TRAINED_ON, train=200, test=40)
    changes = [f"--{change}" for change in arguments.train]
    run("train", "--config", RECIPE, "--data", training, "--out", arguments.out / "run", *changes)
    run("convert", arguments.out / "run", weights)
    for seed in JUDGED_ON:
        print(f"\nwalkers of drawing {seed}, none of them seen in training")
        others = drawn(arguments.out, seed, train=1, test=40)
        to_judge = ("--model", MODEL, "--weights", weights, "--data", others, "--format", "mars", "--complete=false")
        run("evaluate", *to_judge, "--protocol", "ap3d")


def drawn(out: Path, seed: int, *, train: int, test: int) -> Path:
    """Walkers of a drawing as JPEGs in the layout of MARS."""
    folder = out / f"walkers{seed}"
    if not folder.exists():
        print(f"drawing {train} + {test} walkers into {folder}")
        write_mars(folder, draw_set(train=train, test=test, cameras=4, seed=seed))
    return folder


def run(*words: str | Path) -> None:
    """A command of strfnet. Raises: SystemExit if it fails."""
    if code := strfnet([str(word) for word in words]):
        raise SystemExit(code)


if __name__ == "__main__":
    main()
