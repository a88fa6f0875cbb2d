"""Folders that could be read in two ways, and what a reader says of what it read."""

import re
from pathlib import Path

import numpy as np
import pytest
from data_trees import write_duke_tree, write_folder_tree, write_ilids_tree, write_ls_vid_tree, write_mars_tree
from hypothesis import given
from hypothesis import strategies as st

from strfnet.data import DataSet, Tracklet, read_data_set, read_folder
from strfnet.data.readers.folder import read_folder_data_set
from strfnet.data.tracklet import DISTRACTOR, JUNK
from strfnet.evaluation import rank


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def refused(call, *said):
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, said))):
        call()


@pytest.mark.parametrize(
    ("write", "inside", "data_set"),
    [
        (write_duke_tree, "", "DukeMTMC-VideoReID (format duke)"),
        (lambda root: write_duke_tree(root, underscores=False), "", "DukeMTMC-VideoReID (format duke)"),
        (write_mars_tree, "bbox_test", "MARS (format mars)"),
        (write_ls_vid_tree, "tracklet_test", "LS-VID (format ls_vid)"),
    ],
)
def test_frames_that_name_their_camera_are_not_read_without_it(tmp_path, write, inside, data_set):
    root = write(tmp_path / "data") / inside
    refused(lambda: read_folder_data_set(root), str(root), data_set)


@pytest.mark.parametrize("root", ["i-LIDS-VID/sequences", "i-LIDS-VID/sequences/cam1"])
def test_frames_of_ilids_are_not_read_as_people_named_after_cameras(tmp_path, root):
    write_ilids_tree(tmp_path)
    refused(lambda: read_folder(tmp_path / root), root)


@pytest.mark.parametrize("name", ["0001_c1s1_000151_01.jpg", "0002C2T0003F004.jpg", "00-1C2T0003F004.png"])
def test_one_folder_a_person_with_cameras_in_the_names_is_refused(tmp_path, name):
    touch(tmp_path, f"0001/{name}", "0002/1.jpg")
    refused(lambda: read_folder(tmp_path), name, "this layout has no cameras")
    touch(tmp_path, f"0001/{name.replace('1s1', '1s2').replace('T0003', 'T0004')}")
    refused(lambda: read_folder(tmp_path), "two tracklets, here one")


def test_published_names_below_their_camera_are_one_tracklet(tmp_path):
    touch(tmp_path, "0001/c6/1/0001_C6_F0099_X30823.jpg", "0001/c6/1/0001_C6_F0100_X30824.jpg")
    (tracklet,) = read_folder(tmp_path)
    assert tracklet.camera == "c6" and len(tracklet.frames) == 2
    touch(tmp_path, "0001/c6/1/0001_C5_F0101_X30825.jpg")
    refused(lambda: read_folder(tmp_path), "DukeMTMC-VideoReID (format duke) two tracklets, here one")


@pytest.mark.parametrize(
    "name", ["c1_1.jpg", "P1T2C3.jpg", "9c3f21d5.jpg", "img_c2.jpg", "20240102_000_01.jpg", "f0099.jpg"]
)
def test_other_names_are_free(tmp_path, name):
    touch(tmp_path, f"ann/{name}", f"ann/x{name}")
    assert len(read_folder(tmp_path)[0].frames) == 2


@pytest.mark.parametrize("case", [str, str.upper])
def test_parts_of_a_data_set_are_no_people(tmp_path, case):
    root = tmp_path / "own"
    touch(root, *(f"{case(part)}/ann/c1/t/1.jpg" for part in ("train", "test")))
    refused(lambda: read_folder(root), "parts of a data set, or people of these names", "--subset")
    assert len(read_folder(root / case("test"))) == 1


def test_cameras_are_no_people(tmp_path):
    touch(tmp_path / "a", "cam1/17/1.jpg", "cam2/4/1.jpg")
    touch(tmp_path / "b", "cam_a/person_0001/1.png", "cam_b/person_0001/1.png")
    touch(tmp_path / "c", "camilla/17/1.jpg", "bob/4/1.jpg")
    for name in "ab":
        refused(lambda name=name: read_folder(tmp_path / name), "a camera, or a person of this name", "camera/track")
    assert [t.identity for t in read_folder(tmp_path / "c")] == ["bob", "camilla"]


@pytest.mark.parametrize(("mark", "word"), [("-1", "junk"), ("00-1", "junk"), ("0000", "distractor")])
def test_marks_of_junk_and_distractors_are_no_people(tmp_path, mark, word):
    touch(tmp_path, f"{mark}/c1/t/1.jpg", "ann/c1/t/1.jpg", "ann/c2/t/1.jpg")
    refused(lambda: read_folder(tmp_path), f"{mark}/c1/t is {mark!r}: {word} in MARS", f"wanted {word!r}")
    (tmp_path / mark).rename(tmp_path / word)
    data = read_folder_data_set(tmp_path)
    kinds = {"ann": "ann", "junk": JUNK, "distractor": DISTRACTOR}
    assert {t.identity for t in data.test} == {"ann", kinds[word]}
    assert {data.test[row].identity for row in data.query} == {"ann"}


def test_tracks_below_cameras_have_no_identity(tmp_path):
    touch(tmp_path, "gate/7/1.jpg", "gate/10/1.jpg", "gate/10/2.jpg", "yard/7/1.jpg")
    tracklets = read_folder(tmp_path, layout="camera/track")
    assert [(t.identity, t.camera, t.details["track"], len(t.frames)) for t in tracklets] == [
        (None, "gate", "7", 1), (None, "gate", "10", 2), (None, "yard", "7", 1),
    ]  # fmt: skip
    data = read_data_set("folder", tmp_path, layout="camera/track")
    assert (data.test, data.query) == (tuple(tracklets), ())
    touch(tmp_path / "deep", "gate/7/x/1.jpg")
    touch(tmp_path / "flat", "7/1.jpg")
    refused(lambda: read_folder(tmp_path / "deep", layout="camera/track"), "one level deeper than <camera>/<track>")
    refused(lambda: read_folder(tmp_path / "flat", layout="camera/track"), "7 is a tracklet, wanted <camera>/<track>")
    refused(
        lambda: read_folder(tmp_path, layout="camera"), "layout must be one of identity/camera/track, camera/track"
    )
    refused(lambda: read_data_set("csv", tmp_path, layout="camera/track"), "csv has its own: wanted it with format")
    touch(tmp_path / "mixed", "gate/7/0002C1T0003F004.jpg", "gate/7/0002C2T0003F004.jpg")
    refused(lambda: read_folder(tmp_path / "mixed", layout="camera/track"), "two tracklets, here one")


def test_a_summary_counts_what_was_read(tmp_path):
    data = read_data_set("folder", write_folder_tree(tmp_path / "own"))
    assert data.summary == (
        "folder own: train: 2 identities, 2 cameras, 8 tracklets, 24 frames; test: 3 identities, 2 cameras, "
        "9 tracklets, 25 frames; 4 queries, 4 with a match"
    )
    (tmp_path / "own/train").rename(tmp_path / "train")
    marked = ("own/test/junk/cam1/1/1.jpg", "own/test/distractor/cam1/1/1.jpg", "own/test/distractor/cam2/1/1.jpg")
    touch(tmp_path, *marked)
    assert read_data_set("folder", tmp_path / "own").summary == (
        "folder own: test: 3 identities, 2 cameras, 12 tracklets, 28 frames, 1 tracklets of junk, "
        "2 tracklets of distractors; 4 queries, 4 with a match"
    )


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", JUNK]), st.sampled_from([None, 1, 2])), min_size=1, max_size=8),
    st.data(),
)
def test_queries_with_a_match_are_those_of_the_ranking(seen, draw):
    test = tuple(Tracklet((Path("x"),), *one) for one in seen)
    rows = st.lists(st.sampled_from(range(len(test))), unique=True)
    query, gallery = draw.draw(rows), draw.draw(rows)
    data = DataSet("drawn", (), test, tuple(query), tuple(gallery))
    found = int(re.search(r"(\d+) with a match", data.summary)[1])
    try:
        expected = rank(
            np.full((len(query), len(gallery)), 0.5),
            [test[row].identity for row in query],
            [test[row].identity for row in gallery],
            query_cameras=[test[row].camera for row in query],
            gallery_cameras=[test[row].camera for row in gallery],
            self_match=[gallery.index(row) if row in gallery else None for row in query],
        ).matched
    except ValueError as error:
        assert "has a match" in str(error) or not query or not gallery
        expected = 0
    assert found == expected
