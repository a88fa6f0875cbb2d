import os
import re
from pathlib import Path

import pytest
from data_trees import write_folder_tree
from hypothesis import given
from hypothesis import strategies as st

from strfnet.data.frames import read_clip
from strfnet.data.readers.folder import first_queries, read_folder, read_folder_data_set
from strfnet.data.tracklet import Tracklet


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_identity_camera_and_tracklet_are_read_from_the_path(tmp_path):
    touch(tmp_path, "7/cam2/b/1.jpg", "7/cam1/a/1.jpg", "10/cam1/a/2.jpg", "10/cam1/a/1.jpg")
    assert read_folder(tmp_path) == [
        Tracklet((tmp_path / "7/cam1/a/1.jpg",), "7", "cam1"),
        Tracklet((tmp_path / "7/cam2/b/1.jpg",), "7", "cam2"),
        Tracklet((tmp_path / "10/cam1/a/1.jpg", tmp_path / "10/cam1/a/2.jpg"), "10", "cam1"),
    ]


def test_without_a_camera_level_the_camera_is_none(tmp_path):
    touch(tmp_path, "7/a/1.jpg", "7/b/1.jpg")
    assert [(t.identity, t.camera) for t in read_folder(str(tmp_path))] == [("7", None), ("7", None)]


def test_a_folder_of_frames_alone_is_named_after_its_identity(tmp_path):
    touch(tmp_path, "0002/1.jpg", "0001/1.jpg")
    assert [(t.identity, t.camera) for t in read_folder(tmp_path)] == [("0001", None), ("0002", None)]


def test_frames_are_all_kinds_in_any_case_in_the_order_of_their_numbers(tmp_path):
    touch(tmp_path, "p/frame10.jpg", "p/frame9.JPG", "p/frame011.Jpeg", "p/frame8.PNG", "p/frame1.jpeg")
    (tracklet,) = read_folder(tmp_path)
    names = [frame.name for frame in tracklet.frames]
    assert names == ["frame1.jpeg", "frame8.PNG", "frame9.JPG", "frame10.jpg", "frame011.Jpeg"]


def test_hidden_files_hidden_folders_and_other_files_are_left_out(tmp_path):
    touch(
        tmp_path, "p/1.jpg", "p/._1.jpg", "p/.hidden.png", ".git/x/1.jpg", "p/Thumbs.db", "p/boxes.csv", "notes.txt"
    )
    (tracklet,) = read_folder(tmp_path)
    assert tracklet.frames == (tmp_path / "p/1.jpg",)


@pytest.mark.parametrize("name", ["3.bmp", "3.WEBP", "3.tif", "3.jpg.part", "3.png.crdownload"])
def test_what_would_shorten_a_tracklet_is_refused(tmp_path, name):
    touch(tmp_path, "p/c/t/1.jpg", f"p/c/t/{name}")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "p/c/t" / name))):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.txt"], "no images below {root}, wanted <identity>"),
        (["p/q/a.txt"], "{root}/p/q holds no .jpeg, .jpg, .png images"),
        (["p/t/1.jpg", "q/t/a.txt"], "{root}/q/t holds no"),
        (["1.jpg"], "directly in {root}"),
        (["1.jpg", "p/1.jpg"], "directly in {root}"),
        (["p/1.jpg", "p/t/1.jpg"], "{root}/p holds images beside folders"),
        (["p/c/t/1.jpg", "q/t/1.jpg"], "{root}/p/c/t and {root}/q/t have different depths"),
        (["p/c/t/x/1.jpg"], "{root}/p/c/t holds folders one level deeper"),
    ],
)
def test_layouts_that_say_nothing_clear_are_refused_by_path(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=re.escape(message.format(root=tmp_path))):
        read_folder(tmp_path)


def test_roots_that_are_missing_empty_or_files_are_refused_by_path(tmp_path):
    touch(tmp_path, "file")
    (tmp_path / "empty").mkdir()
    for name, reason in (("none", "is missing"), ("file", "is no folder"), ("empty", "")):
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))} ?{reason}.*wanted <identity>"):
            read_folder(tmp_path / name)


def test_a_ring_of_links_ends_in_an_error(tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p/again").symlink_to(tmp_path / "p")
    with pytest.raises(ValueError, match="one level deeper"):
        read_folder(tmp_path)


def test_a_link_that_leads_nowhere_is_refused_by_path(tmp_path):
    touch(tmp_path, "p/1.jpg")
    (tmp_path / "p/2.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / 'p/2.jpg'} is neither a file nor a folder")):
        read_folder(tmp_path)


def test_links_to_folders_and_frames_are_followed(tmp_path):
    touch(tmp_path, "store/a/1.jpg", "store/2.jpg", "root/q/t/1.jpg")
    (tmp_path / "root/p").mkdir()
    (tmp_path / "root/p/t").symlink_to(tmp_path / "store/a")
    (tmp_path / "root/p/t/3.jpg").symlink_to(tmp_path / "store/2.jpg")
    assert [len(tracklet.frames) for tracklet in read_folder(tmp_path / "root")] == [2, 1]


def test_odd_names_are_read(tmp_path):
    names = ["a b", "[x]", "*?", "ü東", "c'\"\\", "new\nline"]
    touch(tmp_path, *(f"{name}/cam {name}/1/{name}1.JPG" for name in names))
    tracklets = read_folder(tmp_path)
    assert {tracklet.identity for tracklet in tracklets} == set(names)
    assert all(tracklet.frames[0].is_file() for tracklet in tracklets)


def summary(data):
    return [(t.identity, t.camera, len(t.frames)) for t in data.test], data.query, data.gallery


def test_train_and_test_are_read_and_queries_chosen(tmp_path):
    data = read_folder_data_set(write_folder_tree(tmp_path / "own"))
    assert [(t.identity, t.camera) for t in data.train] == [
        (person, camera) for person in ("ann", "bob") for camera in ("cam1", "cam1", "cam2", "cam2")
    ]
    assert summary(data) == (
        [(person, camera, 3) for person in ("cyd", "dan") for camera in ("cam1", "cam1", "cam2", "cam2")]
        + [("eve", "cam1", 1)],
        (0, 2, 4, 6),
        tuple(range(9)),
    )
    assert data.name == "folder own"
    assert read_clip(data.test[-1].frames, [0, 0], (32, 16)).shape == (3, 2, 32, 16)


def test_without_cameras_the_first_of_two_tracklets_is_asked_for(tmp_path):
    data = read_folder_data_set(write_folder_tree(tmp_path, cameras=1))
    assert data.query == (0, 2) and len(data.gallery) == 5
    assert {tracklet.camera for tracklet in data.test} == {None}


def test_the_test_alone_and_the_training_alone_are_data_sets(tmp_path):
    touch(tmp_path, "own/test/a/c1/t/1.jpg", "own/test/a/c2/t/1.jpg", "new/train/a/t/1.jpg")
    data = read_folder_data_set(str(tmp_path / "own"))
    assert data.train == () and data.query == (0, 1)
    assert read_folder_data_set(tmp_path / "own" / "test").test == data.test  # no parts: all is test
    data = read_folder_data_set(tmp_path / "new")
    assert len(data.train) == 1 and data.test == data.query == data.gallery == ()


def test_query_and_gallery_are_taken_as_they_are(tmp_path):
    touch(tmp_path, "query/a/c1/t/1.jpg", "query/b/c1/t/1.jpg", "gallery/b/c2/t/1.jpg", "gallery/a/c1/s/1.jpg")
    data = read_folder_data_set(tmp_path)
    assert summary(data)[0] == [("a", "c1", 1), ("b", "c2", 1), ("a", "c1", 1), ("b", "c1", 1)]
    assert data.query == (2, 3) and data.gallery == (0, 1)


def test_a_query_is_in_the_gallery_only_if_its_files_are_the_same(tmp_path):
    for name, content in (("query/a/t/1.jpg", b"12"), ("gallery/a/s/1.jpg", b"12"), ("gallery/a/t/1.jpg", b"12")):
        touch(tmp_path, name)
        (tmp_path / name).write_bytes(content)
    assert read_folder_data_set(tmp_path).query == (1,)
    (tmp_path / "gallery/a/t/1.jpg").write_bytes(b"13")  # another recording that is numbered alike
    for part in ("query", "gallery"):
        os.utime(tmp_path / part / "a/t/1.jpg", (10**9, 10**9))
    assert read_folder_data_set(tmp_path).query == (2,)
    (tmp_path / "gallery/a/t/1.jpg").write_bytes(b"12")
    touch(tmp_path, "gallery/a/t/2.jpg")
    assert read_folder_data_set(tmp_path).query == (2,)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["train/a/1.jpg", "tets/a/1.jpg"], "{root}/tets is beside train, wanted train, and test or both"),
        (["query/a/1.jpg"], "{root} holds query, wanted train, and test or both query and gallery"),
        (["gallery/a/1.jpg", "train/a/1.jpg"], "{root} holds gallery, train, wanted"),
        (["test/a/1.jpg", "query/a/1.jpg", "gallery/a/1.jpg"], "{root} holds gallery, query, test, wanted"),
        (["train/a/1.jpg", "test/notes.txt"], "no images below {root}/test"),
        (["train/1.jpg"], "images are directly in {root}/train"),
        (["1.jpg"], "images are directly in {root}"),
    ],
)
def test_parts_that_say_nothing_clear_are_refused_by_path(tmp_path, files, message):
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=re.escape(message.format(root=tmp_path))):
        read_folder_data_set(tmp_path)


def test_data_sets_of_folders_that_are_none_are_refused(tmp_path):
    touch(tmp_path, "file")
    for name, reason in (("none", "is missing"), ("file", "is no folder")):
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))} {reason}"):
            read_folder_data_set(tmp_path / name)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 2, 3])), max_size=12), st.booleans())
def test_queries_are_those_of_the_rule_in_words(seen, cameras):
    test = [Tracklet((Path("x"),), identity, camera if cameras else None) for identity, camera in seen]
    expected = []
    for row, (identity, camera) in enumerate(seen):
        others = [at for at in range(len(seen)) if seen[at][0] == identity and at != row]
        if cameras:
            matched = any(seen[at][1] != camera for at in others)
            first = all(at > row for at in others if seen[at][1] == camera)
        else:
            matched, first = bool(others), all(at > row for at in others)
        if matched and first:
            expected.append(row)
    assert first_queries(test) == tuple(expected)
