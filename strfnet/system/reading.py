"""Files that are read only if they are regular, and warnings that name the file that is read."""

import os
import stat
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from threading import get_ident
from types import ModuleType
from typing import Any, BinaryIO

SMALL = 2**20  # bytes of a file that is read at once

Shown = tuple[str, type[Warning], str, int]  # text, category, and the line of code that warned

_read: dict[int, str | None] = {}  # the file that each thread reads; None while its warning is shown
_registry: dict[Any, Any] = {}  # where Python notes what its filters show once

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


def check_regular(path: str | Path) -> None:
    """Raises: ValueError if a path is a folder, a pipe, a device or a socket; OSError if it cannot be found."""
    _check(os.stat(path).st_mode)


def read_regular(path: str | Path, *, most: int | None = None) -> bytes:
    """The content of a regular file. Links are followed.

    Args:
        path: of the file.
        most: bytes that are accepted; None for any number.

    Raises: ValueError if it is no regular file, or larger; OSError if it cannot be opened or read.
    """
    check_regular(path)
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        _check(status.st_mode)
        if most is not None and status.st_size > most:
            raise ValueError(f"it has {status.st_size} bytes, wanted at most {most}")
        return file.read() if most is None else file.read(most)


def open_regular(path: str | Path) -> BinaryIO:
    """A regular file, opened for reading; a small one is read and closed. Links are followed.

    Raises: ValueError if it is no regular file; OSError if it cannot be opened or read.
    """
    check_regular(path)
    descriptor = _open_without_waiting(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        _check(status.st_mode)
        if status.st_size > SMALL:
            return open(os.dup(descriptor), "rb")
        # Few calls of the system: each lets go of the interpreter's lock, which threads that decode hand around.
        return BytesIO(b"".join(iter(lambda: os.read(descriptor, status.st_size + 1), b"")))
    finally:
        os.close(descriptor)


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in its folder: it has no separator and is not "..", on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _open_without_waiting(path: str | Path, flags: int) -> int:
    """Opens a pipe without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def special_kind(mode: int) -> str | None:
    """What a path is, by its ``st_mode``; None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def _check(mode: int) -> None:
    if kind := special_kind(mode):
        raise ValueError(f"it is {kind}, wanted a regular file")


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
