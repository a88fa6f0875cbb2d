"""The benchmark of killed runs: a few kills of each kind, and the verdict."""

import os
import time

import pytest


@pytest.mark.slow
def test_a_few_kills_of_each_kind_leave_no_trace(run):
    status, shown = run("resume", "--quick")
    assert status == 0, shown
    assert "all runs end as if they had never been stopped" in shown and "<-" not in shown
    assert shown.splitlines()[-2].split() == ["inside", "saves,", "checkpoints", "3", "3", "3"]


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


def test_wrong_exit_codes_and_processes_that_are_left_are_found(load):
    endings = load("endings")
    ending = endings.StopSignal()
    happened, code, wrong = endings.let_end(lambda: time.sleep(60), ending, 0.0)
    assert happened and code < 0 and not wrong

    def fails():
        raise SystemExit(3)

    assert endings.let_end(fails, ending, 60) == (False, 0, ["the exit code is 3"])

    def leaves_a_process():
        if not os.fork():
            time.sleep(2)
            os._exit(0)

    ending.seconds = 0.1
    assert endings.let_end(leaves_a_process, ending, 0.5) == (True, 0, ["a process is left after 0 s"])


def test_rows_are_chosen_by_name_and_what_is_wrong_in_one_fails_the_benchmark(load, run, monkeypatch, capsys):
    benchmark = load("resume")
    monkeypatch.setattr(benchmark, "load_what_a_run_loads", lambda *_: None)

    def at_endings(self, *, ending, count):
        self.wrong += ["a process is left"] if ending.workers else []
        return count, 1, 1

    monkeypatch.setattr(benchmark.Bench, "at_endings", at_endings)
    status, shown = run("resume", "--row", "killed agent", "--signals", "30")
    assert status == 0 and shown.splitlines()[1].split() == ["killed", "agent", "3", "1", "1"]
    status, shown = run("resume", "--row", "killed worker", "--row", "killed agent")
    assert status == 1 and shown.splitlines()[2] == "<- a process is left"
    with pytest.raises(SystemExit):
        run("resume", "--row", "killed")
    assert "--row is one of in every step, before" in capsys.readouterr().err
