"""Warnings of other libraries about files, shown with the name of the file."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import get_ident
from types import ModuleType
from typing import Any

Shown = tuple[str, type[Warning], str, int]  # text, category, and the line of code that warned

_read: dict[int, str | None] = {}  # the file that each thread reads; None while its warning is shown
_registry: dict[Any, Any] = {}  # where Python notes what its filters show once


@contextmanager
def naming(path: str | Path, library: str) -> Iterator[None]:
    """Inside, warnings that ``library`` raises in this thread start with the path of the file that is read.

    By default Python shows a warning once for each line of code, so of many files only the first is warned of. Here
    it is shown once for each file. The filters of the process apply.
    """
    thread = get_ident()
    _read[thread] = str(path)
    _start()
    for module in _loaded(library, len(sys.modules)):
        vars(module).pop("__warningregistry__", None)
    try:
        yield
    finally:
        del _read[thread]
        _stop()


def show(text: str, category: type[Warning], filename: str, line: int) -> None:
    """Shows a warning that names its file, unless it was shown before, as the filters of the process define."""
    warnings.warn_explicit(text, category, filename, line, registry=_registry)


class _Named:
    """``warnings.showwarning`` while files are read."""

    def __init__(self, before: Callable[..., None]) -> None:
        self.before = before

    def __call__(self, message: Warning | str, category: type[Warning], filename: str, line: int, *rest: Any) -> None:
        thread = get_ident()
        path = _read.get(thread)
        if path is None:
            self.before(message, category, filename, line, *rest)
            return
        _read[thread] = None
        try:
            show(f"{path}: {message}", category, filename, line)
        finally:
            _read[thread] = path


def _start() -> None:
    module: Any = warnings
    if not isinstance(module.showwarning, _Named):
        module.showwarning = _Named(module.showwarning)


def _stop() -> None:
    module: Any = warnings
    if not _read and isinstance(module.showwarning, _Named):
        module.showwarning = module.showwarning.before
        if _read:  # another thread has started in between
            _start()


@lru_cache(maxsize=1)
def _loaded(library: str, loaded: int) -> list[ModuleType]:
    """The modules of a library, while ``loaded`` modules are imported."""
    return [module for name, module in list(sys.modules.items()) if f"{name}.".startswith(f"{library}.")]
