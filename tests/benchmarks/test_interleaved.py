"""The runner of timings: order, repetitions, ratios, and the fastest that the machine computes."""

import math
import time

import pytest
import torch


@pytest.fixture
def interleaved(load):
    return load("interleaved")


def test_variants_take_turns(interleaved):
    turns = []
    variants = {name: lambda name=name: turns.append(name) for name in "ab"}
    timings = interleaved.in_turn(variants, rounds=3, shortest=0)
    assert turns == list("ababab")
    assert {name: len(each) for name, each in timings.seconds.items()} == {"a": 3, "b": 3}


def test_a_short_call_is_repeated_and_the_time_of_one_call_returned(interleaved, monkeypatch):
    clock, calls = [0.0], []
    monkeypatch.setattr(time, "process_time", lambda: clock[0])

    def call():
        calls.append(1)
        clock[0] += 0.25

    timings = interleaved.in_turn({"a": call}, rounds=2, shortest=0.9)
    assert len(calls) == 1 + 2 * 4 and timings.seconds == {"a": [0.25, 0.25]}
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        interleaved.in_turn({"a": call}, rounds=0)


def test_rounds_go_on_until_ratios_are_known(interleaved, monkeypatch):
    def timed(seconds, most=9):
        clock, turns = [0.0], iter(seconds)

        def call(second):
            clock[0] += next(turns) if second else 1.0

        monkeypatch.setattr(time, "process_time", lambda: clock[0])
        calls = {"a": lambda: call(False), "b": lambda: call(True)}
        return len(interleaved.in_turn(calls, rounds=3, most=most, shortest=0).seconds["a"])

    assert timed([2.0] * 9) == 3
    assert timed([2.0, 2.0, 2.12, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]) == 4, "a range of 6 % in four rounds"
    assert timed([2.0, 2.5] * 5) == 9 and timed([2.0, 2.5] * 3, most=5) == 5
    monkeypatch.setattr(interleaved, "LONG", -1.0)
    assert timed([2.0, 2.5] * 5) == 3


def test_by_the_clock_waiting_takes_time(interleaved):
    assert interleaved.in_turn({"a": lambda: time.sleep(0.05)}, rounds=1, wall=True, shortest=0).of("a").median > 0.04


def test_waiting_takes_no_processor_time(interleaved):
    assert interleaved.cpu_seconds(lambda: time.sleep(0.2), 1) < 0.1


def test_a_ratio_is_the_median_of_the_rounds_ratios(interleaved):
    timings = interleaved.Timings({"slow": [2.0, 9.0, 8.0], "fast": [1.0, 3.0, 1.0]})
    assert timings.ratio("slow", "fast") == interleaved.Spread(3.0, 2.0, 8.0)
    assert timings.of("slow") == interleaved.Spread(8.0, 2.0, 9.0)


def test_a_difference_is_relative_to_the_largest_expected_value(interleaved):
    assert interleaved.difference(torch.tensor([1.0, -4.0]), torch.tensor([2.0, -5.0])) == pytest.approx(0.2)
    assert interleaved.difference(torch.tensor([math.nan]), torch.ones(1)) == math.inf
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(1,\)"):
        interleaved.difference(torch.ones(1), torch.ones(3))


def test_the_roof_is_the_rate_of_the_fastest_probe(interleaved, load):
    from torch.utils.flop_counter import FlopCounterMode

    roof = load("roof")
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
