"""The fuzzer and the mutation command: few inputs of each kind, and faults that they find."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

COUNTS = {
    "configurations": 2,
    "listings": 40,
    "weights": 4,
    "images": 40,
    "logs": 40,
    "runs": 3,
    "embeddings": 40,
    "parquet": 40,
    "numpy": 40,
    "csv": 40,
}


@pytest.mark.parametrize("kind", COUNTS)
def test_no_input_of_a_few_fails(load, tmp_path, kind):
    failures = []
    totals = load("fuzz").fuzz(kind, 5, range(COUNTS[kind]), tmp_path, failures.append)
    assert not failures and sum(totals) == COUNTS[kind]


@pytest.mark.parametrize("error", [KeyError("a"), ValueError("without a name"), MemoryError(), SystemExit(1)])
def test_an_error_of_another_kind_or_without_a_name_fails(load, tmp_path, monkeypatch, error):
    fuzz, failures = load("fuzz"), []
    monkeypatch.setattr(fuzz.tempfile, "gettempdir", lambda: str(tmp_path))
    reader, sound = fuzz.KINDS["logs"], fuzz.read_log

    def read(self):
        if self.path.read_bytes() not in self.contents():
            raise error
        sound(self.path)

    monkeypatch.setattr(reader, "read", read)
    (tmp_path / "inputs").mkdir()
    assert fuzz.fuzz("logs", 0, range(3), tmp_path / "inputs", failures.append) == (
        0,
        3 * isinstance(error, ValueError),
        3,
    )
    assert len(failures) == 3 and "logs --seed 0 --only 0" in failures[0]
    assert len(list((tmp_path / "strfnet-fuzz").iterdir())) == 3


def test_an_input_is_the_same_for_the_same_seed(load):
    fuzz = load("fuzz")
    inputs = [fuzz.damaged([b"a" * 50, b"b" * 50], fuzz.random.Random(f"3 logs {n}")) for n in (1, 1, 2)]
    assert inputs[0] == inputs[1] != inputs[2]


SOURCE = """
def f(x: int = 3) -> int:
    "A text with 5."
    if not x and x < 2:
        raise ValueError(f"x is {x + 1}")
    g(x)
    return x * 2
"""


def test_each_mutant_is_one_change_of_the_code_and_none_of_the_texts(load):
    mutation = load("mutation")
    mutants = mutation.mutants(SOURCE)
    assert [(one.line, one.what, [*one.statement]) for one in mutants] == [
        (2, "3 -> 4", [2, 3, 4, 5, 6, 7]),  # a default: all tests of the function
        (4, "condition negated", [4]),
        (4, "And -> Or", [4]),
        (4, "Not dropped", [4]),
        (4, "Lt -> LtE", [4]),
        (4, "2 -> 3", [4]),
        (6, "dropped g(x)", [6]),
        (7, "returns None", [7]),
        (7, "Mult -> Div", [7]),
        (7, "2 -> 3", [7]),
    ]
    sources = [mutation.mutated(SOURCE, number) for number in range(len(mutants))]
    assert len({*sources, ast.unparse(ast.parse(SOURCE))}) == len(mutants) + 1
    assert all("x + 1" in changed and "with 5" in changed for changed in sources)


def test_the_tests_of_a_mutant_run_its_statement_and_those_of_its_module_come_first(load, tmp_path):
    mutation = load("mutation")
    suite = object.__new__(mutation.Suite)  # without a run of the tests
    suite.seconds = {"test_a.py::slow": 2.0, "test_a.py::fast": 1.0, "test_b.py::other": 0.1}
    suite.lines = mutation.coverage.CoverageData(str(tmp_path / "lines"))
    for test, lines in {"test_a.py::slow": [4], "test_a.py::fast": [4, 6], "test_b.py::other": [4, 7]}.items():
        suite.lines.set_context(test)
        suite.lines.add_lines({str(tmp_path / "a.py"): lines})
    assert suite.of(tmp_path / "a.py", range(4, 5)) == ["test_a.py::fast", "test_a.py::slow", "test_b.py::other"]
    assert suite.of(tmp_path / "a.py", range(5, 8)) == ["test_a.py::fast", "test_b.py::other"]
    assert len(suite.of(tmp_path / "a.py", range(0))) == 3 and suite.of(tmp_path / "a.py", range(1, 2)) == []


@pytest.mark.slow
def test_the_mutants_of_a_small_sample_are_killed():
    command = ["benchmarks/mutation.py", "--part", "losses", "--sample", "2"]
    done = subprocess.run([sys.executable, *command], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "losses: 2 of 2 mutants killed (100.0 %)" in done.stdout
