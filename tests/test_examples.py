import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open
from strfnet.data.synthetic.walker_tasks import plan_task

from strfnet.training.log import read_log

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


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_gait_compares_both_networks_with_chance(monkeypatch, capsys):
    gait = example("gait")
    task = plan_task("gait")
    few = replace(task, train=tuple(scene for scene in task.train if scene.seed[-1] < 1))
    monkeypatch.setattr(gait, "plan_task", lambda name: few)
    monkeypatch.setattr(sys, "argv", ["gait.py", "--steps", "2", "--seeds", "0", "3"])
    gait.main()
    shown = capsys.readouterr().out
    assert shown.startswith("synthetic task")
    assert "72 queries of 12 new walkers, 216 in the gallery" in shown
    rows = {line[:12].strip(): line[12:].split() for line in shown.splitlines()[-3:]}
    assert rows["chance"] == ["10.4", "8.3"]
    for network in ("C2D", "C2D + STRF"):
        mean, _, *of_seeds = map(float, rows[network])
        assert len(of_seeds) == 2 and abs(mean - sum(of_seeds) / 2) < 0.11
        assert 5 < mean < 40
    assert rows["C2D"] != rows["C2D + STRF"]


def test_walkers_are_written_trained_on_and_ranked_with_and_without_strf(tmp_path, monkeypatch, capsys):
    trains, task = example("train_walkers"), plan_task("gait")
    few = replace(
        task,
        train=tuple(scene for scene in task.train if scene.seed[-1] < 1),
        tests={"all": (tuple(scene for scene in task.tests["all"][0] if scene.seed[-1] < 1),)},
    )
    monkeypatch.setattr(trains, "plan_task", lambda name: few)
    changes = ["epochs=1", "warmup=0"]
    monkeypatch.setattr(sys, "argv", ["train_walkers.py", "--out", str(tmp_path / "out"), "--train", *changes])
    trains.main()
    shown = capsys.readouterr().out
    assert "12 queries of new walkers,\n48 tracklets in the gallery, AP by rectangles" in shown
    rows = {line[:14].strip(): line[14:].split() for line in shown.splitlines() if line[:1] in "rC"}
    assert rows["random order"] == ["13.4", "6.4"]  # 3 matches among 47, as drawn orders give too
    for name, network in (("C2D", "c2d_resnet8"), ("C2D + STRF", "strf_c2d_resnet8")):
        run = tmp_path / "out" / "runs" / network
        told = json.loads((run / "figures.json").read_text())[0]
        assert rows[name][0] == f"{100 * told['mean_average_precision']:.1f}" and str(run) in shown
        steps = [line for line in read_log(run / "log.jsonl") if line["kind"] == "step"]
        assert len(steps) == 1  # 14 identities with a group each make one batch of 8


def test_a_recipe_that_is_refused_ends_the_example_with_the_reason(tmp_path, monkeypatch):
    trains = example("train_walkers")
    with pytest.raises(SystemExit, match="lr must be above 0, got 0"):
        trains.train(tmp_path, {"C2D": tmp_path / "run"}, ["lr=0"])
