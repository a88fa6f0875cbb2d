import re
import sys

import h5py
import numpy as np
import pytest
from data_trees import write_ls_vid_tree, write_query_numbers
from scipy.io import savemat

from strfnet.data.frames import read_clip
from strfnet.data.readers.ls_vid import read_ls_vid


@pytest.fixture
def ls_vid(tmp_path):
    return write_ls_vid_tree(tmp_path / "LS-VID")


def refused(root, *said):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_ls_vid(root, complete=False)


def test_a_line_is_a_tracklet_and_the_third_field_its_camera(ls_vid):
    data = read_ls_vid(ls_vid, complete=False)
    assert [(t.identity, t.camera) for t in data.train] == [(i, c) for i in (1, 3) for c in (2, 2, 15, 15)]
    assert [t.identity for t in data.test] == [2] * 4 + [4] * 4
    assert data.train[1].frames == tuple(
        ls_vid / f"tracklet_train/0001/0001_001_02_{number:04d}.jpg" for number in range(3)
    )
    assert read_clip(data.test[7].frames, [2, 0], (32, 16)).shape == (3, 2, 32, 16)


def test_queries_are_the_first_row_of_the_table_and_the_gallery_is_everything(ls_vid):
    data = read_ls_vid(ls_vid.parent, complete=False)
    assert data.query == (0, 2, 4, 6) and data.gallery == tuple(range(8))


@pytest.mark.parametrize("table", [[[1], [3], [5], [7]], [[1, 3, 5, 7]]])
@pytest.mark.parametrize("version", [5, 7.3])
def test_queries_may_be_a_row_or_a_column_in_any_version_of_matlab(ls_vid, table, version):
    file = ls_vid / "test/data/info_test.mat"
    if version == 5:
        savemat(file, {"query": np.array(table)})
    else:
        write_query_numbers(file, table)
    assert read_ls_vid(ls_vid, complete=False).query == (0, 2, 4, 6)


def test_counts_are_checked_against_the_published_ones(ls_vid):
    with pytest.raises(ValueError, match=r"2 training identities \(wanted 842\), 2 test identities \(wanted 2730\)"):
        read_ls_vid(ls_vid)


def rewrite_first_line(root, line):
    file = root / "list_sequence/list_seq_train.txt"
    file.write_text("".join([line, *file.read_text().splitlines(keepends=True)[1:]]))
    return file


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("tracklet_train/0001/0001_009_02_ 1\n", "no file starts with {root}/tracklet_train/0001/0001_009_02_"),
        ("tracklet_train/0001/ 1\n", "line 1 of {file} is 'tracklet_train/0001/ 1', wanted the start"),
        ("tracklet_train/0001/0001_000_02_\n", "line 1 of {file} is"),
        ("tracklet_train/0001/0001_000_02_ x\n", "line 1 of {file} is"),
        ("\n", "line 1 of {file} is ''"),
        ("tracklet_train/0001/0001_001_02_ 1\n", "0001_001_02_ are in lines 1 and 2 of {file}"),
        ("tracklet_train/0001/0001_001_ 1\n", "are in lines 1 and 2 of {file}"),
        ("tracklet_train/0009/0009_001_02_ 9\n", "{root}/tracklet_train/0009 is missing"),
        ("tracklet_train/0001/0001_ 1\n", "are of cameras [2, 15], wanted one"),
    ],
)
def test_lines_that_do_not_fit_are_refused(ls_vid, line, said):
    file = rewrite_first_line(ls_vid, line)
    refused(ls_vid, said.format(root=ls_vid, file=file))


def test_one_start_may_not_swallow_a_longer_one(ls_vid):
    folder = ls_vid / "tracklet_train/0001"
    rewrite_first_line(ls_vid, "tracklet_train/0001/0001_000_02_00 1\n")
    assert len(read_ls_vid(ls_vid, complete=False).train[0].frames) == 3
    (folder / "0001_000_02_0000.jpg").rename(folder / "0001_000_02_100.jpg")
    assert len(read_ls_vid(ls_vid, complete=False).train[0].frames) == 2


def test_frames_are_in_the_order_of_their_numbers(ls_vid):
    folder = ls_vid / "tracklet_train/0001"
    for old, new in (("0000", "9"), ("0001", "10"), ("0002", "100")):
        (folder / f"0001_000_02_{old}.jpg").rename(folder / f"0001_000_02_{new}.jpg")
    frames = read_ls_vid(ls_vid, complete=False).train[0].frames
    assert [frame.stem.rpartition("_")[2] for frame in frames] == ["9", "10", "100"]


def test_names_of_other_fields_and_other_images_are_refused(ls_vid):
    folder = ls_vid / "tracklet_train/0001"
    for name, said in (
        ("0001_000_02_0_9.jpg", "four fields"),
        ("0001_000_02_9.jpg.part", "looks like a frame"),
        ("0001_000_02_9.bmp", "looks like a frame"),
    ):
        (folder / name).touch()
        refused(ls_vid, folder / name, said)
        (folder / name).unlink()
    for frame in folder.glob("0001_000_02_*"):
        frame.rename(folder / frame.name.replace("_02_", "_c2_"))
    rewrite_first_line(ls_vid, "tracklet_train/0001/0001_000_c2_ 1\n")
    refused(ls_vid, "0001_000_c2_0000.jpg has no name of four fields")


@pytest.mark.parametrize("numbers", [[0, 1], [9], [1, 2, 2]])
def test_queries_that_are_no_lines_are_refused(ls_vid, numbers):
    write_query_numbers(ls_vid / "test/data/info_test.mat", [numbers])
    refused(ls_vid, "info_test.mat numbers queries", "wanted each once, from 1 to 8")


def test_missing_and_damaged_split_files_are_named(ls_vid):
    file = ls_vid / "test/data/info_test.mat"
    content = file.read_bytes()
    for damaged in (b"", content[:600], content[:-900], b"MATLAB 5.0" * 90):
        file.write_bytes(damaged)
        refused(ls_vid, file)
    write_query_numbers(file, [[1]], name="gallery")
    refused(ls_vid, f"{file} holds no variable 'query'")
    with h5py.File(file, "w") as group:
        group.create_group("query")
    refused(ls_vid, file)
    file.unlink()
    refused(ls_vid, f"{file} is missing, wanted the numbers of the queries")
    (ls_vid / "list_sequence/list_seq_test.txt").unlink()
    refused(ls_vid, f"{ls_vid / 'list_sequence/list_seq_test.txt'} is missing, wanted the list of tracklets")
    refused(ls_vid / "test", "holds neither list_sequence nor")


def test_without_h5py_the_line_that_installs_it_is_told(ls_vid, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=re.escape('h5py, which is not installed: pip install "strfnet[matlab]"')):
        read_ls_vid(ls_vid, complete=False)
