"""`strfnet evaluate --embeddings` prints what `strfnet evaluate` prints of the same tracklets."""

import json
import shutil

import pytest
from data_trees import write_mars_tree, write_rows

from strfnet.cli import main
from strfnet.data.synthetic import write_walkers

NETWORK = ("--model", "c2d_resnet8", "--height", "32", "--width", "16", "--seed", "3", "--workers", "0")
CLIPS = ("--clips", "evenly:2")


def run(*words, code=0):
    assert main([str(word) for word in words]) == code


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "walkers"
    write_walkers(root, identities=4, cameras=2, tracklets=2, frames=3, height=32)
    return root


def evaluated(capsys, tmp_path, *words, code=0):
    """The table and the metrics."""
    capsys.readouterr()
    run("evaluate", *words, "--device", "cpu", "--out", tmp_path / "metrics.json", code=code)
    out, err = capsys.readouterr()
    return (out, json.loads((tmp_path / "metrics.json").read_text()), err) if code == 0 else err


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_file_of_a_folder_is_evaluated_as_the_folder(walkers, tmp_path, capsys, metric):
    data = ["--data", walkers]
    table, metrics, _ = evaluated(capsys, tmp_path, *data, *NETWORK, *CLIPS)
    run("embed", *data, *NETWORK, *CLIPS, "--device", "cpu", "--metric", metric, "--out", tmp_path / "e")
    again, found, err = evaluated(capsys, tmp_path, "--embeddings", tmp_path / "e")
    assert "walkers: test: 4 identities, 2 cameras, 16 tracklets, 48 frames; 8 queries, 8 with a match" in err
    assert found == metrics and len(metrics) == 1 and 0 < found[0]["mean_average_precision"] < 1
    assert again.splitlines()[1].split() == table.splitlines()[1].split()
    words = ["--embeddings", tmp_path / "e", "--protocol", "torchreid"]
    if metric == "cosine":
        assert "embed with --metric euclidean" in evaluated(capsys, tmp_path, *words, code=1)
    else:
        expected = evaluated(capsys, tmp_path, *data, *NETWORK, *CLIPS, "--protocol", "torchreid")[1]
        assert evaluated(capsys, tmp_path, *words)[1] == expected


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_file_of_mars_keeps_its_queries_and_protocols(tmp_path, capsys, metric):
    data = ["--data", write_mars_tree(tmp_path / "mars"), "--format", "mars", "--complete", "false"]
    _, metrics, _ = evaluated(capsys, tmp_path, *data, *NETWORK, *CLIPS)
    run("embed", *data, *NETWORK, *CLIPS, "--device", "cpu", "--metric", metric, "--out", tmp_path / "e")
    shutil.rmtree(tmp_path / "mars")
    _, found, err = evaluated(capsys, tmp_path, "--embeddings", tmp_path / "e")
    assert ("torchreid compares Euclidean distances" in err) == (metric == "cosine")
    kept = [each for each in metrics if metric == "euclidean" or each["protocol"]["distance"] == "cosine"]
    assert found == kept and len(metrics) == 5


@pytest.mark.parametrize("suffix", [".parquet", ".npz", ".csv"])
def test_a_table_of_mars_keeps_junk_queries_and_protocols(tmp_path, capsys, suffix):
    data = ["--data", write_mars_tree(tmp_path / "mars"), "--format", "mars", "--complete", "false"]
    for file in ("e", f"e{suffix}"):
        run("embed", *data, *NETWORK, *CLIPS, "--device", "cpu", "--out", tmp_path / file)
    expected, found = (evaluated(capsys, tmp_path, "--embeddings", tmp_path / file) for file in ("e", f"e{suffix}"))
    assert found[:2] == expected[:2]
    summaries = [err.splitlines()[0] for _, _, err in (expected, found)]
    assert summaries[0] == summaries[1] and "2 tracklets of junk, 1 tracklets of distractors" in summaries[0]


def test_labels_may_be_given_after_embedding_and_files_may_be_several(walkers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = sorted({path.parent for path in walkers.rglob("*.jpg")})
    for camera in ("camera1", "camera2"):
        rows = [(folder, "", camera) for folder in folders if folder.parent.name == camera]
        write_rows(f"{camera}.csv", [("path", "identity", "camera"), *rows])
        run(
            "embed",
            "--data",
            f"{camera}.csv",
            "--format",
            "csv",
            *NETWORK,
            *CLIPS,
            "--device",
            "cpu",
            "--out",
            camera,
        )
    files = ["--embeddings", "camera1", "camera2"]
    said = evaluated(capsys, tmp_path, *files, code=1)
    assert "16 of 16 tracklets have no identity" in said and "an evaluation needs all" in said
    rows = [(folder, folder.parent.parent.name, folder.parent.name, "test") for folder in folders]
    write_rows("labelled.csv", [("path", "identity", "camera", "subset"), *rows])
    labels = ["--data", "labelled.csv", "--format", "csv"]
    metrics = evaluated(capsys, tmp_path, *labels, *NETWORK, *CLIPS)[1]
    assert evaluated(capsys, tmp_path, *files, *labels)[1] == metrics
    said = evaluated(capsys, tmp_path, "--embeddings", "camera1", *labels, code=1)
    assert "8 of 16 tracklets have no embedding, the first is" in said and "camera2" in said
    said = evaluated(capsys, tmp_path, *labels[:1], "camera1.csv", *labels[2:], *NETWORK, code=1)
    assert "8 of 8 tracklets have no identity" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--embeddings", "e", "--model", "walkers"], "got embeddings and a network, wanted one of the two"),
        (["--embeddings", "e", "--clips", "evenly:2"], "got embeddings and clips, wanted one of the two"),
        ([], "trained is None and model is None, wanted one of the two"),
    ],
)
def test_a_call_names_a_network_or_files(words, said, capsys):
    run("evaluate", *words, code=2)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("subset", ["train", "test"])
def test_a_data_set_is_embedded_by_subset(walkers, tmp_path, capsys, subset):
    shutil.copytree(walkers / "walker1", tmp_path / "own/train/walker1")
    shutil.copytree(walkers / "walker2", tmp_path / "own/test/walker2")
    words = ["embed", "--data", tmp_path / "own", *NETWORK, *CLIPS, "--device", "cpu", "--out", tmp_path / "e"]
    run(*words, code=1)
    assert "parts of a data set, or people of these names" in capsys.readouterr().err
    run(*words, "--subset", subset)
    said = capsys.readouterr()
    assert "4 embeddings of" in said.out and "1 identities, 2 cameras, 4 tracklets, 12 frames" in said.err


def test_training_refuses_tracklets_without_identity(walkers, tmp_path, capsys):
    (tmp_path / "own").mkdir()
    shutil.copytree(walkers / "walker1/camera1/tracklet1", tmp_path / "own/a")
    write_rows(tmp_path / "own/t.csv", [("path", "identity"), ("a", "")])
    words = ["--data", tmp_path / "own/t.csv", "--format", "csv", "--out", tmp_path / "run"]
    run("train", "--model", "c2d_resnet8", "--device", "cpu", *words, code=1)
    assert "1 of 1 tracklets have no identity" in capsys.readouterr().err and not (tmp_path / "run").exists()
