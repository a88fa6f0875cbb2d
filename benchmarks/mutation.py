"""Small changes of the code, one at a time: the share that the tests find, and those that they do not.

    python benchmarks/mutation.py --part losses            # every mutant of one part
    python benchmarks/mutation.py --sample 50 --seed 1     # 50 mutants of each part, drawn by a seed

A mutant swaps an operator or a comparison, negates a condition, changes a number by one, turns True into False, or
drops a statement. Docstrings, messages of errors and ``__repr__`` are left alone.

The tests of a part, without the slow ones, run once on a copy of the package, under coverage. A mutant is made in
that copy. The tests that run its lines then run, those of the file named like the module first and short ones first,
until one fails. A mutant is killed if a test fails or takes too long. Each of these runs is a fork of a process that
has imported PyTorch and all else that is not of the project.
"""

import argparse
import ast
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import coverage
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings

ROOT = Path(__file__).resolve().parents[1]
STORE = ["strfnet/weights/store.py", "strfnet/weights/file.py"]
# By part: its files or folders, and the tests that hold it.
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "losses": (["strfnet/losses"], ["losses", "robustness/test_arguments_of_constructors.py"]),
    "layers": (["strfnet/layers"], ["layers", "test_clip.py", "robustness/test_arguments_of_constructors.py"]),
    "inflation": (
        ["strfnet/inflation"],
        [f"test_{name}.py" for name in ("inflation", "splicing", "tokens", "extension", "ragged", "running_clips")]
        + ["test_any_network.py", "models/test_options.py"],
    ),
    "evaluation": (
        ["strfnet/evaluation"],
        [f"test_{name}.py" for name in ("ranking", "distances", "evaluation", "reranking", "verification", "nearest")]
        + ["data/test_clothes_and_platforms.py", "robustness/test_rows_of_lists.py"],
    ),
    "store": (
        STORE,
        ["test_store.py", "test_checkpoints.py", "test_files_of_0_1.py"]
        + [
            f"robustness/test_{name}.py" for name in ("files_of_strangers", "full_disks", "misread_values", "outputs")
        ],
    ),
}
OPERATORS: dict[type, Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
SECONDS = 30  # of computing, beside five times the seconds of the tests
MEMORY = 16 << 30  # bytes of addresses, so that a mutant cannot take the machine's memory


class Mutant(NamedTuple):
    """A change of one place: its line, what changes, and the lines of its statement, none outside functions."""

    line: int
    what: str
    statement: range


def mutants(source: str) -> list[Mutant]:
    """All mutants of a file."""
    return [Mutant(node.lineno, what, statement) for node, what, statement in _places(ast.parse(source))]


def mutated(source: str, number: int) -> str:
    """The source with the change of one of its `mutants`."""
    tree = ast.parse(source)
    _change([*_places(tree)][number][0])
    return ast.unparse(ast.fix_missing_locations(tree))


def _places(tree: ast.AST) -> Iterator[tuple[Any, str, range]]:
    """The nodes that a mutant changes, how, and the lines of their statements, in the order of the source."""
    node: Any
    for node, statement in _walk(tree, range(0)):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in OPERATORS:
            yield node, _swap(node.op), statement
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            yield node, _swap(node.ops[0]), statement
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, f"{type(node.op).__name__} dropped", statement
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield node, f"{node.value!r} -> {_other(node.value)!r}", statement
        elif isinstance(node, ast.If | ast.IfExp):
            yield node, "condition negated", statement
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, f"dropped {ast.unparse(node)[:40]}", statement
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield node, "returns None", statement


def _walk(node: ast.AST, statement: range) -> Iterator[tuple[ast.AST, range]]:
    """All nodes but texts, which are annotations, imports, messages of errors and representations."""
    skipped = ("annotation", "returns", "decorator_list")
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.FunctionDef) and node.name in ("extra_repr", "__repr__", "__str__"):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.FunctionDef):
        statement = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    elif isinstance(node, ast.stmt) and statement:
        body = getattr(node, "body", None)
        end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
        statement = range(node.lineno, max(end, node.lineno + 1))
    yield node, statement
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child, statement)


def _swap(operator: ast.AST) -> str:
    return f"{type(operator).__name__} -> {OPERATORS[type(operator)].__name__}"


def _other(value: Any) -> Any:
    return not value if isinstance(value, bool) else value + 1


def _change(node: Any) -> None:
    """Changes a node in place."""
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        node.op = OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Compare):
        node.ops[0] = OPERATORS[type(node.ops[0])]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd() if isinstance(node.op, ast.USub) else ast.Not()
        if isinstance(node.op, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
    elif isinstance(node, ast.Constant):
        node.value = _other(node.value)
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)
    else:
        node.value = ast.Constant(None)


class Recorder:
    """A plugin of pytest: the seconds of each test, and the tests that run each line, in a file of coverage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = defaultdict(float)
        self.coverage = coverage.Coverage(_lines_in(folder), config_file=False, source=[f"{folder}/strfnet"])

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        files = {name: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
        modules = [name for name, file in files.items() if file and not file.startswith(str(self.folder))]
        _seconds_in(self.folder).write_text(json.dumps([self.seconds, modules]))


class Chosen:
    """A plugin of pytest: some tests in their order. Hypothesis does not look for a smaller example that fails."""

    def __init__(self, tests: list[str]) -> None:
        self.places = {test: place for place, test in enumerate(tests)}

    def pytest_collection(self) -> None:
        changes: dict[str, Any] = {
            "phases": (Phase.explicit, Phase.generate),
            "suppress_health_check": [*HealthCheck],
        }
        settings.register_profile("mutants", settings.get_profile("quick"), **changes)
        settings.load_profile("mutants")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid in self.places]
        items.sort(key=lambda item: self.places[item.nodeid])


class Suite:
    """The tests of a part, on the package in a folder.

    Raises: ValueError if one fails.
    """

    def __init__(self, folder: Path, tests: list[str]) -> None:
        self.folder = folder
        if _status(folder, [f"tests/{test}" for test in tests], Recorder(folder), 1800):
            raise ValueError(f"a test fails without a mutant:\n{_output_in(folder).read_text()[-2000:]}")
        self.seconds, modules = json.loads(_seconds_in(folder).read_text())
        for name in modules:
            with suppress(Exception):
                importlib.import_module(name)
        self.lines = coverage.CoverageData(str(_lines_in(folder)))
        self.lines.read()
        sys.dont_write_bytecode = True

    def of(self, file: Path, statement: range) -> list[str]:
        """The tests that run a statement, or for none any of a file, those that find a fault soonest first."""
        found = self.lines.contexts_by_lineno(str(file))
        tests = {test for line, tests in found.items() if not statement or line in statement for test in tests}
        own = f"test_{file.stem}"
        return sorted(tests & self.seconds.keys(), key=lambda test: (own not in test, self.seconds[test]))

    def kills(self, tests: list[str]) -> bool:
        """Whether one of the tests fails or takes too long."""
        for some in (tests[:8], tests[8:]):  # seldom more than the first files are collected
            files = sorted({test.split("::")[0] for test in some})
            seconds = sum(self.seconds[test] for test in some)
            if some and _status(self.folder, files, Chosen(some), seconds) not in (
                0,
                pytest.ExitCode.NO_TESTS_COLLECTED,
            ):
                return True
        return False


def _lines_in(folder: Path) -> Path:
    return folder / "lines"


def _seconds_in(folder: Path) -> Path:
    return folder / "seconds.json"


def _output_in(folder: Path) -> Path:
    return folder / "output"


def _status(folder: Path, tests: list[str], plugin: object, seconds: float) -> int:
    """The exit status of pytest in a fork that tests the package in ``folder``; of a signal, if it takes too long."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            most = SECONDS + 5 * int(seconds)
            resource.setrlimit(resource.RLIMIT_CPU, (most, most))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            signal.alarm(10 * most)
            os.chdir(folder)
            sys.path[:0] = [str(folder)]
            output = os.open(_output_in(folder), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1)
            os.dup2(output, 2)
            options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", f"--basetemp={folder}/tmp"]
            code = int(pytest.main([*options, *tests], [plugin]))
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_of(part: str, sample: int | None, seed: int, seconds: float) -> tuple[int, int]:
    """The number of mutants of a part that are killed, and of those that were tried. Prints the others."""
    places, tests = PARTS[part]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for inner in ("strfnet", "tests", "benchmarks"):
            shutil.copytree(ROOT / inner, folder / inner, ignore=shutil.ignore_patterns("__pycache__"))
        for file_of_settings in ("pyproject.toml", "setup.cfg"):
            shutil.copy(ROOT / file_of_settings, folder / file_of_settings)
        files = [file for place in places for file in sorted(folder.glob(place if "." in place else f"{place}/*.py"))]
        found = [(file, number, one) for file in files for number, one in enumerate(mutants(file.read_text()))]
        if sample is not None:
            found = random.Random(seed).sample(found, min(sample, len(found)))
        suite = Suite(folder, tests)
        start, killed, tried = time.monotonic(), 0, 0
        for file, number, one in found:
            if time.monotonic() - start > seconds:
                break
            running, kept = suite.of(file, one.statement), folder / "kept"
            file.rename(kept)
            file.write_text(mutated(kept.read_text(), number))
            tried += 1
            if suite.kills(running):
                killed += 1
            else:
                where = f"{file.relative_to(folder)}:{one.line}"
                print(f"survives {len(running)} tests: {where} {one.what}", flush=True)
            kept.replace(file)
    return killed, tried


def main() -> int:
    """Runs the parts that the command line names. Returns 1 if less than 92 % of the mutants are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="parts to try (default: all)")
    parser.add_argument("--sample", type=int, help="mutants of each part, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for each part, then it ends")
    call = parser.parse_args()
    torch.set_num_threads(1)
    low = False
    for part in call.part or PARTS:
        killed, tried = killed_of(part, call.sample, call.seed, call.seconds)
        share = 100 * killed / max(tried, 1)
        low = low or share < 92
        print(f"{part}: {killed} of {tried} mutants killed ({share:.1f} %)", flush=True)
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
