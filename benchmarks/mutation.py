"""Small changes of the code, one at a time: the share that the tests find, and those that they do not.

    python benchmarks/mutation.py --part losses            # every mutant of one part
    python benchmarks/mutation.py --sample 50 --seed 1     # 50 mutants of each part, drawn by a seed

A mutant swaps an operator or a comparison, negates a condition, changes a number by one, turns True into False, or
drops a statement. It is made in a copy of the package; the tests of its part run on that copy until one fails. A
mutant is killed if a test fails or takes too long. Docstrings, messages of errors and ``__repr__`` are left alone.
"""

import argparse
import ast
import copy
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
STORE = ["strfnet/weights/store.py", "strfnet/weights/file.py"]
# By part: its files or folders, and the tests that hold it.
PARTS: dict[str, tuple[list[str], list[str]]] = {
    "losses": (["strfnet/losses"], ["tests/losses/test_triplet.py", "tests/losses/test_objective.py"]),
    "layers": (["strfnet/layers"], ["tests/layers", "tests/profiler"]),
    "inflation": (
        ["strfnet/inflation"],
        ["tests/test_inflation.py", "tests/test_splicing.py", "tests/test_tokens.py"],
    ),
    "evaluation": (
        ["strfnet/evaluation"],
        [f"tests/test_{name}.py" for name in ("ranking", "distances", "evaluation", "reranking", "verification")],
    ),
    "store": (STORE, ["tests/test_store.py", "tests/robustness/test_files_of_strangers.py"]),
}
ARGUMENTS = "tests/robustness/test_arguments_of_constructors.py"  # of layers and losses
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
SECONDS = 120  # of computing


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yields the line, what changes, and the whole changed source, for every mutant of a file."""
    tree = ast.parse(source)
    count = len([*_places(tree)])
    for number in range(count):
        changed = copy.deepcopy(tree)
        node, what = [*_places(changed)][number]
        _change(node)
        yield getattr(node, "lineno", 0), what, ast.unparse(ast.fix_missing_locations(changed))


def _places(tree: ast.AST) -> Iterator[tuple[Any, str]]:
    """The nodes that a mutant changes, and how, in the order of the source."""
    node: Any
    for node in _walk(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in OPERATORS:
            yield node, _swap(node.op)
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in OPERATORS:
            yield node, _swap(node.ops[0])
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            yield node, f"{type(node.op).__name__} dropped"
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            yield node, f"{node.value!r} -> {_other(node.value)!r}"
        elif isinstance(node, ast.If | ast.IfExp):
            yield node, "condition negated"
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield node, f"dropped {ast.unparse(node)[:40]}"
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield node, "returns None"


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but texts: annotations, imports, messages of errors, representations."""
    skipped = ("annotation", "returns", "decorator_list")
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.FunctionDef) and node.name in ("extra_repr", "__repr__", "__str__"):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    yield node
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _walk(child)


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


def killed(folder: Path, tests: list[str]) -> bool:
    """Whether a test fails on the package in ``folder``, or computes too long, in a fork that has loaded PyTorch."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.chdir(folder)
            sys.path[:0] = [str(folder)]
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, 1)
            os.dup2(silence, 2)
            options = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-seed=0"]
            code = int(pytest.main([*options, *tests]))
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] != 0


def main() -> int:
    """Runs the parts that the command line names. Returns 1 if less than 92 % of the mutants are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="parts to try (default: all)")
    parser.add_argument("--sample", type=int, help="mutants of each part, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time for each part, then it ends")
    call = parser.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    low = False
    for part in call.part or PARTS:
        places, tests = PARTS[part]
        tests = [*tests, ARGUMENTS] if part in ("layers", "losses") else tests
        files = [file for place in places for file in sorted(ROOT.glob(place if "." in place else f"{place}/*.py"))]
        found = [(file, *mutant) for file in files for mutant in mutants(file.read_text())]
        if call.sample is not None:
            found = random.Random(call.seed).sample(found, min(call.sample, len(found)))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for inner in ("strfnet", "tests", "benchmarks"):
                shutil.copytree(ROOT / inner, folder / inner, ignore=shutil.ignore_patterns("__pycache__"))
            for settings in ("pyproject.toml", "setup.cfg"):
                shutil.copy(ROOT / settings, folder / settings)
            if killed(folder, tests):
                print(f"{part}: its tests fail without a mutant, or take over {SECONDS:.0f} s")
                return 1
            start, survivors, tried = time.monotonic(), 0, 0
            for file, line, what, changed in found:
                if time.monotonic() - start > call.seconds:
                    break
                target = folder / file.relative_to(ROOT)
                before = target.read_text()
                target.write_text(changed)
                tried += 1
                if not killed(folder, tests):
                    survivors += 1
                    print(f"survives: {file.relative_to(ROOT)}:{line} {what}", flush=True)
                target.write_text(before)
        share = 100 * (tried - survivors) / max(tried, 1)
        low = low or share < 92
        print(f"{part}: {tried - survivors} of {tried} mutants killed ({share:.1f} %)", flush=True)
    return int(low)


if __name__ == "__main__":
    sys.exit(main())
