import re
import shutil

import pytest
from data_trees import write_duke_tree

from strfnet.data.frames import read_clip
from strfnet.data.readers.duke import read_duke


@pytest.fixture
def duke(tmp_path):
    return write_duke_tree(tmp_path / "DukeMTMC-VideoReID")


def refused(root, *said):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_duke(root, complete=False)


@pytest.mark.parametrize("underscores", [True, False])
def test_both_kinds_of_names_give_identity_camera_and_order(tmp_path, underscores):
    data = read_duke(write_duke_tree(tmp_path, underscores=underscores), complete=False)
    assert [(t.identity, t.camera) for t in data.train] == [(1, 2), (1, 1)] * 2 + [(7, 2), (7, 1)] * 2
    assert [(t.identity, t.camera) for t in data.test] == [(i, c) for i in (2, 6) for c in (1, 2, 3)] + [(9, 8)]
    first = "0001_C2_F0002_X30002.jpg" if underscores else "0001C2F0002X30002.jpg"
    assert data.train[0].frames[0] == tmp_path / "train" / "0001" / "0001" / first
    numbers = [int(re.search(r"F(\d+)", frame.name)[1]) for frame in data.train[0].frames]
    assert numbers == [2, 9, 10]
    assert read_clip(data.test[-1].frames, [0, 2], (32, 16)).shape == (3, 2, 32, 16)


def test_frames_are_in_the_order_of_f_however_names_are_written(duke):
    folder = duke / "train/0001/0001"
    (folder / "0001_C2_F0010_X30010.jpg").rename(folder / "0001_C2_F10000_X40000.JPG")
    (folder / "0001_C2_F0009_X30009.jpg").rename(folder / "0001C2F9X00005.jpg")
    names = [frame.name for frame in read_duke(duke, complete=False).train[0].frames]
    assert names == ["0001_C2_F0002_X30002.jpg", "0001C2F9X00005.jpg", "0001_C2_F10000_X40000.JPG"]


def test_a_query_in_the_gallery_is_one_row_and_distractors_are_searched(duke):
    data = read_duke(duke, complete=False)
    assert data.query == (1, 4) and data.gallery == tuple(range(7))
    assert data.test[1].frames[0].parts[-4] == "gallery"


def test_a_query_outside_the_gallery_is_a_row_of_its_own(duke):
    shutil.rmtree(duke / "gallery/0002/0002")
    data = read_duke(duke, complete=False)
    assert data.query == (6, 3) and data.gallery == tuple(range(6)) and len(data.test) == 7
    assert data.test[6].frames[0].parts[-4] == "query"


def test_a_query_that_shares_but_the_number_of_a_folder_is_a_row_of_its_own(duke):
    for frame in (duke / "gallery/0002/0002").iterdir():
        frame.rename(frame.with_name(frame.name.replace("X3", "X4")))
    data = read_duke(duke, complete=False)
    assert data.query == (7, 4) and len(data.test) == 8


def test_a_root_level_may_repeat_the_name(duke):
    nested = duke.parent / "data" / duke.name / duke.name
    shutil.copytree(duke, nested)
    expected = [(t.identity, t.camera) for t in read_duke(duke, complete=False).test]
    for root in (nested, nested.parent, nested.parent.parent):
        assert [(t.identity, t.camera) for t in read_duke(root, complete=False).test] == expected


def test_counts_are_checked_against_the_published_ones(duke, monkeypatch):
    with pytest.raises(ValueError, match="8 training tracklets") as error:
        read_duke(duke)
    for wanted in (2196, 702, 2636, 1110):
        assert f"(wanted {wanted})" in str(error.value)
    from strfnet.data.readers import duke as room

    monkeypatch.setattr(room, "_PUBLISHED", dict(zip(room._PUBLISHED, (8, 2, 7, 3, 2, 2), strict=True)))
    assert len(read_duke(duke).test) == 7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("0001_C2_F0011.jpg", "is not named like"),
        ("0001_C2F0011_X30011.jpg", "is not named like"),
        ("0001_C12_F0011_X30011.jpg", "is not named like"),
        ("0007_C2_F0011_X30011.jpg", "with the identity 0001"),
        ("0001_C2_F0011_X30011.png", "is not named like"),
        ("0001_C2_F0011_X30011.jpg.part", "looks like a frame"),
        ("0001_C2_F0010_X30011.jpg", "0001_C2_F0010_X30010.jpg have the same number"),
    ],
)
def test_frames_with_other_names_are_refused_by_path(duke, name, said):
    folder = duke / "train/0001/0001"
    shutil.copy(next(folder.iterdir()), folder / name)
    refused(duke, folder if "one number" in said else folder / name, said)


def test_a_tracklet_of_two_cameras_is_refused(duke):
    folder = duke / "gallery/0002/0002"
    shutil.copy(next(folder.iterdir()), folder / "0002_C5_F0050_X30050.jpg")
    refused(duke, f"{folder} holds frames of cameras [2, 5], wanted one")


def test_missing_and_empty_folders_and_files_in_their_places_are_named(duke):
    (duke / "train/0001/0009").mkdir()
    refused(duke, f"{duke / 'train/0001/0009'} holds no")
    (duke / "train/0001/0009").rmdir()
    (duke / "train/12a").mkdir()
    (duke / "train/12a/0001").mkdir()
    refused(duke, f"{duke / 'train/12a'} is not named by an identity")
    shutil.rmtree(duke / "train")
    refused(duke, f"{duke / 'train'} is missing")
    (duke / "train").touch()
    refused(duke, f"{duke / 'train'} is no folder")
    refused(duke / "query", duke / "query", "gallery")


def test_hidden_files_are_left_out_and_one_frame_is_enough(duke):
    folder = duke / "query/0002/0002"
    (folder / ".DS_Store").touch()
    (folder / "._0002_C2_F0002_X30002.jpg").touch()
    for frame in sorted((duke / "train/0001/0002").iterdir())[1:]:
        frame.unlink()
    data = read_duke(duke, complete=False)
    assert data.query == (1, 4) and len(data.train[1].frames) == 1
