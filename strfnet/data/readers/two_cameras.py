"""Data sets of one tracklet for each person and each of two cameras, with splits of the identities."""

from collections.abc import Sequence
from pathlib import Path

from strfnet.data.readers.directory import folders_in, frames_in
from strfnet.data.tracklet import DataSet, Tracklet


def check_split(name: str, splits: int, split: int) -> None:
    """Raises: ValueError for a split that is out of range."""
    if not 0 <= split < splits:
        raise ValueError(f"split is {split}, but {name} has {splits} splits: wanted 0 to {splits - 1}")


def split_file(name: str | Path, root: str | Path, base: Path) -> Path:
    """The file of the splits, in the given folder or in the data set's."""
    return next((place / name for place in (Path(root), base) if (place / name).exists()), Path(root) / name)


def identity_folders(camera: Path) -> dict[str, Path]:
    """The sorted folders of the identities of a camera, by name. Raises: ValueError as `folders_in` does."""
    return {folder.name: folder for folder in sorted(folders_in(camera))}


def two_camera_data_set(
    name: str, cameras: tuple[Path, Path], *, train: Sequence[str], test: Sequence[str]
) -> DataSet:
    """A data set whose queries are of the first camera and whose gallery is of the second.

    Args:
        name: of the data set.
        cameras: folders with one folder of frames for each identity; their names become the cameras.
        train: training identities.
        test: test identities.

    Raises: ValueError as ``frames_in`` does.
    """
    first, second = cameras

    def tracklet(person: str, camera: Path) -> Tracklet:
        return Tracklet(frames_in(camera / person), person, camera.name)

    return DataSet(
        name,
        train=tuple(tracklet(person, camera) for person in train for camera in cameras),
        test=tuple(tracklet(person, camera) for camera in (first, second) for person in test),
        query=tuple(range(len(test))),
        gallery=tuple(range(len(test), 2 * len(test))),
    )
