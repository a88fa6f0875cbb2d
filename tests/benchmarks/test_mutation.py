"""The mutation command: mutants of a small source, the tests that they get, and faults of the suite that it finds."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = """
def f(x: int = 3) -> int:
    "A text with 5."
    if not x and x < 2:
        raise ValueError(f"x is {x + 1}")
    g(x)
    return x * 2
"""


def test_each_mutant_is_one_change_of_the_code_and_none_of_the_texts(load):
    module = load("mutants")
    mutants = module.mutants(SOURCE)
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
    sources = [module.mutated(SOURCE, number) for number in range(len(mutants))]
    assert len({*sources, ast.unparse(ast.parse(SOURCE))}) == len(mutants) + 1
    assert all("x + 1" in changed and "with 5" in changed for changed in sources)


CODES = """
from functools import cache

def apart(g):
    def inner(x):
        return g(x) + 1
    return inner

LIMIT = 4
held = apart(lambda x: x + LIMIT)

class Kind:
    width = 3

    @staticmethod
    @cache
    def twice(x, by=2):
        if x < 0:
            print(x)
        return (lambda y: y * 2)(x)
"""


def test_functions_that_exist_get_the_code_of_a_mutant(load, tmp_path):
    module, file = load("mutants"), tmp_path / "codes.py"
    file.write_text(CODES)
    effects = {}
    for number, one in enumerate(module.mutants(CODES)):
        specification = importlib.util.spec_from_file_location("codes", file)
        codes = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(codes)
        functions = module.functions_in(file)
        for old, new in module.changed_code(file, number).items():
            for function in functions.get(old, ()):
                if inspect.getmodule(function) is codes or function.__globals__ is vars(codes):
                    function.__code__ = new
        try:
            effects[one.line, one.what] = (codes.held(1), codes.Kind.twice(5))
        except TypeError:
            effects[one.line, one.what] = "an error"
    as_it_was = (6, 10)
    assert effects == {
        (6, "returns None"): as_it_was,  # it is a closure no more
        (6, "Add -> Sub"): (4, 10),
        (6, "1 -> 2"): (7, 10),
        (7, "returns None"): as_it_was,  # it has run
        (9, "4 -> 5"): as_it_was,
        (10, "Add -> Sub"): (-2, 10),
        (13, "3 -> 4"): as_it_was,
        (17, "2 -> 3"): as_it_was,
        (18, "condition negated"): (6, 10),
        (18, "Lt -> LtE"): (6, 10),
        (18, "0 -> 1"): (6, 10),
        (19, "dropped print(x)"): (6, 10),
        (20, "returns None"): (6, None),
        (20, "Mult -> Div"): (6, 2.5),
        (20, "2 -> 3"): (6, 15),
    }
    left = [one.line for number, one in enumerate(module.mutants(CODES)) if not module.changed_code(file, number)]
    assert left == [6, 9, 13, 17]  # an import alone changes them


def test_the_tests_of_a_mutant_run_its_statement_and_those_of_its_module_come_first(load, tmp_path):
    mutation = load("mutation")
    suite = mutation.Suite(tmp_path, [])  # without a run of the tests
    suite.lines = mutation.coverage.CoverageData(str(tmp_path / "lines"))
    suite.seconds = {"test_a.py::slow": 2.0, "test_a.py::fast": 1.0, "test_b.py::other": 0.1}
    for test, lines in {"test_a.py::slow": [4], "test_a.py::fast": [4, 6], "test_b.py::other": [4, 7]}.items():
        suite.lines.set_context(test)
        suite.lines.add_lines({str(tmp_path / "a.py"): lines})

    def tests_of(*lines):
        return suite.of(mutation.Place(tmp_path / "a.py", 0, load("mutants").Mutant(4, "", range(*lines))))

    assert tests_of(4, 5) == ["test_a.py::fast", "test_a.py::slow", "test_b.py::other"]
    assert tests_of(5, 8) == ["test_a.py::fast", "test_b.py::other"]
    assert len(tests_of(0)) == 3 and tests_of(1, 2) == []


PART = """
LIMIT = 3

def at_least(x, by=0):
    return x + by >= LIMIT

def unused():
    return 1 + 1
"""
WEAK = """
from strfnet.part import at_least, LIMIT

assert LIMIT == 3

def test_part():
    assert at_least(3) and not at_least(1)
"""


def test_mutants_that_the_tests_do_not_find_are_counted_and_shown(load, run, monkeypatch, tmp_path):
    for file, text in {
        "strfnet/__init__.py": "",
        "strfnet/part.py": PART,
        "tests/test_part.py": WEAK,
        "tests/conftest.py": (Path(__file__).parents[1] / "conftest.py").read_text(),
        "benchmarks/none.py": "",
        "pyproject.toml": "",
        "setup.cfg": "[tool:pytest]\nmarkers = slow\n",
    }.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text)
    mutation = load("mutation")
    for name in [name for name in sys.modules if name.partition(".")[0] == "strfnet"]:
        monkeypatch.delitem(sys.modules, name)  # the command's process has not imported the package
    monkeypatch.setattr(mutation, "ROOT", tmp_path)
    monkeypatch.setitem(mutation.PARTS, "losses", (["strfnet"], ["test_part.py"]))
    why = {("strfnet/part.py", "return x + by >= LIMIT", "Add -> Sub"): "nobody gives by"}
    monkeypatch.setattr(mutation, "EQUIVALENT", why)
    status, shown = run("mutation", "--part", "losses")
    assert status == 1 and shown.splitlines() == [
        "survives 1 tests: strfnet/part.py:4 0 -> 1: def at_least(x, by=0):",
        "survives for nobody gives by: strfnet/part.py:5 Add -> Sub: return x + by >= LIMIT",
        "survives 0 tests: strfnet/part.py:8 returns None: return 1 + 1",
        "survives 0 tests: strfnet/part.py:8 Add -> Sub: return 1 + 1",
        "survives 0 tests: strfnet/part.py:8 1 -> 2: return 1 + 1",
        "survives 0 tests: strfnet/part.py:8 1 -> 2: return 1 + 1",
        "losses: 3 of 9 mutants killed (33.3 %), 3 of 8 without those that are equivalent (37.5 %)",
    ]


@pytest.mark.slow
def test_the_mutants_of_a_small_sample_are_killed():
    command = ["benchmarks/mutation.py", "--part", "losses", "--sample", "2"]
    done = subprocess.run([sys.executable, *command], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "losses: 2 of 2 mutants killed (100.0 %)" in done.stdout
