"""The benchmark of search on few vectors: distances agree with faiss'; speed is not judged."""

import json

import pytest

pytest.importorskip("faiss")


@pytest.fixture
def search(load, monkeypatch):
    """The benchmark, whose tasks run in this process: a fresh one takes seconds to begin."""
    search = load("search")

    def here(task, *words):
        search.run_task(task, list(map(str, words)))
        return {"peak_mib": 1.0, "wall_s": 1.0}

    monkeypatch.setattr(search, "peak_of", here)
    return search


def test_distances_agree_and_all_metrics_are_written(search, run, tmp_path):
    status, shown = run("search", "--quick", "--json", tmp_path / "figures.json")
    assert status == 0 and "missed" not in shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert len(figures["memory"]) == 4 and figures["times"].keys() == {"1", "100"}
    assert all(row["ratio"] > 0 and row["difference"] <= 1e-5 for row in figures["times"].values())


def test_other_distances_and_too_much_memory_fail_the_run(search, run, monkeypatch):
    monkeypatch.setattr(search, "MEMORY_GOAL", 0.5)
    monkeypatch.setattr(search, "normalize", lambda vectors: 2 * vectors)  # faiss does not normalise queries
    status, shown = run("search", "--quick")
    assert status == 1 and shown.count("<- missed") == 2
