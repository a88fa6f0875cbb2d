import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import safe_open

ROOT = Path(__file__).parents[1]


def rank_tracklets(tmp_path, *arguments):
    command = [sys.executable, ROOT / "examples" / "rank_tracklets.py", *arguments]
    # No weights are at hand here, whatever this machine has.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TORCH_HOME": str(tmp_path / "torch")}
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)


def test_rank_tracklets_ranks_drawn_walkers_and_says_what_it_costs(tmp_path):
    small = ["--size", "64", "32", "--frames", "2"]
    done = rank_tracklets(tmp_path, *small)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "12 tracklets of 6 identities in demo/walkers" in lines
    assert "random weights" in done.stdout and "never been trained" in done.stdout

    queries = [line for line in lines if line.startswith("query ")]
    assert queries == [f"query walker{i}  camera1" for i in range(1, 7)]
    for number, query in enumerate(queries, start=1):
        at = lines.index(query)
        ranked = [line.split() for line in lines[at + 1 : at + 7]]
        assert [row[0] for row in ranked] == list("123456")
        assert [row[2] for row in ranked] == sorted(row[2] for row in ranked)
        assert sorted(row[3] for row in ranked) == [f"walker{i}" for i in range(1, 7)]
        assert {row[4] for row in ranked} == {"camera2"}
        assert all((row[1] == "right") == (row[3] == f"walker{number}") for row in ranked)

    starts = ("ResNet-50, each frame", "STRF on P3D-C", "difference")
    before, after, difference = (next(line for line in lines if line.startswith(start)) for start in starts)
    figures = [int(line[24:36].replace(",", "")) for line in (before, after, difference)]
    assert figures == [23_508_032, 23_508_032 + figures[2], 688_128 + 51_368]  # P3D-C's, and STRF's own
    with safe_open(tmp_path / "demo/embeddings.safetensors", "pt") as file:
        assert file.get_tensor("embeddings").shape == (12, 2048)


def test_rank_tracklets_tells_a_missing_folder_in_one_line(tmp_path):
    done = rank_tracklets(tmp_path, "--data", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere is missing") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("example", "last_line"),
    [
        ("one_layer.py", "non-local block: (2, 256, 8, 16, 8) attention: (2, 4, 32, 32)"),
        ("inflate_resnet50.py", "taken apart: True"),
    ],
)
def test_the_short_examples_run_to_their_end(example, last_line):
    done = subprocess.run([sys.executable, ROOT / "examples" / example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == last_line
