"""The benchmark of a pool of tracks on a small network: embeddings agree; speed is not judged."""

import json

import pytest


def test_embeddings_of_a_pool_and_of_one_stream_a_track_agree(load):
    row = load("stream_pool").measured("p3dc_resnet8", (32, 16), frames=None, boxes=1, tracks=2, rounds=1)
    assert row.apart <= 1e-5
    ways = {"streams", "pool", "deployed streams", "deployed pool"}
    assert row.second.keys() == ways and min(row.second.values()) > 0


@pytest.mark.slow
def test_all_rows_agree_and_embeddings_that_differ_fail_the_run(load, run, monkeypatch, tmp_path):
    status, shown = run("stream_pool", "--quick", "--json", tmp_path / "figures.json")
    assert status == 0 and "reached  embeddings agree" in shown and "MISSED" not in shown
    assert len(json.loads((tmp_path / "figures.json").read_text())["rows"]) == 3
    monkeypatch.setattr(load("stream_pool").Streams, "push", lambda *_: None)
    monkeypatch.setattr(load("stream_pool").Streams, "embeddings", lambda self: load("torch").zeros(6, 64))
    status, shown = run("stream_pool", "--quick")
    assert status == 1 and "MISSED" in shown
