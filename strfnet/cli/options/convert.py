"""The arguments of `strfnet convert`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strfnet.cli.options.groups import check_model


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert a training run or published weights into a strfnet file, or back.

    Args:
        source: Training run, file of strfnet, file of published code, or file of a 2-D ResNet.
        target: File to write: one of strfnet if it ends in .safetensors, else as published code writes it.
        name: Network of the source, where its parameter names fit several.
        options: Options of the network that published code does not store, as JSON such as {"stripes": 8}.
    """

    source: Path = field(metadata={"positional": True, "metavar": "IN"})
    target: Path = field(metadata={"positional": True, "metavar": "OUT"})
    name: str | None = None
    options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_model(self.name)
