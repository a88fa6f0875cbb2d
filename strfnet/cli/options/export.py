"""The arguments of `strfnet export`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from strfnet.cli.options.groups import Network, clip_sampler


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export a network to ONNX or to a PyTorch program, and check its output.

    Args:
        out: File to write; it ends in .onnx for onnx, and in .pt2 for pt2 and package.
        format: onnx; pt2, a program for torch.export.load; package, machine code, which needs a C++ compiler.
        lengths: Let the file take clips of unequal lengths: a second input holds the number of frames of each.
        clips: Clip sampler and its frames that the metadata names, as strfnet embed takes them.
        distance: Distance of embeddings that the metadata names: cosine or euclidean.
    """

    out: Path = field(metadata={"metavar": "FILE"})
    format: Literal["onnx", "pt2", "package"] = "onnx"
    lengths: bool = False
    clips: str = field(default="restricted_first:8", metadata={"metavar": "SAMPLER:N"})
    distance: Literal["cosine", "euclidean"] = "cosine"
    network: Network

    def __post_init__(self) -> None:
        self.network.check_given()
        clip_sampler(self.clips)
