"""Files and folders that are replaced and removed atomically, also when the process or the machine dies."""

import os
import secrets
import shutil
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader finds the old content or the new, also after a crash.

    The temporary name is random, so that nobody can plant a link there.
    """
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        write_synced(unfinished, content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk. Raises: FileExistsError for a name that is taken."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; a new file is safe only then."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that no reader finds a part of it: it is renamed first. One that is missing is ignored."""
    removed = folder.with_name(f".{folder.name}.gone.part")
    shutil.rmtree(removed, ignore_errors=True)
    if folder.exists():
        folder.rename(removed)
        shutil.rmtree(removed)


def remove_unfinished(folder: Path) -> None:
    """Remove what interrupted writes and removals have left in a folder."""
    for unfinished in folder.glob(".*.part") if folder.is_dir() else ():
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def lock(path: Path) -> int | None:
    """Lock a file for this process, until it closes the handle or ends.

    Returns: the handle, or None where the system has no such locks (it is not POSIX, or the file system has none).
    Raises: ValueError if another process has locked it.
    """
    if os.name != "posix":
        return None
    import fcntl

    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # forked workers, which may live longer, do not inherit it
    except (BlockingIOError, PermissionError) as error:
        os.close(handle)
        raise ValueError(f"another process works in {path.parent}: wait for it, or use another folder") from error
    except OSError:
        os.close(handle)
        return None
    return handle
