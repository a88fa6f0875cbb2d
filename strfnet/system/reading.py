"""Files that are read only if they are regular: no pipe that waits for ever, no device without an end."""

import os
import stat
from pathlib import Path

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


def is_plain_name(name: str) -> bool:
    """Whether a name is that of a file in its folder: it has no separator and is not "..", on any system."""
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _open_without_waiting(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def special_kind(mode: int) -> str | None:
    """What a path is, by its ``st_mode``; None for a regular file."""
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def _check(mode: int) -> None:
    if kind := special_kind(mode):
        raise ValueError(f"it is {kind}, wanted a regular file")
