"""Tracklets, the images of one person in one camera over a while, and data sets of them."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Frame = Path | NDArray[np.uint8]  # an image file, or RGB (h, w, 3) in memory

_SPLIT = re.compile(r"(\d+)").split
DETAILS = ("track", "first_frame", "last_frame", "first_time", "last_time")  # of a tracklet from a video
JUNK, DISTRACTOR = -1, 0  # identities of MARS: junk is ignored by rankings, distractors are no query


@dataclass(frozen=True)
class Tracklet:
    """Images of one person in one camera, in temporal order.

    Args:
        frames: at least one: image files, or images in memory (h, w, 3), RGB uint8.
        identity: of the person; tracklets with equal identities show the same person. None if it is unknown.
        camera: of the images; None if it is unknown.
        details: what else is known, such as track and times; it is kept with the embedding.

    Raises: ValueError if there are no frames.
    """

    frames: tuple[Frame, ...]
    identity: str | int | None
    camera: str | int | None = None
    details: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError(f"tracklet of identity {self.identity!r} has no frames, it needs at least one")

    @property
    def where(self) -> str:
        """The path of the first frame, for messages and lists of tracklets."""
        if isinstance(self.frames[0], Path):
            return str(self.frames[0])
        if "track" not in self.details:
            return f"memory, identity {self.identity}"
        camera = "" if self.camera is None else f" of camera {self.camera}"
        return f"track {self.details['track']}{camera}"


@dataclass(frozen=True)
class DataSet:
    """Tracklets for training and evaluation.

    Args:
        name: such as "MARS".
        train: training tracklets.
        test: all test tracklets, of queries and gallery.
        query: rows of ``test`` that are the queries.
        gallery: rows of ``test`` that are searched; queries may be among them.
        layout: the data set whose layout and protocols these data follow, if it is another one.
        splits: number of splits of the data set, of which this is one; published metrics are means over all.

    Raises: ValueError for a row that is out of range.
    """

    name: str
    train: tuple[Tracklet, ...]
    test: tuple[Tracklet, ...]
    query: tuple[int, ...]
    gallery: tuple[int, ...]
    layout: str | None = None
    splits: int = 1

    def __post_init__(self) -> None:
        for name, rows in (("query", self.query), ("gallery", self.gallery)):
            wrong = next((row for row in rows if not 0 <= row < len(self.test)), None)
            if wrong is not None:
                wanted = f"rows of {len(self.test)} test tracklets, counted from 0"
                raise ValueError(f"{name} of {self.name} holds {wrong}, wanted {wanted}")

    @property
    def summary(self) -> str:
        """What the data set holds, in one line."""
        parts = {"train": self.train, "test": self.test}
        counts = [f"{name}: {counts_of(part)}" for name, part in parts.items() if part]
        queries = f"{len(self.query)} queries, {self._matched()} with a match"
        return f"{self.name}: {'; '.join([*counts, queries])}"

    def _matched(self) -> int:
        """The number of queries that have a match, by the rule of `strfnet.evaluation.rank`."""
        cameras: dict[object, Counter[object]] = defaultdict(Counter)
        for row in self.gallery:
            cameras[self.test[row].identity][self.test[row].camera] += 1
        gallery, count = set(self.gallery), 0
        for row in self.query:
            identity, camera = self.test[row].identity, self.test[row].camera
            removed = row in gallery if camera is None else cameras[identity][camera]
            count += identity not in (None, JUNK) and cameras[identity].total() > removed
        return count

    def named_after(self, folder: Path) -> "DataSet":
        """A copy named after its folder, for data that only have the layout of this set."""
        return replace(self, name=f"{folder.name} ({self.name} layout)", layout=self.name)


def counts_of(tracklets: Sequence[Tracklet]) -> str:
    """The numbers of identities, cameras, tracklets and frames, in words."""
    identities = [item.identity for item in tracklets]
    cameras = {item.camera for item in tracklets} - {None}
    words = [
        f"{len(set(identities) - {None, JUNK, DISTRACTOR})} identities",
        f"{len(cameras) or 'no'} cameras",
        f"{len(tracklets)} tracklets",
        f"{sum(len(item.frames) for item in tracklets)} frames",
    ]
    others = {None: "without identity", JUNK: "of junk", DISTRACTOR: "of distractors"}
    words += [f"{identities.count(one)} tracklets {what}" for one, what in others.items() if one in identities]
    return ", ".join(words)


def check_labelled(tracklets: Sequence[Tracklet], needed_by: str) -> None:
    """Raises: ValueError if a tracklet has no identity, naming the first."""
    unknown = [item for item in tracklets if item.identity is None]
    if unknown:
        found = f"{len(unknown)} of {len(tracklets)} tracklets have no identity, the first is {unknown[0].where}"
        raise ValueError(f"{found}: {needed_by} needs all; tracklets without one can be embedded and searched")


def natural_order(path: Path) -> tuple[list[str | int], str]:
    """A key for natural sorting: ``frame2.jpg`` comes before ``frame10.jpg``, with or without leading zeros."""
    return natural_key(path.name)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """The key of `natural_order` for a name."""
    # Splitting at a group alternates text and digits, so numbers are only compared with numbers.
    parts: list[str | int] = [*_SPLIT(name)]
    parts[1::2] = map(int, parts[1::2])
    return parts, name
