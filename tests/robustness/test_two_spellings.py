"""One thing under two names: the same frames reached by several paths, and names that look alike."""

import csv
import os
import re

import pytest
from PIL import Image

from strfnet.data import read_data_set
from strfnet.data.readers.repeats import _seen


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8), (len(name), 0, 0)).save(path)


def listing(root, *lines):
    file = root / "tracklets.csv"
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("path", "identity", "camera", "subset"), *lines])
    return read_data_set("csv", file)


@pytest.fixture
def root(tmp_path):
    write(tmp_path, *(f"{folder}/{one}.jpg" for folder in "abc" for one in (1, 2, 3)))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/9.jpg").symlink_to(tmp_path / "a/2.jpg")
    os.link(tmp_path / "a/3.jpg", tmp_path / "linked/10.jpg")
    return tmp_path


SPELLINGS = [
    "{root}/a",
    "./a",
    "a/",
    "a/../a",
    "b/../a",
    "link",
    "link/",
    "a/*.jpg",
    "a/[23].jpg",
    "linked",
    "*/9.jpg",
]


@pytest.mark.parametrize("first", ["a", "a/?.jpg"])
@pytest.mark.parametrize("subsets", [("train", "test"), ("test", "test"), ("query", "gallery"), ("train", "train")])
@pytest.mark.parametrize("other", SPELLINGS)
def test_a_listing_has_each_frame_once_whatever_its_path(root, other, subsets, first):
    labels = ("7", "1"), ("8", "2")
    lines = [(path, *label, part) for path, label, part in zip((first, other), labels, subsets, strict=True)]
    rest = [("b", "7", "2", "gallery"), ("c", "7", "3", "query")] if "query" in subsets else [("b", "9", "1", "test")]
    with pytest.raises(ValueError, match=r"line [23] of \S+ (and|begins with).*line [23] of"):
        listing(root, *((path.format(root=root), *others) for path, *others in lines), *rest)


def test_overlapping_patterns_are_refused_with_both_lines(root):
    wanted = r"line 3 of \S+ and line 2 of \S+ have the same file, \S+/a/2\.jpg: wanted it in one tracklet"
    with pytest.raises(ValueError, match=wanted):
        listing(root, ("a/[12].jpg", "7", "1", "test"), ("a/[23].jpg", "7", "2", "test"))


def test_a_query_in_the_gallery_and_apart_patterns_are_read(root):
    lines = [("a", "7", "1", part) for part in ("query", "gallery")]
    data = listing(root, *lines, ("b/[1].jpg", "7", "2", "gallery"), ("b/[23].jpg", "8", "2", "gallery"))
    assert len(data.test) == 3 and data.query == (0,)


@pytest.mark.parametrize("part", ["", "train", "test"])
def test_a_folder_has_each_frame_once_too(tmp_path, part):
    write(tmp_path, "test/p/c1/t/1.jpg", "test/q/c2/t/1.jpg")
    twin = tmp_path / (part or "test") / "r"
    twin.parent.mkdir(exist_ok=True)
    if part == "train":
        twin.parent.rmdir()
        twin.parent.symlink_to(tmp_path / "test")
    else:
        twin.symlink_to(tmp_path / "test" / "p")
    with pytest.raises(ValueError, match=r"have the same file, \S+1\.jpg: wanted it in one tracklet"):
        read_data_set("folder", tmp_path if part else tmp_path / "test")


ALIKE = [
    ("Jos\u00e9", "Jose\u0301"),
    ("\uac00", "\u1100\u1161"),
    ("anna", "anna\u200b"),
    ("anna", "\ufeffanna"),
    ("anna", "an\u00adna"),
    ("anna", "anna\u2060"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE, ids=ascii)
@pytest.mark.parametrize("kind", ["identity", "camera"])
def test_names_that_look_alike_are_refused_with_both(root, one, other, kind):
    labels = [(one, "1"), (other, "1")] if kind == "identity" else [("7", one), ("7", other)]
    with pytest.raises(ValueError, match="two spellings of one") as raised:
        listing(root, ("a", *labels[0], "test"), ("b", *labels[1], "test"))
    assert f"{one!a} of line 2" in str(raised.value) and f"{other!a} of line 3" in str(raised.value)
    assert raised.value.args[0].endswith(f"of one {kind}, wanted one")


@pytest.mark.parametrize(("one", "other"), [*ALIKE, ("anna", "anna "), ("anna", "anna\u00a0")], ids=ascii)
def test_folders_whose_names_look_alike_are_refused(tmp_path, one, other):
    try:
        write(tmp_path, f"{one}/c1/t/1.jpg", f"{other}/c2/t/1.jpg")
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system does not take the names")
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("the file system takes them for one")
    with pytest.raises(ValueError, match=re.escape(f"{other!a} of") + r".*are two spellings of one identity"):
        read_data_set("folder", tmp_path)


def test_other_names_are_apart():
    names = ["Anna", "anna", "Ann", "Jose", "Jos\u00e9", "0", "00", "a b", "ab"]
    assert len({_seen(name) for name in names}) == len(names)
