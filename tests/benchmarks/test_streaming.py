"""The benchmark of streaming on a small network: embeddings agree; speed is not judged."""

import json

import pytest


@pytest.fixture
def short(load, monkeypatch):
    """The benchmark with a list of two rows; ``test_all_rows_agree`` runs them all."""
    streaming = load("streaming")
    every = streaming.rows

    def rows(depth, size, lengths, rounds):
        for name in ("c2d", "p3dc"):
            network = streaming.strfnet.create_model(f"{name}_{depth}", num_classes=None)
            yield streaming.measured(f"{name}_{depth}", network, 6, 2, size, rounds)

    monkeypatch.setattr(streaming, "rows", rows)
    return streaming, every


def test_embeddings_of_stream_and_clip_agree_and_the_stream_does_less_work(short, run, tmp_path):
    status, shown = run("streaming", "--quick", "--json", tmp_path / "figures.json")
    assert status == 0 and "reached  embeddings agree" in shown and "MISSED" not in shown
    plain, temporal = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert plain["macs"] == 2 / 6 < temporal["macs"] < 1  # two new frames of six
    ways = {"stream", "anew", "deployed stream", "deployed anew"}
    assert all(row["seconds"].keys() == ways and min(row["seconds"].values()) > 0 for row in (plain, temporal))


def test_embeddings_that_differ_fail_the_run(short, run, monkeypatch):
    def begun_with_the_last_frames(stream, clip, more):
        stream.push(clip[:, :, more:])
        return stream

    monkeypatch.setattr(short[0], "begun", begun_with_the_last_frames)
    status, shown = run("streaming", "--quick")
    assert status == 1 and "MISSED" in shown


@pytest.mark.slow
def test_all_rows_agree(short, run, monkeypatch, tmp_path):
    streaming, every = short
    monkeypatch.setattr(streaming, "rows", every)
    status, _ = run("streaming", "--quick", "--json", tmp_path / "figures.json")
    rows = {(row["network"], row["more"]): row for row in json.loads((tmp_path / "figures.json").read_text())["rows"]}
    assert status == 0
    assert rows["c2d_resnet8", 1]["macs"] == 1 / 8  # one frame of eight
    assert 1 / 8 < rows["p3dc_resnet8", 1]["macs"] < rows["p3dc_resnet8", 4]["macs"] < 1
