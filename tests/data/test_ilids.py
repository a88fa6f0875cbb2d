import json
import re
import shutil

import numpy as np
import pytest
from data_trees import write_ilids_tree, write_query_numbers
from PIL import Image
from scipy.io import loadmat, savemat

from strfnet.data.frames import read_clip
from strfnet.data.readers.ilids import read_ilids

SPLITS = "train-test people splits/train_test_splits_ilidsvid.mat"


@pytest.fixture
def ilids(tmp_path):
    return write_ilids_tree(tmp_path / "ilids")


def refused(root, *said, split=0):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_ilids(root, split=split, complete=False)


@pytest.mark.parametrize("split", [0, 3, 9])
def test_the_first_half_of_a_row_is_tested_and_the_second_trained_on(ilids, split):
    row = loadmat(ilids / SPLITS)["ls_set"][split].tolist()
    people = ["person001", "person002", "person004", "person010"]
    data = read_ilids(ilids, split=split, complete=False)
    test, train = ({people[place - 1] for place in places} for places in (row[:2], row[2:]))
    assert {t.identity for t in data.test} == test and {t.identity for t in data.train} == train
    assert {(t.identity, t.camera) for t in data.train} == {(name, cam) for name in train for cam in ("cam1", "cam2")}
    for rows, camera in ((data.query, "cam1"), (data.gallery, "cam2")):
        assert [data.test[row].camera for row in rows] == [camera] * 2
        assert {data.test[row].identity for row in rows} == test


def test_frames_are_the_persons_own_in_the_order_of_their_numbers(ilids):
    for tracklet in read_ilids(ilids, complete=False).test:
        start = f"{tracklet.camera}_{tracklet.identity}"
        assert [frame.name for frame in tracklet.frames] == [f"{start}_{n}.png" for n in (98, 99, 100)]
        assert read_clip(tracklet.frames, [2], (32, 16)).shape == (3, 1, 32, 16)


def test_places_count_the_sorted_list_however_the_disk_lists_it(tmp_path):
    people = ("person300", "person010", "person009", "person002")  # made in another order
    root = write_ilids_tree(tmp_path, people=people)
    savemat(root / SPLITS, {"ls_set": np.array([[1, 4, 2, 3]], dtype=np.uint8)})
    data = read_ilids(root, complete=False)
    assert [t.identity for t in data.test] == ["person002", "person300"] * 2
    assert {t.identity for t in data.train} == {"person009", "person010"}


def test_the_split_file_may_lie_beside_the_sequences(ilids):
    expected = read_ilids(ilids, split=2, complete=False)
    (ilids / "train-test people splits").rename(ilids / "i-LIDS-VID/train-test people splits")
    assert read_ilids(ilids, split=2, complete=False) == expected
    assert read_ilids(ilids / "i-LIDS-VID", split=2, complete=False) == expected


def test_torchreids_splits_are_read_and_have_to_agree(ilids):
    expected = [read_ilids(ilids, split=split, complete=False) for split in range(10)]
    named = [
        {part: [t.identity for t in of[:: 2 if part == "train" else 1]][:2] for part, of in
         (("train", data.train), ("test", data.test))} for data in expected
    ]  # fmt: skip
    (ilids / "splits.json").write_text(json.dumps(named))
    assert read_ilids(ilids, split=7, complete=False) == expected[7]  # both files
    (ilids / SPLITS).rename(ilids / "away")
    assert [read_ilids(ilids, split=split, complete=False) for split in range(10)] == expected
    refused(ilids, "split is 10, but iLIDS-VID has 10 splits", split=10)
    (ilids / "away").rename(ilids / SPLITS)
    named[7]["train"], named[7]["test"] = named[7]["test"], named[7]["train"]
    (ilids / "splits.json").write_text(json.dumps(named))
    refused(ilids, "splits.json and", "differ in split 7, wanted one of them, or equal ones", split=7)
    (ilids / "splits.json").write_text(json.dumps([{"train": ["person001"], "test": ["person009"]}]))
    refused(ilids, "person009 is missing, but split 0 of", "splits.json names it")


def test_the_version_of_a_matlab_file_is_that_of_its_content(ilids):
    table = loadmat(ilids / SPLITS)["ls_set"]
    expected = read_ilids(ilids, split=3, complete=False)
    write_query_numbers(ilids / SPLITS, table.T, name="ls_set")  # HDF5 has the axes in reverse
    assert read_ilids(ilids, split=3, complete=False) == expected


def test_counts_are_checked_against_the_published_ones(ilids):
    with pytest.raises(ValueError, match=r"4 people \(wanted 300\); complete"):
        read_ilids(ilids)
    savemat(ilids / SPLITS, {"ls_set": np.array([[1, 4, 2, 3]])})
    with pytest.raises(ValueError, match=r"1 splits \(wanted 10\)"):
        read_ilids(ilids)


def test_splits_that_are_not_there_are_refused(ilids):
    refused(ilids, "split is 10, but iLIDS-VID has 10 splits: wanted 0 to 9", split=10)
    refused(ilids, "split is -1", split=-1)


@pytest.mark.parametrize("row", [[0, 1, 2, 3], [1, 2, 3, 3], [1, 2, 3, 5], [1, 2, 3], [1, 2, 3, 4, 5]])
def test_a_row_that_does_not_name_everybody_once_is_refused(ilids, row):
    savemat(ilids / SPLITS, {"ls_set": np.array([row])})
    refused(ilids, f"row 1 of ls_set in {ilids / SPLITS} holds {len(row)} numbers, wanted each of 1 to 4 once")


def test_missing_files_and_folders_are_named(ilids):
    sequences = ilids / "i-LIDS-VID/sequences"
    for camera, other in (("cam1", "cam2"), ("cam2", "cam1")):
        (sequences / camera / "person004").rename(ilids / "away")
        refused(ilids, f"{sequences / camera / 'person004'} is missing, wanted every identity in both cameras")
        (ilids / "away").rename(sequences / camera / "person004")
        assert (sequences / other / "person004").is_dir()
    (ilids / SPLITS).unlink()
    refused(ilids, f"{ilids / SPLITS} is missing, wanted the 10 splits of iLIDS-VID")
    shutil.rmtree(sequences / "cam2")
    refused(ilids, f"{sequences / 'cam2'} is missing")
    refused(ilids / "i-LIDS-VID/sequences", "holds neither sequences nor i-LIDS-VID/sequences")


def test_empty_folders_and_images_beside_folders_are_refused(ilids):
    camera = ilids / "i-LIDS-VID/sequences/cam1"
    (camera / "stray.png").touch()
    refused(ilids, f"{camera} holds images beside folders")
    (camera / "stray.png").unlink()
    for frame in (camera / "person010").iterdir():
        frame.unlink()
    for split in range(10):
        refused(ilids, f"{camera / 'person010'} holds no", split=split)


def test_16_bit_grey_frames_are_read(ilids):
    tracklet = read_ilids(ilids, complete=False).test[0]
    Image.fromarray(np.full((32, 16), 65535, dtype=np.uint16)).save(tracklet.frames[1])
    white = read_clip(tracklet.frames, [1], (32, 16))
    assert (white.amax(dim=(1, 2, 3)) == white.amin(dim=(1, 2, 3))).all() and white.max() < 3
