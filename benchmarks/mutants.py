"""The small changes that a source can have, each a mutant of `mutation.py`.

A mutant swaps an operator or a comparison, negates a condition, changes a number by one, turns True into False, or
drops a statement. Docstrings, messages of errors and ``__repr__`` are left alone.
"""

import ast
import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NamedTuple

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


Codes = dict[CodeType, CodeType]


def changed_code(file: Path, number: int) -> Codes:
    """The new code of each function that a mutant changes; empty if it changes what runs as the file is imported."""
    source, tree = file.read_text(), ast.parse(file.read_text())
    _change([*_places(tree)][number][0])
    fixed = ast.fix_missing_locations(tree)
    old, new = (compile(one, str(file), "exec", dont_inherit=True) for one in (ast.parse(source), fixed))
    return _changed(old, new) or {}


def _changed(old: CodeType, new: CodeType) -> Codes | None:
    """The functions that differ in two codes; None if a module, the body of a class or a closure does."""
    if len(old.co_freevars) != len(new.co_freevars):
        return None
    functions: Codes = {old: new} if old != new and old.co_flags & inspect.CO_OPTIMIZED else {}
    inner = [[const for const in code.co_consts if isinstance(const, CodeType)] for code in (old, new)]
    if not functions:
        rest = [[const for const in code.co_consts if not isinstance(const, CodeType)] for code in (old, new)]
        if (old.co_code, old.co_names, rest[0]) != (new.co_code, new.co_names, rest[1]):
            return None
    if len(inner[0]) != len(inner[1]):
        return functions
    for pair in zip(*inner, strict=True):
        changes = _changed(*pair)
        if changes is None:
            return None
        functions |= changes
    return functions


def functions_in(file: Path) -> dict[CodeType, list[FunctionType]]:
    """The functions of a module that is imported, by their code."""
    found: dict[CodeType, list[FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename == str(file):
            found.setdefault(one.__code__, []).append(one)
    return found
