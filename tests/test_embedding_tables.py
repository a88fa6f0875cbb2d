"""Parquet, NumPy and CSV files of embeddings are read as the safetensors file of the same tracklets is."""

import csv
import json
import sys
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch

from strfnet.data import Tracklet
from strfnet.data.tracklet import DISTRACTOR, JUNK
from strfnet.inference import add_to_index, load_embeddings, open_gallery, save_embeddings, search_gallery

SUFFIXES = (".parquet", ".npz", ".csv")
FACTS = {
    "network": "c2d", "weights": "0123", "clips": "evenly:2", "size": [32, 16], "interpolation": "bilinear",
    "metric": "euclidean",
}  # fmt: skip
FRAMES = (np.zeros((2, 2, 3), np.uint8),)


def tracklets(*labels):
    return [Tracklet(FRAMES * 2, *one) for one in labels]


LABELS = {
    "text": [("a", "north"), ("07", "7"), ("0", "-1"), ("-1", "south")],
    "numbers": [(7, 1), (0, 2), (JUNK, 1), (12, 3)],
    "marks": [("a", 0), (JUNK, 1), (DISTRACTOR, 1), (None, 0)],
    "unknown": [
        (None, None, {"track": "7", "note": 'x, "y"\nü'}),
        (None, None),
        (None, None, {"note": "7"}),
        (None, None),
    ],
}


def write(path, labels=LABELS["text"], *, vectors=None, **facts):
    listed = tracklets(*labels)
    save_embeddings(path, torch.eye(len(listed)) if vectors is None else vectors, listed, FACTS | facts)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", LABELS)
def test_vectors_tracklets_and_facts_are_those_of_safetensors(tmp_path, suffix, kind):
    torch.manual_seed(0)
    vectors = torch.randn(4, 300) * torch.logspace(-45, 38, 300)  # subnormal and infinite numbers are among them
    data = {"data": "part (MARS layout)", "layout": "MARS", "splits": 10, "query": [1], "gallery": [2, 3]}
    files = [write(tmp_path / name, LABELS[kind], vectors=vectors, **data) for name in ("e", f"e{suffix}")]
    expected, found = map(load_embeddings, files)
    assert torch.equal(found.vectors.view(torch.int32), expected.vectors.view(torch.int32))
    assert found.vectors.dtype == torch.float32 and torch.equal(expected.vectors, vectors)
    assert found[1:] == expected[1:] and found.facts == FACTS | data
    assert [type(row["identity"]) for row in found.tracklets] == [type(identity) for identity, *_ in LABELS[kind]]
    assert found.test_set() == expected.test_set()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_of_one_network_are_mixed_and_of_others_refused(tmp_path, suffix):
    rows = [[("a", "x")], [("b", "y"), ("a", "y")]]
    files = [
        write(tmp_path / f"e{end}", labels, vectors=torch.ones(len(labels), 3))
        for labels, end in zip(rows, ("", suffix), strict=True)
    ]
    assert [row["identity"] for row in load_embeddings(*files).tracklets] == ["a", "b", "a"]
    write(files[1], network="p3d")
    with pytest.raises(ValueError, match=rf"cannot be compared: network c2d in .*e, p3d in .*e\{suffix}"):
        load_embeddings(*files)
    with pytest.raises(ValueError, match="wanted each file once"):
        load_embeddings(files[1], files[1])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_gallery_is_searched_and_indexed_whatever_its_format(tmp_path, suffix):
    torch.manual_seed(0)
    vectors = torch.randn(40, 8)
    labels = [(None, f"cam{row % 3}", {"first_time": f"{row}.5", "last_time": f"{row + 2}.5"}) for row in range(40)]
    files = [write(tmp_path / f"e{end}", labels, vectors=vectors, metric="cosine") for end in ("", suffix)]
    galleries = [open_gallery(files[0]), open_gallery(files[1]), add_to_index(tmp_path / "index", files[1])]
    hits = [search_gallery(gallery, 5) for gallery in galleries]
    assert hits[0] == hits[1] == hits[2] and len(hits[0]) > 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_and_files_of_others_are_one_sentence(tmp_path, suffix):
    good = write(tmp_path / f"good{suffix}").read_bytes()
    bad = tmp_path / f"bad{suffix}"
    wrong = {
        b"",
        b"\0" * 100,
        b"path,identity\n1,2\n",
        good[: len(good) // 2],
        good[7:],
        write(tmp_path / "e").read_bytes(),
    }
    for content in wrong:
        bad.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"^cannot read .*bad\{suffix}, wanted a \{suffix} file of embeddings: .+"
        ):
            load_embeddings(bad)
    random = np.random.default_rng(0)
    for _ in range(150):
        content = bytearray(good)
        content[random.integers(len(good))] ^= 1 << random.integers(8)
        bad.write_bytes(content)
        try:
            load_embeddings(bad)
        except ValueError as error:
            assert str(bad) in str(error) and "Traceback" not in str(error)


def forged(path, changes):
    """A NumPy file with other arrays."""
    with np.load(write(path)) as file:
        arrays = dict(file)
    for name, array in changes.items():
        arrays.pop(name) if array is None else arrays.update({name: np.asarray(array)})
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embeddings": None}, "it has no array embeddings"),
        ({"facts": None}, "it has no array facts"),
        ({"camera": None}, "it has no column camera"),
        ({"embeddings": np.ones((4, 2))}, r"its embeddings are float64 \(4, 2\), wanted float32"),
        ({"embeddings": np.ones(4, "f4")}, r"its embeddings are float32 \(4,\), wanted float32"),
        ({"embeddings": np.ones((10**9, 0), "f4")}, r"its embeddings are float32 \(1000000000, 0\)"),
        ({"identity": ["a"]}, r"its array identity is \(1,\), wanted \(4,\)"),
        ({"facts": "[]"}, r"its facts are \[\], wanted an object of JSON"),
        ({"facts": "{"}, "Expecting property name"),
        ({"facts": ["{}"] * 4}, "can only convert an array of size 1|JSON|wanted"),
        ({"facts": np.array({}, dtype=object)}, "it holds pickled objects$"),
        ({"identity": np.array([1, "a", None, 2], dtype=object)}, "it holds pickled objects$"),
        ({"frames": ["two"] * 4}, "invalid literal"),
    ],
)
def test_forged_arrays_are_refused_and_never_unpickled(tmp_path, changes, said):
    forged(tmp_path / "e.npz", changes)
    with pytest.raises(ValueError, match=rf"cannot read .*e\.npz, wanted a \.npz file of embeddings: .*{said}"):
        load_embeddings(tmp_path / "e.npz")


def test_what_unpacks_to_any_size_is_refused(tmp_path):
    with np.load(write(tmp_path / "e.npz")) as file:
        np.savez_compressed(tmp_path / "small.npz", **file)
    with pytest.raises(ValueError, match="it is compressed, so it may unpack to any size"):
        load_embeddings(tmp_path / "small.npz")
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 1000), }"
    content = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(tmp_path / "e.npz", "a") as archive:
        archive.writestr("large.npy", content)
    with pytest.raises(ValueError, match=r"cannot read .*e\.npz"):
        load_embeddings(tmp_path / "e.npz")
    labels = [("a", "x")] * 20_000
    write(tmp_path / "large.parquet", labels, vectors=torch.zeros(20_000, 64))
    with pytest.raises(ValueError, match=r"large\.parquet, .* bytes unpack to 20000 vectors of 64 numbers"):
        load_embeddings(tmp_path / "large.parquet")


@pytest.mark.parametrize(
    "kind", [pyarrow.list_(pyarrow.float32()), pyarrow.list_(pyarrow.float64(), 4), pyarrow.string()]
)
def test_columns_of_another_type_are_refused(tmp_path, kind):
    table = pyarrow.parquet.read_table(write(tmp_path / "e.parquet"))
    values = ["x"] * 4 if kind == pyarrow.string() else [[0.0] * 4] * 4
    column = pyarrow.array(values, kind)
    pyarrow.parquet.write_table(table.set_column(table.num_columns - 1, "embedding", column), tmp_path / "e.parquet")
    with pytest.raises(ValueError, match=r"its column embedding is .*, wanted a fixed_size_list of float$"):
        load_embeddings(tmp_path / "e.parquet")


def rewritten(path, change):
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    change(lines)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda lines: lines[0].__setitem__(-1, "embedding_9"),
            "its first line does not name the columns facts, embedding_0",
        ),
        (lambda lines: lines[0].__setitem__(0, "file"), "it has no column path"),
        (lambda lines: lines[2].pop(), "line 3 has 8 fields, wanted 9"),
        (lambda lines: lines[2].__setitem__(-1, "x"), "could not convert string to float"),
        (lambda lines: lines[3].__setitem__(4, "{}"), "the facts of line 4 are not those of the lines before"),
        (lambda lines: lines[3].__setitem__(3, "2.0"), "invalid literal"),
    ],
)
def test_lines_that_do_not_fit_are_named(tmp_path, change, said):
    rewritten(write(tmp_path / "e.csv"), change)
    with pytest.raises(ValueError, match=rf"cannot read .*e\.csv, wanted a \.csv file of embeddings: {said}"):
        load_embeddings(tmp_path / "e.csv")


def test_identities_may_be_filled_in(tmp_path):
    rewritten(write(tmp_path / "e.csv", LABELS["unknown"]), lambda lines: lines[2].__setitem__(1, "ann"))
    assert [row["identity"] for row in load_embeddings(tmp_path / "e.csv").tracklets] == [None, "ann", None, None]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_label_that_may_be_junk_or_a_person_is_refused(tmp_path, suffix):
    """Tables that do not say which labels are integers."""
    for labels, bad in (([("-1", "x")], "identity -1"), ([("a", "3")], "camera 3"), ([("a", "x")], None)):
        path = write(tmp_path / f"e{suffix}", labels)
        if suffix == ".npz":
            with np.load(path) as file:
                arrays = {**file, "facts": np.array(json.dumps(FACTS))}
            np.savez(path, **arrays)
        elif suffix == ".csv":
            rewritten(path, lambda lines: lines[1].__setitem__(4, json.dumps(FACTS)))
        else:
            table = pyarrow.parquet.read_table(path)
            pyarrow.parquet.write_table(table.replace_schema_metadata({"facts": json.dumps(FACTS)}), path)
        if bad is None:
            assert load_embeddings(path).facts == FACTS
            continue
        with pytest.raises(
            ValueError, match=f"does not say whether {bad} is text or a number: embed its tracklets again"
        ):
            load_embeddings(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_a_table_cannot_hold_is_refused_before_it_is_written(tmp_path, suffix):
    path = tmp_path / f"e{suffix}"
    with pytest.raises(ValueError, match="identity 7 is text in one tracklet and a number in another"):
        write(path, [("7", 1), (7, 1)])
    with pytest.raises(ValueError, match="details of the tracklets hold 'embedding_3', which is a column"):
        write(path, [("7", 1, {"embedding_3": "x"})])
    if suffix == ".csv":
        with pytest.raises(ValueError, match="which has a carriage return: rename it"):
            write(path, [("a\rb", 1)])
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / "e", [("7", 1), (7, 1)])


def test_endings_that_are_neither_written_nor_read_name_the_known_ones(tmp_path):
    for name in ("e.npy", "e.PT", "e.json"):
        (tmp_path / name).write_bytes(write(tmp_path / "e").read_bytes())
        with pytest.raises(ValueError, match=rf"{name} ends in .*, wanted \.safetensors, \.parquet, \.npz, \.csv"):
            load_embeddings(tmp_path / name)
    write(tmp_path / "e.csv").rename(tmp_path / "e.table")
    with pytest.raises(
        ValueError, match=r"e\.table, wanted a safetensors file .* \(or \.parquet, \.npz, \.csv with that"
    ):
        load_embeddings(tmp_path / "e.table")


def test_parquet_without_pyarrow_names_what_to_install(tmp_path, monkeypatch):
    write(tmp_path / "e.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "strfnet\[parquet\]"'):
        load_embeddings(tmp_path / "e.parquet")
