"""The benchmark of streaming, run small: embeddings must agree; speed is not judged."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(folder, *arguments):
    command = [sys.executable, folder / "streaming.py", "--quick", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_all_embeddings_agree(tmp_path):
    done = run(BENCHMARKS, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reached  embeddings agree" in done.stdout and "MISSED" not in done.stdout
    rows = {(row["network"], row["more"]): row for row in json.loads((tmp_path / "figures.json").read_text())["rows"]}
    assert rows["c2d_resnet8", 1]["macs"] == 1 / 8  # one frame of eight
    assert 1 / 8 < rows["p3dc_resnet8", 1]["macs"] < rows["p3dc_resnet8", 4]["macs"] < 1
    ways = {"stream", "anew", "deployed stream", "deployed anew"}
    assert all(row["seconds"].keys() == ways and min(row["seconds"].values()) > 0 for row in rows.values())


def test_embeddings_that_differ_make_the_run_fail(tmp_path):
    text = (BENCHMARKS / "streaming.py").read_text()
    right, wrong = "stream.push(clip[:, :, :-more])", "stream.push(clip[:, :, more:])"
    assert right in text
    (tmp_path / "streaming.py").write_text(text.replace(right, wrong))
    shutil.copy(BENCHMARKS / "interleaved.py", tmp_path)
    done = run(tmp_path)
    assert done.returncode == 1 and "MISSED" in done.stdout
