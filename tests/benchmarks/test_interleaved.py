"""The runner: whose turn it is, how often, what a ratio is of, and the roof."""

import importlib
import math
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def interleaved(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("interleaved")


def test_variants_take_turns(interleaved):
    turns = []
    variants = {name: lambda name=name: turns.append(name) for name in "ab"}
    timings = interleaved.in_turn(variants, rounds=3, shortest=0)
    assert turns == list("ababab")
    assert {name: len(each) for name, each in timings.seconds.items()} == {"a": 3, "b": 3}


def test_a_short_call_is_repeated_and_its_time_is_that_of_one(interleaved, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def call():
        calls.append(1)
        clock[0] += 0.25

    timings = interleaved.in_turn({"a": call}, rounds=2, shortest=0.9)
    assert len(calls) == 1 + 2 * 4 and timings.seconds == {"a": [0.25, 0.25]}
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleaved.in_turn({"a": call}, rounds=0)


def test_waiting_is_no_processor_time(interleaved):
    assert interleaved.cpu_seconds(lambda: time.sleep(0.2), 1) < 0.1


def test_a_ratio_is_the_median_of_the_rounds_ratios(interleaved):
    timings = interleaved.Timings({"slow": [2.0, 9.0, 8.0], "fast": [1.0, 3.0, 1.0]})
    assert timings.ratio("slow", "fast") == interleaved.Spread(3.0, 2.0, 8.0)
    assert timings.of("slow") == interleaved.Spread(8.0, 2.0, 9.0)


def test_a_difference_is_in_parts_of_the_largest_expected_value(interleaved):
    assert interleaved.difference(torch.tensor([1.0, -4.0]), torch.tensor([2.0, -5.0])) == pytest.approx(0.2)
    assert interleaved.difference(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(1,\)"):
        interleaved.difference(torch.ones(1), torch.ones(3))


def test_the_roof_is_the_best_probe_by_the_operations_that_a_counter_counts(interleaved):
    from torch.utils.flop_counter import FlopCounterMode

    roof = importlib.import_module("roof")
    probed = roof.probes(channels=16)
    for probe in probed.values():
        with FlopCounterMode(display=False) as counter:
            probe.call()
        assert probe.flop == counter.get_total_flops()
    seconds = {name: [1.0, 5.0, 1.0] for name in probed}
    seconds["probe: matrix product"] = [1e-6, 1e-6, 9.0]
    timings = interleaved.Timings(seconds)
    assert roof.best(timings, probed) == pytest.approx(probed["probe: matrix product"].flop * 1e6)
    channels_last, contiguous, _ = (probe.call() for probe in probed.values())
    torch.testing.assert_close(channels_last, contiguous, rtol=1e-4, atol=1e-4)
    assert channels_last.is_contiguous(memory_format=torch.channels_last)
