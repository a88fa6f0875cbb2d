"""Files of embeddings: what they hold, and which may be mixed."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from strfnet.data import DataSet, Tracklet
from strfnet.evaluation import unit_length
from strfnet.inference import Embedder, load_embeddings, save_embeddings
from strfnet.models import Preprocessing

CLIPS = ("evenly", 2)


class Mean(nn.Module):
    """The mean colour of a clip, times a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0, 2.0, 1.0]))

    def forward(self, clip):
        return clip.mean(dim=(2, 3, 4)) * self.weight


def tracklets(count=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 2, 4, 2, 3), dtype=np.uint8)
    return tuple(
        Tracklet(tuple(clip), "ab"[row % 2], row // 2, {"track": f"{row}"}) for row, clip in enumerate(images)
    )


@pytest.fixture
def embedder():
    return Embedder(Mean(), "mean", Preprocessing(4, 2), workers=0)


def test_a_file_says_how_its_vectors_were_computed(tmp_path, embedder):
    embedder.embed_into(tmp_path / "e", tracklets(), CLIPS)
    vectors, rows, facts = load_embeddings(tmp_path / "e")
    expected = embedder.embed(tracklets(), CLIPS)
    torch.testing.assert_close(vectors, expected / expected.norm(dim=1, keepdim=True))
    assert rows[1] == {
        "identity": "b", "camera": 0, "frames": 2, "path": "track 1 of camera 0", "details": {"track": "1"},
    }  # fmt: skip
    assert facts | {"weights": "", "version": ""} == {
        "network": "mean", "weights": "", "clips": "evenly:2", "size": [4, 2], "interpolation": "bilinear",
        "metric": "cosine", "precision": "float32", "version": "",
    }  # fmt: skip
    assert len(facts["weights"]) == 64 and facts["version"]


def test_euclidean_vectors_keep_their_length(tmp_path, embedder):
    embedder.embed_into(tmp_path / "e", tracklets(), CLIPS, metric="euclidean")
    vectors, _, facts = load_embeddings(tmp_path / "e")
    assert torch.equal(vectors, embedder.embed(tracklets(), CLIPS)) and facts["metric"] == "euclidean"
    with pytest.raises(ValueError, match="metric must be one of cosine, euclidean, got 'cos'"):
        embedder.embed_into(tmp_path / "f", tracklets(), CLIPS, metric="cos")


def test_vectors_of_length_1_stay_as_they_are_and_others_are_scaled():
    torch.manual_seed(0)
    vectors = torch.randn(3000, 40) * torch.logspace(-30, 30, 3000)[:, None]
    vectors[7] = 0
    unit = unit_length(vectors)
    rest = torch.arange(3000) != 7
    torch.testing.assert_close(unit[rest].double().norm(dim=1), torch.ones(2999).double(), rtol=0, atol=1e-7)
    assert torch.equal(unit_length(unit), unit) and not unit[7].any()
    once = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit[rest], once[rest].float(), rtol=1e-6, atol=0)
    with torch.no_grad():
        assert not torch.equal((unit / unit.norm(dim=1, keepdim=True))[rest], unit[rest])  # what a plain rule does


def test_files_of_one_network_are_mixed(tmp_path, embedder):
    embedder.embed_into(tmp_path / "one", tracklets()[:1], CLIPS)
    replace(embedder, batch=1).embed_into(tmp_path / "two", tracklets()[1:], CLIPS)
    embedder.embed_into(tmp_path / "all", tracklets(), CLIPS)
    mixed, whole = load_embeddings(tmp_path / "one", tmp_path / "two"), load_embeddings(tmp_path / "all")
    assert torch.equal(mixed.vectors, whole.vectors) and mixed[1:] == whole[1:]


@pytest.mark.parametrize(
    ("changes", "clips", "metric", "said"),
    [
        ({"name": "other"}, CLIPS, "cosine", "network mean in .*one, other in .*two"),
        ({"network": "doubled"}, CLIPS, "cosine", "weights [0-9a-f]{64} in .*one, [0-9a-f]{64} in .*two"),
        ({"preprocessing": Preprocessing(8, 2)}, CLIPS, "cosine", r"size \[4, 2\] in .*one, \[8, 2\] in .*two"),
        ({"preprocessing": Preprocessing(4, 2, "bicubic")}, CLIPS, "cosine", "interpolation bilinear in"),
        ({}, ("evenly", 1), "cosine", "clips evenly:2 in .*one, evenly:1 in .*two"),
        ({}, CLIPS, "euclidean", "metric cosine in .*one, euclidean in .*two"),
    ],
)
def test_files_that_cannot_be_compared_are_refused(tmp_path, embedder, changes, clips, metric, said):
    embedder.embed_into(tmp_path / "one", tracklets(), CLIPS)
    if "network" in changes:
        changes["network"] = Mean()
        changes["network"].weight.data *= 2
    replace(embedder, **changes).embed_into(tmp_path / "two", tracklets(), clips, metric=metric)
    with pytest.raises(ValueError, match=f"embeddings that cannot be compared: {said}"):
        load_embeddings(tmp_path / "one", tmp_path / "two")


def test_a_file_without_facts_is_read_alone(tmp_path, embedder):
    save_embeddings(tmp_path / "old", torch.ones(4, 3), tracklets())
    embedder.embed_into(tmp_path / "new", tracklets(), CLIPS)
    vectors, rows, facts = load_embeddings(tmp_path / "old")
    assert facts == {} and vectors.tolist() == [[1.0] * 3] * 4 and len(rows) == 4
    for files in (("old", "new"), ("new", "old")):
        with pytest.raises(ValueError, match=r"old does not hold its network, weights, .* embed its tracklets again"):
            load_embeddings(*(tmp_path / name for name in files))


def test_the_test_set_of_a_file_is_that_of_its_data(tmp_path, embedder):
    test = tracklets()
    for data in (
        DataSet("own", (), test, (0, 1, 2, 3), (0, 1, 2, 3)),  # the queries of the rule
        DataSet("part (MARS layout)", (), test, (1,), (2, 3), "MARS", splits=10),
    ):
        embedder.embed_into(tmp_path / "e", test, CLIPS, data_set=data)
        loaded = load_embeddings(tmp_path / "e")
        found = loaded.test_set()
        for name in ("name", "layout", "query", "gallery", "splits"):
            assert getattr(found, name) == getattr(data, name)
        labels = [(t.identity, t.camera, t.details, len(t.frames)) for t in test]
        assert [(t.identity, t.camera, t.details, len(t.frames)) for t in found.test] == labels
    assert ("query" in loaded.facts) and found.test[0].where == "track 0 of camera 0"
    embedder.embed_into(tmp_path / "f", test, CLIPS)
    with pytest.raises(ValueError, match=r"e lists the queries of part \(MARS layout\): load it alone"):
        load_embeddings(tmp_path / "e", tmp_path / "f")


def test_files_that_are_no_embeddings_are_named(tmp_path, embedder):
    good = {"identity": "a", "camera": None, "frames": 2, "path": "1.jpg"}
    with pytest.raises(ValueError, match="no file of embeddings, wanted at least one"):
        load_embeddings()
    with pytest.raises(ValueError, match="none is missing, wanted a file of embeddings"):
        load_embeddings(tmp_path / "none")
    embedder.embed_into(tmp_path / "e", tracklets(), CLIPS)
    with pytest.raises(ValueError, match="wanted each file once"):
        load_embeddings(tmp_path / "e", f"{tmp_path}/./e")
    (tmp_path / "cut").write_bytes((tmp_path / "e").read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"cannot read .*cut, wanted a safetensors file"):
        load_embeddings(tmp_path / "cut")
    torch.save(torch.ones(2, 2), tmp_path / "pickle")
    with pytest.raises(ValueError, match=r"cannot read .*pickle, wanted a safetensors file"):
        load_embeddings(tmp_path / "pickle")
    save_file({"weight": torch.ones(2, 2)}, tmp_path / "weights")
    with pytest.raises(ValueError, match="weights holds weight, wanted embeddings of tracklets"):
        load_embeddings(tmp_path / "weights")
    save_file({"embeddings": torch.ones(2, 2)}, tmp_path / "short", {"tracklets": json.dumps([good])})
    with pytest.raises(ValueError, match=r"short holds embeddings \(2, 2\) and 1 tracklets"):
        load_embeddings(tmp_path / "short")
    for change in ({"frames": 0}, {"frames": "2"}, {"path": 3}, {"identity": ["a"]}, {"details": {"track": 1}}):
        for listed in ([good, good | change], [1, 2], 3):
            save_file({"embeddings": torch.ones(2, 2)}, tmp_path / "bad", {"tracklets": json.dumps(listed)})
            with pytest.raises(ValueError, match=r"the list of tracklets in .*bad is damaged"):
                load_embeddings(Path(tmp_path / "bad"))


def test_other_tools_read_the_same_rows(tmp_path, embedder, monkeypatch):
    import csv

    import pyarrow.parquet

    test = (*tracklets(), Tracklet(tracklets(5)[4].frames, None, None, {"time": 'a "b",ü\n'}))
    embedder.embed_into(tmp_path / "e", test, CLIPS)
    vectors, _, facts = load_embeddings(tmp_path / "e")
    monkeypatch.setattr("strfnet.inference.shards.SIZE", 2)
    for suffix in ("npz", "csv", "CSV", "parquet"):
        embedder.embed_into(tmp_path / f"e.{suffix}", test, CLIPS)
        save_embeddings(tmp_path / f"again.{suffix}", embedder.embed(test, CLIPS), test, embedder.facts(CLIPS))
        if suffix != "parquet":  # its groups of rows are the shards
            assert (tmp_path / f"e.{suffix}").read_bytes() == (tmp_path / f"again.{suffix}").read_bytes()
    expected = {
        "path": [item.where for item in test],
        "identity": ["a", "b", "a", "b", None],
        "camera": ["0", "0", "1", "1", None],
        "frames": [2] * 5,
        "track": ["0", "1", "2", "3", None],
        "time": [None] * 4 + ['a "b",ü\n'],
    }
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    found = table.to_pydict()
    assert torch.equal(torch.tensor(found.pop("embedding")), vectors) and found == expected
    said = facts | {"integers": {"camera": True}}
    assert json.loads(table.schema.metadata[b"facts"]) == said
    blank = {name: ["" if value is None else value for value in values] for name, values in expected.items()}
    with np.load(tmp_path / "e.npz", allow_pickle=False) as file:
        arrays = {name: file[name].tolist() for name in file}
    assert torch.equal(torch.tensor(arrays.pop("embeddings")), vectors)
    assert json.loads(arrays.pop("facts")) == said and arrays == blank
    assert (tmp_path / "e.CSV").read_bytes() == (tmp_path / "e.csv").read_bytes()
    with (tmp_path / "e.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    numbers = [[float(row[f"embedding_{at}"]) for at in range(3)] for row in rows]
    assert torch.equal(torch.tensor(numbers), vectors) and {json.dumps(said)} == {row["facts"] for row in rows}
    assert {name: [row[name] for row in rows] for name in blank} == blank | {"frames": ["2"] * 5}


def test_files_for_other_tools_that_cannot_be_written_are_refused_before_embedding(tmp_path, embedder, monkeypatch):
    monkeypatch.setattr("strfnet.inference.embedder.embed_each", None)
    with pytest.raises(ValueError, match=r"e\.npy ends in \.npy, wanted \.safetensors, \.parquet, \.npz, \.csv"):
        embedder.embed_into(tmp_path / "e.npy", tracklets(), CLIPS)
    with pytest.raises(ValueError, match=r"e\.PT ends in \.PT"):
        save_embeddings(tmp_path / "e.PT", torch.ones(4, 3), tracklets())
    clash = [Tracklet(tracklets()[0].frames, "a", None, {"frames": "7"})]
    with pytest.raises(ValueError, match="details of the tracklets hold 'frames', which is a column"):
        embedder.embed_into(tmp_path / "e.csv", clash, CLIPS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'pip install "strfnet\[parquet\]"'):
        embedder.embed_into(tmp_path / "e.parquet", tracklets(), CLIPS)
    assert list(tmp_path.iterdir()) == []
