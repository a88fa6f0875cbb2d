"""The benchmarks of costs: tables, verdicts, and the memory of the non-local block."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_the_command_reports_that_all_printed_costs_agree():
    done = subprocess.run([sys.executable, BENCHMARKS / "flops.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "14 of 14 printed figures agree" in done.stdout and "<- off" not in done.stdout


@pytest.mark.parametrize(("network", "off"), [("strf_p3dc_resnet50", 25.54), ("ste_nvan_resnet50", 17.1)])
def test_a_cost_outside_its_tolerance_fails_the_run(load, run, monkeypatch, network, off):
    flops = load("flops")
    changed = [replace(cost, printed=off) if cost.network == network else cost for cost in flops.COSTS]
    monkeypatch.setattr(flops, "COSTS", changed)
    status, shown = run("flops", "--network", network)
    assert status == 1
    assert "<- off" in shown and "0 of 1 printed figures agree" in shown


def test_costs_of_another_clip_are_written_as_json(run):
    status, shown = run("flops", "--json", "--network", "nvan_resnet18", "--clip", 1, 3, 4, 64, 32)
    content = json.loads(shown)
    assert status == 0 and content["clip"] == [1, 3, 4, 64, 32]
    assert content["rows"][0]["printed"] is None and content["rows"][0]["macs"] > 0


def test_an_unknown_network_is_a_usage_error_that_names_the_nearest(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("flops", "--network", "nvan_resnet5")
    assert "did you mean nvan_resnet50" in capsys.readouterr().err


def test_published_accuracies_are_marked_as_not_run(load, capsys):
    load("published").main()
    shown = capsys.readouterr().out
    assert shown.count("PUBLISHED, NOT RUN HERE") == 2
    assert "trapezoid" in shown and "rectangle" in shown


def test_the_memory_of_the_block_stays_within_its_goals(load):
    memory = load("memory")
    short = memory.measured_afresh("strfnet", 8)
    assert short <= 0.25 * memory.measured_afresh("explicit", 8)
    assert memory.measured_afresh("strfnet", 32) <= 4 * short  # a growth exponent of 1
