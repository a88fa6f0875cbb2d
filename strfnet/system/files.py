"""Files and folders that are replaced and removed atomically, also when the process or the machine dies.

What is unfinished bears a random name that starts with `MARK`, and nothing else is ever cleaned away.
"""

import errno
import os
import secrets
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from strfnet.system.reading import special_kind

if os.name == "posix":
    import fcntl

MARK = ".strfnet-"
_locked: set[str] = set()  # by this process, whose threads a lock of the system does not keep apart
_locking = threading.Lock()
_FULL = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)


def check_writable(path: Path) -> None:
    """Raises: ValueError unless `write_atomically` can write ``path``; call it before long work."""
    folder = target_of(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is no folder" if folder.exists() else "does not exist"
        what = "may not be written to" if folder.is_dir() else what
        raise ValueError(f"cannot write {path}, wanted a file in an existing folder: {folder} {what}")


def target_of(path: Path) -> Path:
    """Returns the file that ``path`` names, or the free name; links are followed.

    Raises: ValueError if it is a folder, a device, a pipe or a socket, which no file may replace.
    """
    _check_free_or_regular(path, "write", "wanted a file in an existing folder")
    return Path(os.path.realpath(path))


def _check_free_or_regular(path: Path, verb: str, wanted: str) -> None:
    with suppress(FileNotFoundError, NotADirectoryError):
        if kind := special_kind(os.stat(path).st_mode):
            raise ValueError(f"cannot {verb} {path}: it is {kind}, {wanted}")


def make_folder(path: Path) -> None:
    """Make a folder, and those above it. Raises: ValueError if something else has its name, or that of one above."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        taken = next(one for one in (path, *path.parents) if os.path.lexists(one))
        wanted = f"because {taken} is none: wanted a folder or a free name"
        raise ValueError(f"{path} cannot be a folder, {wanted}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader finds the old content or the new, also after a crash. See `replacing`."""
    with replacing(path, size=len(content)) as file:
        file.write(content)


@contextmanager
def replacing(path: Path, *, size: int | None = None) -> Iterator[BinaryIO]:
    """A file to write, which replaces ``path`` when the block ends, unless it raises.

    Mode and owner of the old file are kept, the owner as far as this process may give files away. A link stays, and
    the file that it names is replaced. What a killed call has left in the folder is removed.

    Args:
        path: of the file.
        size: bytes that the file will have, for the error of a full disk; None if unknown.

    Raises: ValueError as `target_of` does; OSError as `room_for` does.
    """
    target = target_of(path)
    remove_unfinished(target.parent, folders=False)
    unfinished, file, held = _new_file(target.parent)
    try:
        with room_for(path, size, unfinished), file:
            _take_owner(file.fileno(), target)
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
        if held is not None:
            os.close(held)
    sync_folder(target.parent)


@contextmanager
def room_for(path: Path, size: int | None, unfinished: Path | None = None) -> Iterator[None]:
    """Raises: OSError naming ``path`` and the bytes that it needs, if the block finds no room for them.

    Args:
        path: of the file that the block writes.
        size: its bytes; None if they are unknown.
        unfinished: the file that is written in its place; its size is the least that is needed.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        needed = f"{size}" if unfinished is None or size is not None else f"more than {unfinished.stat().st_size}"
        full = OSError(f"cannot write {path}, which needs {needed} bytes: {error.strerror}")
        full.errno = error.errno
        raise full from error


def _new_file(folder: Path) -> tuple[Path, BinaryIO, int | None]:
    """A new file that is locked, so that `remove_unfinished` leaves it, by the handle that comes third."""
    while True:
        path = unfinished_name(folder)
        file = path.open("xb")  # exclusive: no link that is planted is followed
        if os.name != "posix":
            return path, file, None
        held = os.dup(file.fileno())
        with suppress(OSError):  # a file system without locks
            fcntl.flock(held, fcntl.LOCK_EX)
        if path.exists():
            return path, file, held
        file.close()  # another process has cleaned up between the two calls
        os.close(held)


def _take_owner(handle: int, target: Path) -> None:
    """Gives a file the owner and the mode of another that it will replace, if that exists."""
    if os.name != "posix" or not target.exists():
        return
    old, new = target.stat(), os.fstat(handle)
    if (old.st_uid, old.st_gid) != (new.st_uid, new.st_gid):
        with suppress(PermissionError):
            os.fchown(handle, old.st_uid, old.st_gid)
    os.fchmod(handle, stat.S_IMODE(old.st_mode))


def unfinished_name(folder: Path) -> Path:
    """A free name for what is not finished; nobody can guess it."""
    return folder / f"{MARK}{secrets.token_hex(8)}.part"


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
    if folder.exists():
        removed = unfinished_name(folder.parent)
        folder.rename(removed)
        shutil.rmtree(removed)


def remove_unfinished(folder: Path, *, folders: bool = True) -> None:
    """Remove what killed processes have left in a folder: files that nobody holds, and with ``folders`` those too."""
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(folder):
            if not (entry.name.startswith(MARK) and entry.name.endswith(".part")):
                continue
            if entry.is_dir(follow_symlinks=False):
                if folders:
                    shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.is_file(follow_symlinks=False):
                _remove_abandoned(Path(entry.path))


def _remove_abandoned(path: Path) -> None:
    if os.name != "posix":
        return
    with suppress(OSError):  # held by its writer, or gone
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
        finally:
            os.close(handle)


class Lock:
    """A locked file, until it is closed or the process ends. See `lock`."""

    def __init__(self, name: str, handle: int | None) -> None:
        self._name, self._handle = name, handle

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        _locked.discard(self._name)


def lock(path: Path) -> Lock:
    """Lock a file for one thread of this process; for one of all processes, where the file system has locks.

    Raises: ValueError if another process or thread has locked it, or if ``path`` is no file.
    """
    _check_free_or_regular(path, "lock", "wanted a file or a free name")
    name = os.path.realpath(path)
    with _locking:
        if name in _locked:
            raise ValueError(f"another thread works in {path.parent}: wait for it, or use another folder")
        handle = None
        if os.name == "posix":
            handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
            try:
                # Not flock: forked workers would inherit it, and they may live longer.
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                os.close(handle)
                wanted = "wait for it, or use another folder"
                raise ValueError(f"another process works in {path.parent}: {wanted}") from error
            except OSError:
                os.close(handle)
                handle = None
        _locked.add(name)
    return Lock(name, handle)
