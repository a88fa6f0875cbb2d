"""The benchmark of MARS at its full size, on a small tree, and its verdict."""

import json

import pytest

from strfnet.data.readers.mars import read_mars


@pytest.fixture
def benchmark(load, monkeypatch):
    mars = load("mars")
    small = {"PARTS": {"train": (3, 1, 7, 18), "test": (4, 2, 13, 40)}, "JUNK": 2, "DISTRACTORS": 3, "LINKS": 8}
    for name, value in {**small, "QUERIES": 5, "QUERIED": 3}.items():
        monkeypatch.setattr(mars, name, value)
    return mars


def test_the_tree_has_the_counts_and_its_frames_are_links(benchmark, tmp_path):
    data = read_mars(benchmark.write_tree(tmp_path / "MARS"), complete=False)
    owners = [item.identity for item in data.test]
    assert [sum(len(item.frames) for item in part) for part in (data.train, data.test)] == [18, 40]
    assert (len(data.train), len(data.test), owners.count(-1), owners.count(0)) == (7, 18, 2, 3)
    assert len({item.identity for item in data.train}) == 3 and len({*owners} - {-1, 0}) == 4
    assert len(data.query) == 5 and len({owners[row] for row in data.query}) == 3
    assert len(list((tmp_path / "MARS/files").iterdir())) == 8  # 58 links, 8 to each
    fewer = read_mars(benchmark.write_tree(tmp_path / "fewer", share=50), complete=False)
    assert sum(len(item.frames) for item in fewer.test) == len(fewer.test) == 18


def test_all_protocols_of_mars_are_timed(benchmark, run, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "measured", benchmark.run_task)
    status, shown = run("mars", "--quick", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["evaluation"]["protocols"]) == {"mars", "nvan", "ap3d", "torchreid", "cfaan"}
    assert figures["reading"]["frames"] == 25 and all(name in shown for name in figures["evaluation"]["protocols"])
    assert status == 1 and "25 tracklets (goal: 20478)  <- missed" in shown


@pytest.mark.parametrize("missed", [None, "slow", "large", "late"])
def test_a_missed_goal_is_marked_and_fails_the_run(benchmark, run, monkeypatch, missed):
    rows = {
        "read": {"wall_s": 21.0 if missed == "slow" else 19.0, "above_mib": 401.0 if missed == "large" else 399.0}
        | {"cpu_s": 1.0, "tracklets": 20_478, "frames": 1, "queries": 1},
        "evaluate": {"wall_s": 11.0 if missed == "late" else 9.0, "cpu_s": 1.0, "protocols": {}},
    }
    monkeypatch.setattr(benchmark, "write_tree", lambda root, _: root)
    monkeypatch.setattr(benchmark, "measured", lambda task, *_: rows[task])
    status, shown = run("mars")
    assert status == shown.count("<- missed") == (missed is not None)
