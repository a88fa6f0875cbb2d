import re

import pytest

from strfnet.data.folder import read_folder
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
        (["p/c/t/1.jpg", "q/t/1.jpg"], "{root}/p/c/t and {root}/q/t lie at different depths"),
        (["p/c/t/x/1.jpg"], "{root}/p/c/t holds folders, one level more"),
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
    with pytest.raises(ValueError, match="one level more"):
        read_folder(tmp_path)
