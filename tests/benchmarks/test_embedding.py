"""The benchmark of `strfnet embed`: its parts at work on few tracklets, and its verdict."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "embedding.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("embedding_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_drawn_tracklets_are_embedded_by_the_command_that_is_measured(benchmark, tmp_path):
    data = benchmark.draw(tmp_path / "data", 1030)
    assert len(list(data.rglob("*.jpg"))) == 2060
    killed, wall, cpu, peak = benchmark.run(benchmark.command(data, tmp_path / "out"))
    with safe_open(tmp_path / "out", "pt") as file:
        vectors = file.get_tensor("embeddings")
        rows = json.loads(file.metadata()["tracklets"])
    row_of = {int(Path(row["path"]).parent.name): at for at, row in enumerate(rows)}
    assert not killed and wall > 0 < cpu and peak > 100 and vectors.shape == (1030, 64)
    first, links, others = (vectors[[row_of[n] for n in range(at, at + 30)]] for at in (0, 1000, 1))
    # They share their batches with other clips, so they agree up to rounding.
    assert (links - first).abs().max() < 1e-5 < (links - others).abs().max()
    with pytest.raises(RuntimeError, match="ended with 1, wanted 0 or a kill"):
        benchmark.run(benchmark.command(tmp_path / "nowhere", tmp_path / "out"))


def test_shares_are_of_the_wall_time(benchmark, tmp_path):
    told = benchmark.throughput(benchmark.draw(tmp_path / "data", 40), 1)
    assert set(told) == {"0 workers", "2 workers", "network alone"}
    alone = told["network alone"]["wall_s"]
    for row in told.values():
        assert row["tracklets_per_s"] == pytest.approx(40 / row["wall_s"])
        assert row["share_of_network"] == pytest.approx(alone / row["wall_s"])


@pytest.mark.parametrize("missed", [None, "slow", "large", "other", "spared"])
def test_a_missed_goal_is_told_and_makes_it_fail(benchmark, tmp_path, monkeypatch, capsys, missed):
    names = {"0 workers": 1.0, "2 workers": 1.2 if missed == "slow" else 0.9, "network alone": 0.5}
    speed = {
        name: {"tracklets_per_s": 1.0, "wall_s": wall, "cpu_s": 1.0, "share_of_network": 0.5 / wall}
        for name, wall in names.items()
    }
    peaks = {1000: 300.0, 3000: 311.0 if missed == "large" else 304.0}
    found = {count: {"wall_s": 1.0, "cpu_s": 1.0, "peak_mib": peak} for count, peak in peaks.items()}
    monkeypatch.setattr(benchmark, "draw", lambda *_: None)
    monkeypatch.setattr(benchmark, "throughput", lambda *_: speed)
    monkeypatch.setattr(benchmark, "memory", lambda *_: found)
    killed = {"kills": 0 if missed == "spared" else 3, "runs": 2, "same": 1 if missed == "other" else 2}
    monkeypatch.setattr(benchmark, "kills", lambda *_: killed)
    monkeypatch.setattr(sys, "argv", ["embedding.py", "--quick", "--json", str(tmp_path / "figures.json")])
    assert benchmark.main() == (0 if missed is None else 1)
    assert capsys.readouterr().out.count("<- missed") == (0 if missed is None else 1)
    assert json.loads((tmp_path / "figures.json").read_text())["reached"] == (missed is None)
