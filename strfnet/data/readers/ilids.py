"""iLIDS-VID: 300 travellers, each seen once by both of two airport cameras."""

from pathlib import Path

from strfnet.data.readers.published import check_counts, data_root, read_matlab
from strfnet.data.readers.two_cameras import cross_camera, people, pick_split
from strfnet.data.tracklet import DataSet

_SPLITS = Path("train-test people splits", "train_test_splits_ilidsvid.mat")


def read_ilids(root: str | Path, *, split: int = 0, complete: bool = True) -> DataSet:
    """One split of iLIDS-VID from the folder with ``i-LIDS-VID/sequences`` and ``train-test people splits``.

    ``sequences/cam1/person001/*.png`` and ``cam2`` hold the frames, in the order of their numbers. A row of
    ``ls_set`` in the split file is one split: 1-based places in the sorted list of people, the first half for
    testing, the second for training. Queries are camera 1's tracklets of the test people, the gallery camera
    2's. The protocol is the mean over all 10 splits.

    Checked: both cameras have the same people, and a split names each of them once.

    Args:
        root: the folder; the split file may lie in ``i-LIDS-VID`` too.
        split: 0 to 9.
        complete: whether it is to be the data set as published, whose counts are then checked too.

    Raises: ValueError naming the path for what is missing or wrong, or a split that is not there; ImportError
    without scipy.
    Source: Wang et al., Person Re-identification by Video Ranking, ECCV 2014; that the list of people is sorted
    is torchreid's rule.
    """
    base = data_root(root, holds="sequences", inside="i-LIDS-VID")
    cameras = base / "sequences" / "cam1", base / "sequences" / "cam2"
    one, other = (people(camera) for camera in cameras)
    for person in sorted(one.keys() ^ other.keys()):
        missing = cameras[person in one] / person
        raise ValueError(f"{missing} is missing, wanted everybody under both cameras")
    names = list(one)
    file = next((place / _SPLITS for place in (Path(root), base) if (place / _SPLITS).exists()), Path(root) / _SPLITS)
    table = read_matlab(file, "ls_set", "the 10 splits of iLIDS-VID, which come in its archive")
    if complete:
        found = {"people": len(names), "splits": len(table)}
        check_counts("iLIDS-VID", base, found=found, published={"people": 300, "splits": 10})
    pick_split("iLIDS-VID", len(table), split)
    places = table[split].tolist()
    if sorted(places) != list(range(1, len(names) + 1)) or len(names) % 2:
        raise ValueError(
            f"row {split + 1} of ls_set in {file} holds {len(places)} numbers, wanted each of 1 to {len(names)} "
            f"once, for as many people, half of them to test"
        )
    half = len(places) // 2
    test, train = ([names[place - 1] for place in sorted(part)] for part in (places[:half], places[half:]))
    data = cross_camera("iLIDS-VID", cameras, train=train, test=test)
    return data if complete else data.named_after(base)
