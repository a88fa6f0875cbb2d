"""iLIDS-VID: 300 people in an airport, with one tracklet in each of two cameras."""

from pathlib import Path

from strfnet.data.readers.published import check_counts, data_root, read_matlab
from strfnet.data.readers.two_cameras import check_split, identity_folders, split_file, two_camera_data_set
from strfnet.data.tracklet import DataSet

_SPLITS = Path("train-test people splits", "train_test_splits_ilidsvid.mat")


def read_ilids(root: str | Path, *, split: int = 0, complete: bool = True) -> DataSet:
    """Read a split of iLIDS-VID from the folder with ``i-LIDS-VID/sequences`` and ``train-test people splits``.

    ``sequences/cam1/person001/*.png`` and ``cam2`` hold the frames. A row of ``ls_set`` in the split file is one
    split: 1-based indices of the sorted identities, the first half for testing, the second for training. Queries are
    the test tracklets of camera 1, the gallery those of camera 2. Published results are means over all 10 splits.

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
    file = split_file(_SPLITS, root, base)
    table = read_matlab(file, "ls_set", "the 10 splits of iLIDS-VID, which come in its archive")
    if complete:
        found = {"people": len(names), "splits": len(table)}
        check_counts("iLIDS-VID", base, found=found, published={"people": 300, "splits": 10})
    check_split("iLIDS-VID", len(table), split)
    places = table[split].tolist()
    if sorted(places) != list(range(1, len(names) + 1)) or len(names) % 2:
        raise ValueError(
            f"row {split + 1} of ls_set in {file} holds {len(places)} numbers, wanted each of 1 to {len(names)} "
            f"once, for as many people, half of them to test"
        )
    half = len(places) // 2
    test, train = ([names[place - 1] for place in sorted(part)] for part in (places[:half], places[half:]))
    data = two_camera_data_set("iLIDS-VID", cameras, train=train, test=test)
    return data if complete else data.named_after(base)
