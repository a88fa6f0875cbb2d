"""The benchmark of killed runs: a few kills of each kind, and the verdict."""

import pytest


@pytest.mark.slow
def test_a_few_kills_of_each_kind_leave_no_trace(run):
    status, shown = run("resume", "--quick")
    assert status == 0, shown
    assert "all runs end as if they had never been stopped" in shown and "<-" not in shown
    assert "3 of   3 checkpoints usable" in shown


def test_a_run_that_ends_differently_fails_the_benchmark(load, run, monkeypatch):
    benchmark = load("resume")
    monkeypatch.setattr(benchmark, "load_what_a_run_loads", lambda *_: None)
    good = {
        "at_every_step": (2, 2, 2),
        "at_every_operation": (2, 2, 2),
        "at_random_times": (2, 1, 1),
        "at_endings": (2, 1, 1),
        "inside_saves": (3, 3, 3),
    }
    for bad in (None, *good):
        for name, (kills, runs, same) in good.items():
            rows = (kills, runs, same - (name == bad))
            monkeypatch.setattr(benchmark.Bench, name, lambda self, rows=rows, **_: rows)
        status, shown = run("resume", "--quick")
        assert status == (0 if bad is None else 1)
        assert ("a run ends differently, or a save was lost" in shown) == (bad is not None)
