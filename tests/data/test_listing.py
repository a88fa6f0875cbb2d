import re

import pytest
from data_trees import write_csv_tree, write_rows

from strfnet.data.frames import read_clip
from strfnet.data.readers.csv import read_listing
from strfnet.data.readers.folder import read_folder_data_set
from strfnet.data.tracklet import DISTRACTOR, JUNK

HEAD = ("path", "identity", "camera", "subset")


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listing(root, *rows, head=HEAD):
    return write_rows(root / "own.csv", [head, *rows])


def refused(file, *said):
    with pytest.raises(ValueError, match=".*".join(map(re.escape, map(str, said)))):
        read_listing(file)


def test_a_listing_says_what_folders_say(tmp_path):
    data = read_listing(write_csv_tree(tmp_path / "own"))
    (tmp_path / "own/tracklets.csv").unlink()
    other = read_folder_data_set(tmp_path / "own")
    assert (data.train, data.test, data.query, data.gallery) == (other.train, other.test, other.query, other.gallery)
    assert data.name == "listing tracklets.csv"
    assert read_clip(data.train[3].frames, [2], (32, 16)).shape == (3, 1, 32, 16)


def test_columns_may_have_any_order_and_the_camera_may_be_left_out(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    rows = [("test", "7", "a"), ("test", "7", "b"), ("train", "08", "c")]
    data = read_listing(listing(tmp_path, *rows, head=("subset", "identity", "path")))
    assert [(t.identity, t.camera) for t in data.test] == [("7", None)] * 2 and data.query == (0,)
    assert data.train[0].identity == "08"
    data = read_listing(listing(tmp_path, *((path, who, "", part) for part, who, path in rows)))
    assert [t.camera for t in data.test] == [None, None]


def test_query_and_gallery_are_told_apart_and_may_share_a_tracklet(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    rows = [
        ("a", "7", "1", "query"),
        ("b", "7", "2", "gallery"),
        ("c", "7", "2", "query"),
        ("c", "7", "2", "gallery"),
    ]
    data = read_listing(listing(tmp_path, *rows))
    assert [t.frames[0].parent.name for t in data.test] == ["b", "c", "a"]
    assert data.query == (2, 1) and data.gallery == (0, 1)


def test_patterns_and_folders_are_relative_to_the_listing_or_absolute(tmp_path):
    touch(tmp_path, "l/own.csv", "l/d/7_2.jpg", "l/d/7_10.PNG", "l/d/8_1.jpg", "l/d/7_.txt", "m/1.jpg", "n/9.jpg")
    rows = [("d/7_*", "7", "1", "test"), (str(tmp_path / "m"), "8", "1", "test"), ("../n/9*", "9", "1", "test")]
    tracklets = read_listing(listing(tmp_path / "l", *rows)).test
    assert [[frame.name for frame in t.frames] for t in tracklets] == [
        ["7_2.jpg", "7_10.PNG"], ["1.jpg"], ["9.jpg"],
    ]  # fmt: skip
    assert all(frame.is_file() for t in tracklets for frame in t.frames)


def test_frames_of_a_pattern_over_folders_stay_together(tmp_path):
    touch(tmp_path, "day10/1.jpg", "day9/2.jpg", "day9/10.jpg")
    (tracklet,) = read_listing(listing(tmp_path, ("day*/*.jpg", "7", "1", "test"))).test
    assert [str(f.relative_to(tmp_path)) for f in tracklet.frames] == ["day9/2.jpg", "day9/10.jpg", "day10/1.jpg"]


def test_odd_names_are_read(tmp_path):
    names = ["a b", "[x]", "ü東", 'quo"ted', "com,ma", "semi;colon"]
    touch(tmp_path, *(f"[set]/{name}/1.JPG" for name in names))
    root = tmp_path / "[set]"
    tracklets = read_listing(listing(root, *((name, name, "1", "train") for name in names))).train
    assert [t.identity for t in tracklets] == names
    assert [t.frames for t in tracklets] == [(root / name / "1.JPG",) for name in names]
    (tracklet,) = read_listing(listing(root, ("a b/*", "7", "1", "train"))).train
    assert tracklet.frames == tracklets[0].frames


def test_a_byte_order_mark_blank_lines_and_blanks_behind_commas_are_understood(tmp_path):
    touch(tmp_path, "a/1.jpg")
    text = "identity, path, camera, subset\r\n\r\n7 , a, 1, test \r\n,,,\r\n"
    (tmp_path / "own.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tracklet,) = read_listing(str(tmp_path / "own.csv")).test
    assert (tracklet.identity, tracklet.camera) == ("7", "1")


@pytest.mark.parametrize(
    ("rows", "line", "said"),
    [
        ([("none", "7", "1", "test")], 2, "none is missing, wanted a folder or a pattern"),
        ([("a", "7", "1", "test"), ("none/*.jpg", "7", "1", "test")], 3, "none/*.jpg, wanted at least one"),
        ([("a/1.jpg", "7", "1", "test")], 2, "a/1.jpg is a file, wanted a folder or a pattern"),
        ([("empty", "7", "1", "test")], 2, "empty holds no"),
        ([("half/*", "7", "1", "test")], 2, "2.jpg.part looks like a frame"),
        ([("half", "7", "1", "test")], 2, "2.jpg.part looks like a frame"),
        ([("dead/*", "7", "1", "test")], 2, "dead/2.jpg is no file"),
        ([("dead", "7", "1", "test")], 2, "dead/2.jpg is neither a file nor a folder"),
        ([("deep", "7", "1", "test")], 2, "deep holds the folder a"),
        ([("a", "", "1", "query")], 2, "has an empty identity"),
        ([(" ", "7", "1", "test")], 2, "has an empty path"),
        ([("a", "7", "1", "")], 2, "has an empty subset"),
        ([("a", "7", "1", "tests")], 2, "has the subset 'tests', the nearest known is 'test'"),
        ([("a", "7", "1")], 2, "has 3 fields, wanted 4"),
        ([("a", "7", "1", "test", "")], 2, "has 5 fields, wanted 4"),
        ([("x" * 5000, "7", "1", "test")], 2, ""),
        ([("a", "7", "1", "test"), ("a", "7", "1", "test")], 3, "begins with the frame of line 2 of"),
        ([("a", "7", "1", "train"), ("a/*", "7", "1", "test")], 3, "begins with the frame of line 2 of"),
        ([("a", "7", "1", "query"), ("a", "8", "1", "gallery")], 3, "begins with the frame of line 2 of"),
        ([("a", "7", "1", "query"), ("a", "7", "2", "gallery")], 3, "begins with the frame of line 2 of"),
        ([("a", "7", "1", "test"), ("b", "7", "", "test")], 3, "has no camera, wanted one for all or none"),
    ],
)
def test_lines_that_do_not_fit_are_refused_by_file_and_line(tmp_path, rows, line, said):
    touch(
        tmp_path, "a/1.jpg", "b/1.jpg", "half/1.jpg", "half/2.jpg.part", "dead/1.jpg", "deep/a/1.jpg", "empty/x.txt"
    )
    (tmp_path / "dead/2.jpg").symlink_to(tmp_path / "gone.jpg")
    file = listing(tmp_path, *rows)
    refused(file, f"line {line} of {file}", said)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (("path", "identity", "camra", "subset"), "has a column 'camra', the nearest known is 'camera'"),
        (("path", "identity", "subset", "Camera"), "has a column 'Camera', the nearest known is 'camera'"),
        (("path", "identity", "subset", "cam_id"), "has a column 'cam_id', the nearest known is 'camera'"),
        (("path", "identity", "subset", "track_id"), "has a column 'track_id', the nearest known is 'track'"),
        (("path", "identity", "subset", ""), "has a column ''"),
        (("path;identity;camera;subset",), "separates its columns by semicolons, wanted commas"),
        (("path", "camera", "subset"), "has columns path, camera, subset, wanted path and identity"),
        (("path", "identity", "path", "subset"), "has columns path, identity, path, subset, wanted"),
    ],
)
def test_first_lines_that_do_not_fit_are_refused(tmp_path, head, said):
    file = listing(tmp_path, head=head)
    refused(file, f"line 1 of {file} {said}")


def test_identities_may_be_unknown_and_further_columns_are_details(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg")
    head = ("path", "identity", "camera", "clothes", "first_time")
    rows = [("a", "", "1", "red coat", "3.5"), ("b", "", "2", "", "")]
    data = read_listing(listing(tmp_path, *rows, head=head))  # no subset: all are test
    assert [(t.identity, t.camera, dict(t.details)) for t in data.test] == [
        (None, "1", {"clothes": "red coat", "first_time": "3.5"}), (None, "2", {}),
    ]  # fmt: skip
    assert (data.train, data.query, data.gallery) == ((), (), (0, 1))
    file = listing(tmp_path, *rows, ("c", "ann", "1", "", ""), head=head)
    refused(file, f"line 4 of {file} has an identity, but there is no column subset: wanted one of train, test")
    rows = [("a", "7", "1", "test"), ("b", "7", "2", "test"), ("c", "", "1", "test")]
    data = read_listing(listing(tmp_path, *rows))
    assert [t.identity for t in data.test] == ["7", "7", None] and data.query == (0, 1)


def test_junk_and_distractors_have_names_and_other_marks_are_refused(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "c/1.jpg", "d/1.jpg", "e/1.jpg")
    people = [("a", "7", "1", "test"), ("b", "7", "2", "test")]
    others = [("c", "junk", "1", "test"), ("d", "distractor", "1", "test"), ("e", "distractor", "2", "test")]
    data = read_listing(listing(tmp_path, *people, *others))
    assert [t.identity for t in data.test] == ["7", "7", JUNK, DISTRACTOR, DISTRACTOR] and data.query == (0, 1)
    for mark, word in (("-1", "junk"), ("00-1", "junk"), ("0000", "distractor")):
        file = listing(tmp_path, *people, ("c", mark, "1", "test"))
        refused(file, f"line 4 of {file} is {mark!r}: {word} in MARS and Market-1501", f"wanted {word!r}")
    refused(listing(tmp_path, ("a", "junk", "1", "train")), "a/1.jpg is junk or a distractor in train")


def test_frames_of_several_tracklets_are_not_one(tmp_path):
    touch(tmp_path, "0001/0001C1T0001F001.jpg", "0001/0001C1T0001F002.jpg", "0001/0001C2T0002F001.jpg")
    file = listing(tmp_path, ("0001", "1", "1", "test"))
    refused(file, "line 2", "in MARS (format mars) two tracklets, here one")
    rows = [(f"0001/0001C{n}T*", "1", n, "test") for n in (1, 2)]
    assert [len(t.frames) for t in read_listing(listing(tmp_path, *rows)).test] == [2, 1]


NAMED = (
    ("MARS (format mars)", "0001C1T0001F001", "C1T0001"),
    ("DukeMTMC-VideoReID (format duke)", "0001_C6_F0099_X30823", "C6"),
    ("DukeMTMC-VideoReID (format duke)", "0001C6F0099X30823", "C6"),
    ("Market-1501", "0001_c1s1_000151_01", "c1s1"),
    ("LS-VID (format ls_vid)", "0001_003_01_0042", "003_01"),
    ("iLIDS-VID (format ilids)", "cam1_person001_00317", "cam1"),
    ("AG-VPReID (format ag_vpreid)", "P1T230811A1C4E1K1F001", "C4"),
)


@pytest.mark.parametrize(("data_set", "name", "code"), NAMED)
@pytest.mark.parametrize("head", [HEAD, ("path", "identity", "subset"), ("path", "identity")])
def test_frames_that_name_their_camera_need_a_column_of_cameras(tmp_path, head, data_set, name, code):
    touch(tmp_path, f"a/{name}.jpg", "b/1.jpg")
    fields = {"path": "a", "identity": "7" if "subset" in head else "", "camera": "", "subset": "test"}
    for path in ("a", "a/*.jpg"):
        file = listing(tmp_path, [{**fields, "path": path}[name] for name in head], head=head)
        refused(
            file,
            f"line 2 of {file}: {tmp_path}/a/{name}.jpg is named as in {data_set}, by camera and tracklet {code}",
        )
    (tracklet,) = read_listing(listing(tmp_path, ("a", "7", "1", "test"))).test
    assert tracklet.camera == "1"
    assert read_listing(listing(tmp_path, ("b", "7", "", "test"))).test[0].camera is None


def test_line_numbers_are_those_of_an_editor(tmp_path):
    touch(tmp_path, "two\nlines/1.jpg")
    file = listing(tmp_path, ("two\nlines", "7", "1", "test"), ("none", "7", "1", "test"))
    refused(file, f"line 4 of {file}: ", "none is missing")


@pytest.mark.parametrize("subsets", [("query",), ("gallery",), ("test", "query", "gallery"), ("train", "query")])
def test_subsets_that_say_nothing_clear_are_refused(tmp_path, subsets):
    touch(tmp_path, *(f"{subset}/1.jpg" for subset in subsets))
    file = listing(tmp_path, *((subset, "7", "1", subset) for subset in subsets))
    refused(file, f"{file} holds ", "wanted train, and test or both query and gallery")


def test_files_that_are_no_listing_are_refused_by_name(tmp_path):
    file = tmp_path / "own.csv"
    refused(file, f"{file} is missing")
    refused(tmp_path, f"{tmp_path} is no file, wanted a CSV listing")
    for content, said in (
        (b"", "is empty, wanted a first line with path, identity"),
        (b"path,identity,subset\n\n", "lists no tracklets"),
        (b"path,identity,subset\n\xff,7,test\n", "cannot read"),
        (b'path,identity,subset\n"a,7,test\n', "cannot read"),
        (b"path,identity,subset\na\0b,7,test\n", "line"),
    ):
        file.write_bytes(content)
        refused(file, said)
        refused(file, file)
