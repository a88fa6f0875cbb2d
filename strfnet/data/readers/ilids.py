"""iLIDS-VID: 300 people in an airport, with one tracklet in each of two cameras."""

from pathlib import Path

from strfnet.data.readers.published import check_counts, data_root, read_matlab
from strfnet.data.readers.two_cameras import (
    check_split,
    identities_of,
    identity_folders,
    read_named_splits,
    split_file,
    two_camera_data_set,
)
from strfnet.data.tracklet import DataSet

_SPLITS = Path("train-test people splits", "train_test_splits_ilidsvid.mat")
_NAMED = Path("splits.json")  # torchreid's
_WHAT = "the 10 splits of iLIDS-VID, which come in its archive, or torchreid's splits.json"

Split = tuple[list[str], list[str]]  # training and test identities


def read_ilids(root: str | Path, *, split: int = 0, complete: bool = True) -> DataSet:
    """Read a split of iLIDS-VID from the folder with ``i-LIDS-VID/sequences`` and ``train-test people splits``.

    ``sequences/cam1/person001/*.png`` and ``cam2`` hold the frames. A row of ``ls_set`` in the split file is one
    split: 1-based indices of the sorted identities, the first half for testing, the second for training. Queries are
    the test tracklets of camera 1, the gallery those of camera 2. Published results are means over all 10 splits.

    Without that file, torchreid's ``splits.json`` is read, which names the folders of each split. If both files are
    there, they have to agree.

    Checked: both cameras have the same identities, and a split names each of them once.

    Args:
        root: the folder; the split file may be in ``i-LIDS-VID`` too.
        split: 0 to 9.
        complete: whether to require the published counts.

    Raises: ValueError naming the path of what is missing or wrong, or a split that is out of range; ImportError
    without scipy.
    Source: Wang et al., Person Re-identification by Video Ranking, ECCV 2014; the sorted
    list of identities follows torchreid.
    """
    base = data_root(root, holds="sequences", inside="i-LIDS-VID")
    cameras = base / "sequences" / "cam1", base / "sequences" / "cam2"
    one, other = (identity_folders(camera) for camera in cameras)
    for person in sorted(one.keys() ^ other.keys()):
        missing = cameras[person in one] / person
        raise ValueError(f"{missing} is missing, wanted every identity in both cameras")
    names = list(one)
    table_file, named_file = split_file(_SPLITS, root, base), split_file(_NAMED, root, base)
    found: dict[Path, Split] = {}
    if named_file.exists():
        named = read_named_splits(named_file, _WHAT)
        splits = len(named)
        _check(base, names, splits, split, complete=complete)
        found[named_file] = identities_of(named, split, named_file, cameras)
    if table_file.exists() or not found:
        table = read_matlab(table_file, "ls_set", _WHAT)
        splits = len(table)
        _check(base, names, splits, split, complete=complete)
        found[table_file] = _split_of(table[split].tolist(), names, f"row {split + 1} of ls_set in {table_file}")
    if len(found) > 1 and found[named_file] != found[table_file]:
        raise ValueError(f"{named_file} and {table_file} differ in split {split}, wanted one of them, or equal ones")
    train, test = next(iter(found.values()))
    data = two_camera_data_set("iLIDS-VID", cameras, train=train, test=test, splits=splits)
    return data if complete else data.named_after(base)


def _check(base: Path, names: list[str], splits: int, split: int, *, complete: bool) -> None:
    if complete:
        found = {"people": len(names), "splits": splits}
        check_counts("iLIDS-VID", base, found=found, published={"people": 300, "splits": 10})
    check_split("iLIDS-VID", splits, split)


def _split_of(places: list[int], names: list[str], row: str) -> Split:
    """The identities at 1-based places of the sorted names, the first half to test."""
    if sorted(places) != list(range(1, len(names) + 1)) or len(names) % 2:
        raise ValueError(
            f"{row} holds {len(places)} numbers, wanted each of 1 to {len(names)} once, for as many people, half of "
            "them to test"
        )
    half = len(places) // 2
    return [names[at - 1] for at in sorted(places[half:])], [names[at - 1] for at in sorted(places[:half])]
