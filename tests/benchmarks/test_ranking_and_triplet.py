"""The benchmarks of ranking and of the triplet loss, run small: their answers must agree; speed is not judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    return subprocess.run([sys.executable, script, "--quick", *arguments], capture_output=True, text=True)


def test_all_losses_agree():
    done = run(BENCHMARKS / "triplet.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reached  losses and gradients agree" in done.stdout and "MISSED" not in done.stdout


def test_all_rankings_agree_and_memory_is_measured():
    done = run(BENCHMARKS / "ranking.py", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(done.stdout)
    assert content["reached"] == {"the figures agree": True}
    assert all(0 < row["above_mib"] < row["whole_mib"] for row in content["evaluations"])
    assert set(content["ratios"]) >= {"strfnet", "in Python"}


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("ranking", "(place + 1.0)", "(place + 2.0)"),
        ("triplet", "distances[anchor][~same].min()", "distances[anchor][~same].max()"),
    ],
)
def test_answers_that_differ_make_the_run_fail(tmp_path, name, right, wrong):
    text = (BENCHMARKS / f"{name}.py").read_text()
    assert right in text
    (tmp_path / f"{name}.py").write_text(text.replace(right, wrong))
    done = run(tmp_path / f"{name}.py")
    assert done.returncode == 1 and "MISSED" in done.stdout
