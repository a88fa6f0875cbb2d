import json
import re

import pytest
from data_trees import write_prid_tree

from strfnet.data.frames import read_clip
from strfnet.data.readers.prid import read_prid


@pytest.fixture
def prid(tmp_path):
    return write_prid_tree(tmp_path / "prid")


def refused(root, *said, split=0):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_prid(root, split=split, complete=False)


@pytest.mark.parametrize("split", [0, 9])
def test_a_split_names_who_is_trained_on_and_who_is_tested(prid, split):
    named = json.loads((prid / "splits_prid2011.json").read_text())[split]
    data = read_prid(prid, split=split, complete=False)
    assert {(t.identity, t.camera) for t in data.train} == {
        (name, camera) for name in named["train"] for camera in ("cam_a", "cam_b")
    }
    for rows, camera in ((data.query, "cam_a"), (data.gallery, "cam_b")):
        assert [data.test[row].camera for row in rows] == [camera] * 2
        assert {data.test[row].identity for row in rows} == set(named["test"])
    for tracklet in (*data.train, *data.test):
        folder = prid / "prid_2011/multi_shot" / tracklet.camera / tracklet.identity
        assert tracklet.frames == tuple(folder / f"{number:04d}.png" for number in (1, 2, 3))
    assert read_clip(data.test[0].frames, [0], (32, 16)).shape == (3, 1, 32, 16)


def test_the_split_file_may_lie_beside_the_frames(prid):
    expected = read_prid(prid, split=4, complete=False)
    (prid / "splits_prid2011.json").rename(prid / "prid_2011/splits_prid2011.json")
    assert read_prid(prid, split=4, complete=False) == expected
    assert read_prid(prid / "prid_2011", split=4, complete=False) == expected


def test_counts_are_checked_against_the_published_ones(tmp_path):
    root = write_prid_tree(tmp_path, splits=9)
    with pytest.raises(
        ValueError, match=r"9 splits \(wanted 10\), 0 splits of 89 .* \(wanted 10\), 4 people \(wanted 178\)"
    ):
        read_prid(root)


def test_splits_that_are_not_there_are_refused(prid):
    refused(prid, "split is 10, but PRID2011 has 10 splits: wanted 0 to 9", split=10)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot read"),
        ("[" * 9999, "cannot read"),
        ("{}", 'wanted a list of {"train"'),
        ('[{"train": []}]', 'wanted a list of {"train"'),
        ('[{"train": [1], "test": [2]}]', 'wanted a list of {"train"'),
        ("[]", "split is 0, but PRID2011 has 0"),
        ('[{"train": ["person_0001"], "test": ["person_0001"]}]', "names an identity twice"),
    ],
)
def test_split_files_that_hold_something_else_are_refused(prid, content, said):
    (prid / "splits_prid2011.json").write_text(content)
    refused(prid, *([] if "split is" in said else [""]), said)


@pytest.mark.parametrize("name", ["person_0300", "person_0700", "person_0999", "../../secret"])
def test_people_whom_a_camera_did_not_see_are_refused_by_path(prid, name):
    (prid / "secret").mkdir()
    (prid / "splits_prid2011.json").write_text(json.dumps([{"train": ["person_0001"], "test": [name]}]))
    refused(prid, "multi_shot/cam_", name, "is missing, but split 0 of", "splits_prid2011.json")


def test_missing_files_are_named(prid):
    (prid / "splits_prid2011.json").unlink()
    refused(prid, f"{prid / 'splits_prid2011.json'} is missing, wanted the 10 splits", "a download of its own")
    refused(prid / "prid_2011/multi_shot", "holds neither multi_shot nor prid_2011/multi_shot")
