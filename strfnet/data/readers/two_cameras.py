"""Data sets in which two cameras saw every person once, and splits name the people for training and testing."""

from collections.abc import Sequence
from pathlib import Path

from strfnet.data.readers.directory import folders_in, frames_in
from strfnet.data.tracklet import DataSet, Tracklet


def pick_split(name: str, splits: int, split: int) -> None:
    """Raises: ValueError if there is no such split."""
    if not 0 <= split < splits:
        raise ValueError(f"split is {split}, but {name} has {splits}: wanted 0 to {splits - 1}")


def people(camera: Path) -> dict[str, Path]:
    """The folder of every person that a camera saw, by name, in order. Raises: ValueError if it holds others."""
    return {folder.name: folder for folder in sorted(folders_in(camera))}


def cross_camera(name: str, cameras: tuple[Path, Path], *, train: Sequence[str], test: Sequence[str]) -> DataSet:
    """Training on both cameras; the tracklets of the first one search those of the second.

    Args:
        name: of the data set.
        cameras: folders with one folder of frames for each person; their names become the cameras.
        train: names of the people to train on.
        test: and to test on.

    Raises: ValueError naming the path for a person without frames, or whatever ``frames_in`` refuses.
    """
    first, second = cameras

    def seen(person: str, camera: Path) -> Tracklet:
        return Tracklet(frames_in(camera / person), person, camera.name)

    return DataSet(
        name,
        train=tuple(seen(person, camera) for person in train for camera in cameras),
        test=tuple(seen(person, camera) for camera in (first, second) for person in test),
        query=tuple(range(len(test))),
        gallery=tuple(range(len(test), 2 * len(test))),
    )
