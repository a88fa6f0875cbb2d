"""PRID2011: 178 pedestrians, with one tracklet in each of two street cameras."""

from pathlib import Path

from strfnet.data.readers.published import check_counts, data_root
from strfnet.data.readers.two_cameras import (
    check_split,
    identities_of,
    read_named_splits,
    split_file,
    two_camera_data_set,
)
from strfnet.data.tracklet import DataSet

_SPLITS = "splits_prid2011.json"
_PUBLISHED = {"splits": 10, "splits of 89 people to train and 89 to test": 10, "people": 178}


def read_prid(root: str | Path, *, split: int = 0, complete: bool = True) -> DataSet:
    """Read a split of PRID2011 from the folder with ``prid_2011/multi_shot`` and ``splits_prid2011.json``.

    ``multi_shot/cam_a/person_0001/*.png`` and ``cam_b`` hold the frames. The split file is a
    list of 10 objects whose ``train`` and ``test`` name folders of identities. Only the 178 identities named there,
    with long tracklets in both cameras, are used. Queries are the test tracklets of camera A, the gallery those of
    camera B. Published results are means over all 10 splits.

    Checked: both cameras have the named identities, and a split names each of them once.

    Args:
        root: the folder; the split file may be in ``prid_2011`` too.
        split: 0 to 9.
        complete: whether to require the published counts.

    Raises: ValueError naming the path of what is missing or wrong, or a split that is out of range.
    Source: Hirzer et al., Person Re-identification by Descriptive and Discriminative Classification, SCIA 2011;
    the split file is torchreid's.
    """
    base = data_root(root, holds="multi_shot", inside="prid_2011")
    file = split_file(_SPLITS, root, base)
    splits = read_named_splits(file, "the 10 splits of PRID2011, a download of its own (torchreid's)")
    if complete:
        check_counts("PRID2011", base, found=_counts(splits), published=_PUBLISHED)
    check_split("PRID2011", len(splits), split)
    cameras = base / "multi_shot" / "cam_a", base / "multi_shot" / "cam_b"
    train, test = identities_of(splits, split, file, cameras)
    data = two_camera_data_set("PRID2011", cameras, train=train, test=test, splits=len(splits))
    return data if complete else data.named_after(base)


def _counts(splits: list[dict[str, list[str]]]) -> dict[str, int]:
    sizes = [(len(part["train"]), len(part["test"])) for part in splits]
    identities = {name for part in splits for name in part["train"] + part["test"]}
    return dict(zip(_PUBLISHED, (len(splits), sizes.count((89, 89)), len(identities)), strict=True))
