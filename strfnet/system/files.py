"""Files that are there whole or not at all, also after a crash."""

import os
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file at once: whoever reads it, even after a crash, finds the old content or the new."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_through(unfinished, content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_through(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the names in a folder; a new name is safe when its folder is."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def claim(path: Path) -> int | None:
    """Hold a file for this process alone, until it closes the handle or ends, however it ends.

    Returns: the handle, or None where there are no such locks (not on POSIX, or not in that file system).
    Raises: ValueError if another process holds it.
    """
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked workers, which may outlive us, do not have it
    except (BlockingIOError, PermissionError) as error:
        os.close(handle)
        raise ValueError(f"another process works in {path.parent}: wait for it, or take another folder") from error
    except OSError:
        os.close(handle)
        return None
    return handle
