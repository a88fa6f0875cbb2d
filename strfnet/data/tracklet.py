"""A tracklet: one person's run of images from one camera."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tracklet:
    """One person, seen by one camera for a while.

    Args:
        frames: image files in the order of time, at least one.
        identity: who it is; tracklets of equal identity show one person.
        camera: who saw it; None where the data do not say.

    Raises: ValueError if there are no frames.
    """

    frames: tuple[Path, ...]
    identity: str | int
    camera: str | int | None = None

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"tracklet of identity {self.identity!r} has no frames, it needs at least one")


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A sorting key that counts: ``frame2.jpg`` comes before ``frame10.jpg``, whatever zeros are in front."""
    # Splitting at a group alternates text and digits, so that numbers only ever meet numbers.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], path.name
