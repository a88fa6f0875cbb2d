"""Public names of a package, imported when they are first used."""

import ast
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def lazy_names(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Returns ``__getattr__``, ``__dir__`` and ``__all__`` of a package (PEP 562).

    The names are those that its ``__init__.py`` imports under ``if TYPE_CHECKING:``, so that type checkers, editors
    and the running program read one list.
    """
    loader: Any = getattr(find_spec(package), "loader", None)
    block = next(node for node in ast.parse(loader.get_source(package)).body if isinstance(node, ast.If))
    modules = {
        alias.name: str(node.module)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(modules[name]), name)

    return find, lambda: sorted(modules), sorted(modules)
