"""Data sets of one tracklet for each person and each of two cameras, with splits of the identities."""

from collections.abc import Sequence
from pathlib import Path

from strfnet.data.readers.directory import folders_in, frames_in
from strfnet.data.readers.published import read_json
from strfnet.data.tracklet import DataSet, Tracklet


def check_split(name: str, splits: int, split: int) -> None:
    """Raises: ValueError for a split that is out of range."""
    if not 0 <= split < splits:
        raise ValueError(f"split is {split}, but {name} has {splits} splits: wanted 0 to {splits - 1}")


def split_file(name: str | Path, root: str | Path, base: Path) -> Path:
    """The file of the splits, in the given folder or in the data set's."""
    return next((place / name for place in (Path(root), base) if (place / name).exists()), Path(root) / name)


def read_named_splits(file: Path, what: str) -> list[dict[str, list[str]]]:
    """The splits of a JSON file of torchreid, each with the names of folders for "train" and "test".

    Raises: ValueError naming the file if it is missing, not JSON, or of another structure.
    """
    splits = read_json(file, what)
    if not isinstance(splits, list) or not all(map(_is_split, splits)):
        shape = 'a list of {"train": [names of folders], "test": [names of folders]}'
        raise ValueError(f"{file} has another structure, wanted {shape}")
    return splits


def identities_of(
    splits: Sequence[dict[str, list[str]]], split: int, file: Path, cameras: Sequence[Path]
) -> tuple[list[str], list[str]]:
    """The sorted training and test identities of a split.

    Raises: ValueError if it names one twice, or one that a camera lacks.
    """
    train, test = sorted(splits[split]["train"]), sorted(splits[split]["test"])
    if len({*train, *test}) < len(train) + len(test):
        raise ValueError(f"split {split} of {file} names an identity twice, wanted each once")
    for camera in cameras:
        seen = identity_folders(camera)
        missing = next((name for name in train + test if name not in seen), None)
        if missing is not None:
            raise ValueError(f"{camera / missing} is missing, but split {split} of {file} names it")
    return train, test


def _is_split(part: object) -> bool:
    lists = [part.get(key) for key in ("train", "test")] if isinstance(part, dict) else [None]
    return all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)


def identity_folders(camera: Path) -> dict[str, Path]:
    """The sorted folders of the identities of a camera, by name. Raises: ValueError as `folders_in` does."""
    return {folder.name: folder for folder in sorted(folders_in(camera))}


def two_camera_data_set(
    name: str, cameras: tuple[Path, Path], *, train: Sequence[str], test: Sequence[str], splits: int
) -> DataSet:
    """A data set whose queries are of the first camera and whose gallery is of the second.

    Args:
        name: of the data set.
        cameras: folders with one folder of frames for each identity; their names become the cameras.
        train: training identities.
        test: test identities.
        splits: number of splits of the data set.

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
        splits=splits,
    )
