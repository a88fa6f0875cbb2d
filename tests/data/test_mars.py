import re
import shutil
import sys

import numpy as np
import pytest
from data_trees import write_mars_tree
from PIL import Image
from scipy.io import loadmat, savemat

from strfnet.data.frames import read_clip
from strfnet.data.readers.mars import read_mars
from strfnet.data.readers.published import check_counts


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_mars_tree(tmp_path_factory.mktemp("drawn") / "MARS")


@pytest.fixture
def mars(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "MARS")


def rewrite(file, change):
    name = next(name for name in loadmat(file) if not name.startswith("__"))
    savemat(file, {name: change(loadmat(file)[name].astype(np.int64))})


def changed(row, column, value):
    def change(table):
        table[row, column] = value
        return table

    return change


def refused(root, *said):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_mars(root, complete=False)


def test_every_tracklet_is_what_the_files_say(drawn):
    data = read_mars(drawn, complete=False)
    for part, tracklets in (("train", data.train), ("test", data.test)):
        names = (drawn / "info" / f"{part}_name.txt").read_text().split()
        table = loadmat(drawn / "info" / f"tracks_{part}_info.mat")[f"track_{part}_info"].tolist()
        assert len(tracklets) == len(table)
        for tracklet, (first, last, identity, camera) in zip(tracklets, table, strict=True):
            assert [frame.name for frame in tracklet.frames] == names[first - 1 : last]
            assert all(frame.parent.parent == drawn / f"bbox_{part}" for frame in tracklet.frames)
            assert (tracklet.identity, tracklet.camera) == (identity, camera)
            assert {frame.name[:6] for frame in tracklet.frames} == {f"{tracklet.frames[0].parent.name}C{camera}"}


def test_queries_are_of_people_and_the_gallery_is_everything(drawn):
    data = read_mars(drawn, complete=False)
    assert [tracklet.identity for tracklet in data.test] == [-1, -1, 0, *[2] * 4, *[4] * 4]
    assert data.query == (3, 5, 7, 9) and data.gallery == tuple(range(11))
    assert data.test[0].frames[0].parent.name == "00-1" and len(data.test[0].frames) == 1
    assert type(data.test[3].identity) is int and type(data.query[0]) is int


def test_the_folder_above_does_as_well(drawn):
    assert read_mars(str(drawn.parent), complete=False) == read_mars(drawn, complete=False)


def test_a_clip_is_read_from_the_files(drawn):
    tracklet = read_mars(drawn, complete=False).test[4]
    clip = read_clip(tracklet.frames, [0, 2], (32, 16))
    assert clip.shape == (3, 2, 32, 16) and clip.std() > 0.2


def test_what_is_not_complete_is_told_with_all_counts(drawn):
    with pytest.raises(ValueError, match="8 training tracklets") as error:
        read_mars(drawn)
    for wanted in (8298, 625, 509914, 12180, 634, 681089, 870, 3248, 1980, 626):
        assert f"(wanted {wanted})" in str(error.value)
    assert (
        "2 junk" in str(error.value) and "1 distractor" in str(error.value) and "complete=False" in str(error.value)
    )


def test_the_counts_are_those_of_the_tree(drawn, monkeypatch):
    from strfnet.data.readers import mars as room

    counts = dict(zip(room._PUBLISHED, (8, 2, 25, 11, 2, 36, 2, 1, 4, 2), strict=True))
    monkeypatch.setattr(room, "_PUBLISHED", counts)
    whole, other = read_mars(drawn), read_mars(drawn, complete=False)
    assert (whole.name, whole.layout) == ("MARS", None)
    assert other == whole.named_after(drawn)


@pytest.mark.parametrize("count", [3, 5])
def test_one_wrong_count_is_told_alone(tmp_path, count):
    with pytest.raises(ValueError, match=rf"it has {count} a \(wanted 4\); complete=False"):
        check_counts("X", tmp_path, found={"a": count, "b": 5}, published={"a": 4, "b": 5})


def test_frame_numbers_need_not_be_of_three_digits_nor_start_at_1(mars):
    listing = mars / "info" / "train_name.txt"
    old = listing.read_text().split()[-1]
    new = "0003C2T0008F1234.jpg"
    listing.write_text(listing.read_text().replace(old, new))
    (mars / "bbox_train/0003" / old).rename(mars / "bbox_train/0003" / new)
    assert read_mars(mars, complete=False).train[-1].frames[-1].name == new


def test_line_ends_of_other_systems_and_empty_lines_at_the_end_are_understood(mars, drawn):
    listing = mars / "info" / "test_name.txt"
    listing.write_bytes(b"\xef\xbb\xbf" + listing.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert len(read_mars(mars, complete=False).test) == 11


def test_files_that_no_line_names_are_left_out(mars):
    (mars / "bbox_train/0001/Thumbs.db").touch()
    shutil.copy(mars / "bbox_train/0001/0001C1T0001F001.jpg", mars / "bbox_train/0001/0001C1T0001F0999.jpg")
    assert len(read_mars(mars, complete=False).train[0].frames) == 1


@pytest.mark.parametrize("name", ["train_name.txt", "test_name.txt", "tracks_train_info.mat", "query_IDX.mat"])
def test_a_missing_split_file_is_named_with_what_it_is_and_whence(mars, name):
    (mars / "info" / name).unlink()
    refused(mars, f"{mars / 'info' / name} is missing, wanted the", "of MARS; it is in folder info of the authors'")


def test_a_missing_frame_is_named_with_the_line_that_names_it(mars):
    frame = mars / "bbox_test/0002/0002C2T0007F002.jpg"
    line = (mars / "info/test_name.txt").read_text().split().index(frame.name) + 1
    frame.unlink()
    refused(mars, f"{frame} is missing, but line {line} of {mars / 'info/test_name.txt'}")


def test_a_missing_folder_and_a_file_in_its_place_are_named(mars):
    shutil.rmtree(mars / "bbox_test/00-1")
    refused(mars, f"{mars / 'bbox_test/00-1'} is missing")
    (mars / "bbox_test/00-1").touch()
    refused(mars, f"{mars / 'bbox_test/00-1'} is no folder")


def test_a_folder_in_the_place_of_a_frame_and_a_dead_link_are_named(mars):
    frame = mars / "bbox_train/0001/0001C1T0001F001.jpg"
    frame.unlink()
    frame.mkdir()
    refused(mars, f"{frame} is missing")
    frame.rmdir()
    frame.symlink_to(mars / "nowhere.jpg")
    refused(mars, frame, "a broken link")


def test_links_to_frames_are_followed(mars):
    (mars / "bbox_train").rename(mars / "elsewhere")
    (mars / "bbox_train").symlink_to(mars / "elsewhere")
    assert len(read_mars(mars, complete=False).train) == 8


@pytest.mark.parametrize("root", ["nothing", "MARS/info", "MARS/info/query_IDX.mat"])
def test_a_root_without_the_layout_is_named(mars, root):
    refused(mars.parent / root, mars.parent / root, "bbox_train")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed(1, 0, 3), "row 2 of {file} runs from 3 to 4, wanted from 2"),
        (changed(1, 0, 1), "row 2 of {file} runs from 1 to 4, wanted from 2"),
        (changed(0, 0, 0), "row 1 of {file} runs from 0 to 1, wanted from 1"),
        (changed(0, 1, 0), "row 1 of {file} runs from 1 to 0"),
        (changed(-1, 1, 26), "train_name.txt has 25 lines, wanted 26, where {file} ends"),
        (changed(-1, 1, 24), "train_name.txt has 25 lines, wanted 24, where {file} ends"),
        (changed(0, 2, 3), "line 1 of {root}/info/train_name.txt is '0001C1T0001F001.jpg', but row 1 of {file}"),
        (changed(0, 2, 0), "but row 1 of {file} gives identity 0 and camera 1"),
        (changed(0, 3, 2), "but row 1 of {file} gives identity 1 and camera 2"),
        (lambda table: table[:, :3], "{file} has 3 columns, wanted first, last, identity and camera"),
        (lambda table: table[:0], "track_train_info in {file} is int64 (0, 4), wanted a table of whole numbers"),
        (lambda table: table + 0.5, "wanted a table of whole numbers"),
        (lambda table: table * np.nan, "wanted a table of whole numbers"),
        (lambda table: np.stack([table, table], axis=-1), "wanted a table of whole numbers"),
        (lambda table: "none", "wanted a table of whole numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_row(mars, change, said):
    file = mars / "info/tracks_train_info.mat"
    if not (mars / "bbox_train/0000").exists():
        (mars / "bbox_train/0000").mkdir()
    rewrite(file, change)
    refused(mars, said.format(file=file, root=mars))


def test_tables_of_other_number_types_are_the_same(mars, drawn):
    for file in (mars / "info").glob("*.mat"):
        rewrite(file, lambda table: table.astype(np.float64))
    data, other = read_mars(mars, complete=False), read_mars(drawn, complete=False)
    assert data.query == other.query
    assert [len(t.frames) for t in data.train] == [len(t.frames) for t in other.train]


def test_a_frame_named_twice_is_refused(mars):
    listing = mars / "info" / "train_name.txt"
    lines = listing.read_text().split()
    listing.write_text("\n".join([*lines[:2], lines[1], *lines[3:]]))
    refused(mars, f"{listing} names 1 frames more than once")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([4, 12], "numbers a query 12, wanted 1 to 11"),
        ([0, 4], "numbers a query 0, wanted 1 to 11"),
        ([4, 4], "numbers a query twice"),
        ([1, 4], "query 1 of {file} is of identity -1, wanted a person"),
        ([3], "query 3 of {file} is of identity 0, wanted a person"),
    ],
)
def test_queries_that_are_none_are_refused(mars, rows, said):
    file = mars / "info/query_IDX.mat"
    savemat(file, {"query_IDX": np.array([rows], dtype=np.uint16)})
    refused(mars, said.format(file=file))


def test_queries_in_a_column_are_understood(mars):
    savemat(mars / "info/query_IDX.mat", {"query_IDX": np.array([[4], [6]], dtype=np.uint8)})
    assert read_mars(mars, complete=False).query == (3, 5)


def test_nobody_is_trained_on_as_a_person(mars):
    for part in ("info/train_name.txt", "info/tracks_train_info.mat"):
        shutil.copy(mars / part.replace("train", "test"), mars / part)
    table = loadmat(mars / "info/tracks_train_info.mat")["track_test_info"]
    savemat(mars / "info/tracks_train_info.mat", {"track_train_info": table})
    shutil.rmtree(mars / "bbox_train")
    shutil.copytree(mars / "bbox_test", mars / "bbox_train")
    refused(mars, "bbox_train/00-1/00-1C1T0001F001.jpg is of identity -1, wanted none of it")


def test_damaged_and_foreign_split_files_are_refused_by_name(mars):
    file = mars / "info/tracks_test_info.mat"
    content = file.read_bytes()
    for damaged in (b"", content[:100], content[:200], content[:-40], b"not a table" * 30):
        file.write_bytes(damaged)
        refused(mars, file)
    savemat(file, {"other": np.eye(2)})
    refused(mars, f"{file} holds no variable 'track_test_info'")
    (mars / "info/test_name.txt").write_bytes(b"\xff\xfe\x00")
    refused(mars, f"cannot read {mars / 'info/test_name.txt'}")
    (mars / "info/test_name.txt").write_text("\n\n")
    refused(mars, f"{mars / 'info/test_name.txt'} is empty")
    file.unlink()
    file.mkdir()
    shutil.copy(mars / "info/train_name.txt", mars / "info/test_name.txt")
    refused(mars, f"{file} is no file, wanted the table of tracklets")


def test_without_scipy_the_line_that_installs_it_is_told(drawn, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ImportError, match=re.escape('scipy, which is not installed: pip install "strfnet[matlab]"')):
        read_mars(drawn, complete=False)


def test_odd_places_are_no_obstacle(drawn, tmp_path):
    place = shutil.copytree(drawn, tmp_path / "vidéo [1] *ü 東" / "MARS data")
    data = read_mars(place, complete=False)
    assert read_clip(data.train[1].frames, [1], (8, 4)).shape == (3, 1, 8, 4)


def test_frames_that_are_damaged_or_of_other_kinds_come_to_light_when_a_clip_is_read(mars):
    frames = read_mars(mars, complete=False).train[1].frames
    picture = Image.open(frames[0])
    picture.convert("L").save(frames[0])
    picture.convert("CMYK").save(frames[1])
    clip = read_clip(frames, [0, 1], (32, 16))
    assert clip.isfinite().all() and abs(clip[:, 1]).max() < 3
    frames[2].write_bytes(frames[2].read_bytes()[:300])
    with pytest.raises(ValueError, match=re.escape(f"cannot read the frame {frames[2]}")):
        read_clip(frames, [0, 2], (32, 16))
