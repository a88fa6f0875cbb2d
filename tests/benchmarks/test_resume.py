"""The benchmark of kills, with few of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "resume.py"


def test_a_few_kills_of_each_kind_leave_no_trace():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, SCRIPT, "--quick"], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all runs end as if they had never been stopped" in done.stdout and "<-" not in done.stdout
    assert "3 of   3 checkpoints usable" in done.stdout


def test_a_run_that_ends_differently_makes_it_fail(monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    spec = importlib.util.spec_from_file_location("resume_benchmark", SCRIPT)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(sys, "argv", ["resume.py", "--quick"])
    monkeypatch.setattr(benchmark, "load_what_a_run_loads", lambda *_: None)
    good = {
        "at_every_step": (2, 2, 2),
        "at_every_operation": (2, 2, 2),
        "at_random_times": (2, 1, 1),
        "inside_saves": (3, 3, 3),
    }
    for bad in (None, *good):
        for name, (kills, runs, same) in good.items():
            answer = (kills, runs, same - (name == bad))
            monkeypatch.setattr(benchmark.Bench, name, lambda self, answer=answer, **_: answer)
        assert benchmark.main() == (0 if bad is None else 1)
    assert "a run ends differently, or a save was lost" in capsys.readouterr().out
