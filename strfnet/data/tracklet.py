"""A tracklet: one person's run of images from one camera; and a data set of them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frame = Path | NDArray[np.uint8]  # an image file, or RGB (h, w, 3) in memory

JUNK, DISTRACTOR = -1, 0  # identities of MARS: nobody that could be judged, and nobody who is asked for


@dataclass(frozen=True)
class Tracklet:
    """One person, seen by one camera for a while.

    Args:
        frames: image files in the order of time, or images in memory (h, w, 3), RGB uint8; at least one.
        identity: who it is; tracklets of equal identity show one person.
        camera: who saw it; None where the data do not say.

    Raises: ValueError if there are no frames.
    """

    frames: tuple[Frame, ...]
    identity: str | int
    camera: str | int | None = None

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"tracklet of identity {self.identity!r} has no frames, it needs at least one")

    @property
    def where(self) -> str:
        """Where its frames are: the path of the first, for messages and listings."""
        return str(self.frames[0]) if isinstance(self.frames[0], Path) else f"memory, identity {self.identity}"


@dataclass(frozen=True)
class DataSet:
    """Tracklets to train on, and others to test on.

    Args:
        name: such as "MARS".
        train: the tracklets of the training identities.
        test: all tracklets of the test, those of queries and gallery.
        query: rows of ``test`` that are asked for.
        gallery: rows of ``test`` that are searched; a query may be among them.
        layout: the data set in whose layout these lie and whose protocols are meant for them, if it is another.

    Raises: ValueError for a row that ``test`` does not have.
    """

    name: str
    train: tuple[Tracklet, ...]
    test: tuple[Tracklet, ...]
    query: tuple[int, ...]
    gallery: tuple[int, ...]
    layout: str | None = None

    def __post_init__(self) -> None:
        for name, rows in (("query", self.query), ("gallery", self.gallery)):
            wrong = next((row for row in rows if not 0 <= row < len(self.test)), None)
            if wrong is not None:
                wanted = f"rows of {len(self.test)} test tracklets, counted from 0"
                raise ValueError(f"{name} of {self.name} holds {wrong}, wanted {wanted}")

    def named_after(self, folder: Path) -> "DataSet":
        """The same as data that only lie as this set does: no figure of theirs shall pass for one of this set's."""
        return replace(self, name=f"{folder.name} ({self.name} layout)", layout=self.name)


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A sorting key that counts: ``frame2.jpg`` comes before ``frame10.jpg``, whatever zeros are in front."""
    # Splitting at a group alternates text and digits, so that numbers only ever meet numbers.
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if at % 2 else part for at, part in enumerate(parts)], path.name
