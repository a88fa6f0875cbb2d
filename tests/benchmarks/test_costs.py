"""The cost benchmarks, run as a user runs them."""

import importlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    return subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True)


def test_all_printed_figures_agree():
    done = run(BENCHMARKS / "flops.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 of 14 printed figures agree" in done.stdout and "<- off" not in done.stdout


@pytest.mark.parametrize(
    ("network", "right", "wrong"),
    [
        (
            "strf_p3dc_resnet50",
            '_parameters("strf_p3dc_resnet50", 25.53)',
            '_parameters("strf_p3dc_resnet50", 25.54)',
        ),
        ("ste_nvan_resnet50", '_operations("ste_nvan_resnet50", 16.5)', '_operations("ste_nvan_resnet50", 17.1)'),
    ],
)
def test_a_row_that_leaves_its_tolerance_makes_the_run_fail(tmp_path, network, right, wrong):
    shutil.copytree(BENCHMARKS, tmp_path, dirs_exist_ok=True)
    published = (tmp_path / "published.py").read_text()
    assert right in published
    (tmp_path / "published.py").write_text(published.replace(right, wrong))
    done = run(tmp_path / "flops.py", "--network", network)
    assert done.returncode == 1
    assert "<- off" in done.stdout and "0 of 1 printed figures agree" in done.stdout


def test_json_and_another_clip():
    done = run(
        BENCHMARKS / "flops.py", "--json", "--network", "nvan_resnet18", "--clip", *map(str, (1, 3, 4, 64, 32))
    )
    content = json.loads(done.stdout)
    assert done.returncode == 0 and content["clip"] == [1, 3, 4, 64, 32]
    assert content["rows"][0]["printed"] is None and content["rows"][0]["macs"] > 0


def test_an_unknown_network_is_a_wrong_call():
    done = run(BENCHMARKS / "flops.py", "--network", "nvan_resnet5")
    assert done.returncode == 2 and "did you mean nvan_resnet50" in done.stderr


def test_published_figures_say_that_accuracies_were_not_run():
    done = run(BENCHMARKS / "published.py")
    assert done.returncode == 0
    assert done.stdout.count("PUBLISHED, NOT RUN HERE") == 2
    assert "trapezoid" in done.stdout and "rectangle" in done.stdout


def test_the_memory_of_the_block_stays_within_its_goals(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    memory = importlib.import_module("memory")
    short = memory.measured_afresh("strfnet", 8)
    assert short <= 0.25 * memory.measured_afresh("explicit", 8)
    assert memory.measured_afresh("strfnet", 32) <= 4 * short  # a growth exponent of 1
