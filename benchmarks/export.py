"""Exported networks: file sizes, times, and the largest difference from the network's output.

    python benchmarks/export.py --depth resnet50 --formats onnx pt2
    python benchmarks/export.py --depth resnet8 --size 256 16 --forms ste_nvan_{} strf_p3dc_{}

Exits with 1 if a network cannot be exported, or the output of its file differs. Parameters and norms are random,
so that every layer affects the output. Times are of one thread, on a clip of the largest size that is checked.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from strfnet import create_model
from strfnet.deployment.exporting import FORMATS, export
from strfnet.models.registry import ARCHITECTURES


def main() -> int:
    """Print the table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", default="resnet8")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 128), metavar=("H", "W"))
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=["onnx", "pt2"])
    parser.add_argument("--forms", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    wrong = 0
    print(
        f"{'network':<24} {'format':<8} {'MB':>7} {'made s':>7} {'clip':<16} {'network ms':>10} {'file ms':>8}  error"
    )
    with TemporaryDirectory() as folder:
        for form in asked.forms:
            network = awake(form.format(asked.depth))
            for format in asked.formats:
                try:
                    told = export(network, Path(folder) / f"network{FORMATS[format]}", format, size=tuple(asked.size))
                except ValueError as error:
                    print(f"{network.name:<24} {format:<8} {error}", flush=True)
                    wrong += 1
                    continue
                last = told.checks[-1]
                times = f"{last.network_seconds * 1e3:>10.1f} {last.file_seconds * 1e3:>8.1f}"
                made = f"{told.size / 1e6:>7.2f} {told.seconds:>7.1f} {'x'.join(map(str, last.clip_shape)):<16}"
                worst = max(check.error for check in told.checks)
                print(f"{network.name:<24} {format:<8} {made} {times} {worst:>7.0e}", flush=True)
    return int(wrong > 0)


def awake(name: str) -> nn.Module:
    """A network whose norms do something: fresh ones are the identity, or zero."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=None)
    for key, tensor in network.state_dict().items():
        if key.endswith("weight") and tensor.ndim == 1:
            nn.init.uniform_(tensor, 0.2, 0.6)
        elif key.endswith("running_mean"):
            nn.init.normal_(tensor, std=0.1)
        elif key.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return network


if __name__ == "__main__":
    sys.exit(main())
