"""Frames and folders in a folder, in natural order."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from strfnet.data.tracklet import natural_order

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_OTHER_IMAGES = frozenset({".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp"})

_collected: ContextVar[list[ValueError] | None] = ContextVar("collected", default=None)
Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")


@contextmanager
def collecting() -> Iterator[list[ValueError]]:
    """Inside, the `collected` functions leave out what they refuse; yields their errors."""
    errors: list[ValueError] = []
    token = _collected.set(errors)
    try:
        yield errors
    finally:
        _collected.reset(token)


def collected(read: Callable[Arguments, list[Item]]) -> Callable[Arguments, list[Item]]:
    """Decorates a function that reads a folder or a line: inside `collecting` it returns [] in place of its error."""

    @wraps(read)
    def reading(*args: Arguments.args, **kwargs: Arguments.kwargs) -> list[Item]:
        errors = _collected.get()
        try:
            return read(*args, **kwargs)
        except ValueError as error:
            if errors is None:
                raise
            errors.append(error)
            return []

    return reading


def frames_in(folder: Path) -> tuple[Path, ...]:
    """The frames of a folder with one tracklet.

    Raises: ValueError naming the folder if it is missing, no folder, without frames or has folders; or naming an
    image of another format.
    """
    files, folders = entries(folder)
    frames = frames_among(files)
    if folders or not frames:
        found = f"the folder {folders[0].name}" if folders else f"no {', '.join(sorted(FRAME_SUFFIXES))} images"
        raise ValueError(f"{folder} holds {found}, wanted the frames of one tracklet")
    return frames


def folders_in(folder: Path) -> tuple[Path, ...]:
    """The folders in a folder.

    Raises: ValueError naming the folder if it is missing, no folder, without folders, or has images too.
    """
    files, folders = entries(folder)
    if not folders or frames_among(files):
        raise ValueError(
            f"{folder} holds {'images beside folders' if folders else 'no folders'}, wanted folders alone"
        )
    return folders


def entries(folder: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files and the folders in a folder, each in natural order, without hidden ones. Links are followed.

    Raises: ValueError naming the path if the folder is missing or no folder, or has an entry that is neither file nor
    folder, such as a broken link.
    """
    files, folders = _scan(folder)
    return tuple(sorted(files.values(), key=natural_order)), tuple(sorted(folders, key=natural_order))


def files_by_name(folder: Path) -> dict[str, Path]:
    """The files of a folder by name, without hidden ones; one scan is faster than a million look-ups."""
    return _scan(folder)[0]


def frames_among(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files that are frames, in the given order.

    Raises: ValueError for an image of another format or an incomplete one (``.jpg.part``).
    """
    frames = []
    for file in files:
        if file.suffix.lower() in FRAME_SUFFIXES:
            frames.append(file)
        elif {suffix.lower() for suffix in file.suffixes} & (FRAME_SUFFIXES | _OTHER_IMAGES):
            raise ValueError(f"{file} looks like a frame, but is none of {', '.join(sorted(FRAME_SUFFIXES))}")
    return tuple(frames)


def check_folder(path: Path, wanted: str) -> None:
    """Raises: ValueError if there is no folder at a path."""
    if not path.is_dir():
        raise ValueError(f"{path} is {'no folder' if path.exists() else 'missing'}, wanted {wanted}")


def check_file(path: Path, wanted: str) -> None:
    """Raises: ValueError if there is no file at a path."""
    if not path.is_file():
        raise ValueError(f"{path} is {'no file' if path.exists() else 'missing'}, wanted {wanted}")


def _scan(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    check_folder(folder, "a folder")
    files, folders = {}, []
    with os.scandir(folder) as found:  # it distinguishes files from folders without a call for each
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(folder / entry.name)
            elif entry.is_file():
                files[entry.name] = folder / entry.name
            else:
                raise ValueError(f"{entry.path} is neither a file nor a folder, perhaps a broken link")
    return files, folders
