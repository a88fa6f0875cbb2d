"""The arguments of `strfnet profile`."""

from dataclasses import dataclass, field
from typing import Any

from strfnet.cli.options.groups import check_model


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Count the parameters and multiply-adds (MACs) of a network.

    Args:
        model: One of `strfnet models`, or package.module:function.
        options: Options of the network, as JSON such as {"stripes": 8}.
        clip: Shape of the clip: batch, channels, frames, height, width.
        depth: Levels of modules in the table.
        json: Print JSON with all modules instead of a table.
    """

    model: str = field(metadata={"positional": True, "metavar": "NAME"})
    options: dict[str, Any] | None = None
    clip: tuple[int, int, int, int, int] = field(default=(1, 3, 8, 256, 128), metadata={"metavar": tuple("BCTHW")})
    depth: int = 2
    json: bool = False

    def __post_init__(self) -> None:
        if min(self.clip) < 1:
            raise ValueError(f"clip must be five integers of at least 1, got {list(self.clip)}")
        if self.depth < 0:
            raise ValueError(f"depth must be at least 0, got {self.depth}")
        check_model(self.model)
