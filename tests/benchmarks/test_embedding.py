"""The benchmark of `strfnet embed`: its rows on few tracklets, and its verdict."""

import json
import sys
from pathlib import Path

import pytest
from safetensors import safe_open


@pytest.fixture
def benchmark(load):
    return load("embedding")


@pytest.mark.slow
def test_the_measured_command_embeds_the_synthetic_tracklets(benchmark, tmp_path):
    data = benchmark.draw(tmp_path / "data", 1030)
    assert len(list(data.rglob("*.jpg"))) == 2060
    killed, wall, cpu, peak = benchmark.run(benchmark.command(data, tmp_path / "out"))
    with safe_open(tmp_path / "out", "pt") as file:
        vectors = file.get_tensor("embeddings")
        rows = json.loads(file.metadata()["tracklets"])
    row_of = {int(Path(row["path"]).parent.name): at for at, row in enumerate(rows)}
    assert not killed and wall > 0 < cpu and peak > 100 and vectors.shape == (1030, 64)
    first, links, others = (vectors[[row_of[n] for n in range(at, at + 30)]] for at in (0, 1000, 1))
    # Other clips share their batches, so embeddings agree up to rounding.
    assert (links - first).abs().max() < 1e-5 < (links - others).abs().max()
    with pytest.raises(RuntimeError, match="ended with 1, wanted 0 or a kill"):
        benchmark.run([sys.executable, "-c", "raise SystemExit(1)"])


def test_shares_are_of_wall_time(benchmark, tmp_path):
    rows = benchmark.throughput(benchmark.draw(tmp_path / "data", 40), 1)
    assert set(rows) == {"0 workers", "2 workers", "network alone"}
    alone = rows["network alone"]["wall_s"]
    for row in rows.values():
        assert row["tracklets_per_s"] == pytest.approx(40 / row["wall_s"])
        assert row["share_of_network"] == pytest.approx(alone / row["wall_s"])


def test_embed_is_timed_beside_its_parts(benchmark, tmp_path):
    row = benchmark.pipeline(tmp_path / "frames", "resnet8", 4, 1, size=(32, 16))
    assert row["frames"] == 32 and row["ratio"] == row["embed"] / max(row["network"], row["decoding"]) > 0


def test_processes_are_compared_on_the_tracklets_beyond_the_fewer(benchmark, tmp_path, monkeypatch):
    def run(words):
        processes, data, out = (
            1 + ("torch.distributed.run" in words),
            words[words.index("--data") + 1],
            tmp_path / "o",
        )
        count = int(data.rpartition("shared")[2])
        Path(words[words.index("--out") + 1]).write_text(str(count))
        assert words[-2:] == ["--workers", "0"] and ("--nproc-per-node" in words) == (processes == 2)
        return False, 5.0 * processes + count / processes, 0.0, out

    monkeypatch.setattr(benchmark, "run", run)
    assert benchmark.sharing(tmp_path, (4, 24), 1) == {"1 process": 20.0, "2 processes": 10.0, "same": True}
    monkeypatch.setattr(
        benchmark, "run", lambda words: (Path(words[words.index("--out") + 1]).write_text(str(words)), 1)[:2]
    )
    assert not benchmark.sharing(tmp_path / "other", (4, 24), 1)["same"]


@pytest.mark.parametrize("missed", [None, "slow", "large", "other", "spared", "unshared", "pipeline"])
def test_a_missed_goal_is_marked_and_fails_the_run(benchmark, run, tmp_path, monkeypatch, missed):
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
    shared = {"1 process": 4.0, "2 processes": 2.5 if missed == "unshared" else 2.1, "same": True}
    monkeypatch.setattr(benchmark, "sharing", lambda *_: shared)
    ratio = 1.2 if missed == "pipeline" else 1.05
    piped = {"frames": 8.0, "embed": ratio, "network": 1.0, "decoding": 0.5, "ratio": ratio}
    monkeypatch.setattr(benchmark, "pipeline", lambda *_: piped)
    monkeypatch.setattr(benchmark, "DEPTHS", {"resnet8": 64})
    status, shown = run("embedding", "--json", tmp_path / "figures.json")
    assert status == shown.count("<- missed") == (0 if missed is None else 1)
    assert json.loads((tmp_path / "figures.json").read_text())["reached"] == (missed is None)
