"""Frames and folders in a folder, in natural order."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from strfnet.data.tracklet import natural_key

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_OTHER_IMAGES = frozenset(
    {".apng", ".avif", ".bmp", ".cr2", ".dds", ".dib", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".hif"}
    | {".j2k", ".jfi", ".jfif", ".jif", ".jp2", ".jpe", ".jpf", ".jpx", ".jxl", ".nef", ".pam", ".pbm", ".pcx"}
    | {".pfm", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga", ".tif", ".tiff", ".webp"}
)
_OF_SYSTEMS = frozenset(  # folders that file servers, archives and file systems add
    {"@eaDir", "#recycle", "#snapshot", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
)
_MASK = re.compile(r"[_-](mask|masks|seg|segmentation|depth|alpha|parsing|pose|flow)\Z", re.IGNORECASE)
_NEGATIVE, _FRACTION = re.compile(r"-[0-9.]+"), re.compile(r"[0-9]+\.[0-9]+")

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
    """The files and the folders in a folder, each in natural order. Links are followed.

    Hidden ones are left out, and the folders that systems add, such as "@eaDir", "__MACOSX" and "lost+found".

    Raises: ValueError naming the path if the folder is missing or no folder, or has an entry that is neither file nor
    folder, such as a broken link.
    """
    files, folders = _scan(folder)
    return _paths(folder, files), _paths(folder, folders)


def names_in(folder: Path) -> set[str]:
    """The names of a folder's files, without hidden ones; one scan is faster than a million look-ups."""
    return set(_scan(folder)[0])


def frames_among(files: Iterable[Path]) -> tuple[Path, ...]:
    """The files that are frames, in the given order.

    Raises: ValueError for an image of another format or an incomplete one (``.jpg.part``), for a mask beside the
    frames, by its name or as a second image of one name, and for names whose order is ambiguous: numbers below zero,
    and fractions of unequal length, of which 0.25 follows 0.5 in natural order.
    """
    frames = []
    for file in files:
        name, dot, suffix = file.name.rpartition(".")
        if name and f"{dot}{suffix}".lower() in FRAME_SUFFIXES:
            frames.append(file)
        elif {suffix.lower() for suffix in file.suffixes} & (FRAME_SUFFIXES | _OTHER_IMAGES):
            raise ValueError(f"{file} looks like a frame, but is none of {', '.join(sorted(FRAME_SUFFIXES))}")
    _check_names(frames)
    return tuple(frames)


def _check_names(frames: list[Path]) -> None:
    names: dict[tuple[str, str], Path] = {}
    fractions: dict[str, Path] = {}
    for frame in frames:
        folder, name = os.path.split(frame)  # the properties of paths are several times slower
        stem = os.path.splitext(name)[0]
        twin = names.setdefault((folder, stem.lower()), frame)
        if twin is not frame:
            raise ValueError(f"{twin} and {name} are two images of one frame, wanted the frames alone")
        if _MASK.search(stem):
            raise ValueError(
                f"{frame} is named as what belongs to a frame, such as its mask; wanted the frames alone"
            )
        if len(frames) > 1 and _NEGATIVE.fullmatch(stem):
            raise ValueError(f"the place of {frame} among the frames is ambiguous, wanted numbers from 0")
        if _FRACTION.fullmatch(stem):
            other = fractions.setdefault(folder, frame)
            if len(other.suffixes[0]) != len(frame.suffixes[0]):
                raise ValueError(f"the order of {other} and {name} is ambiguous, wanted as many digits in each")


def check_folder(path: Path, wanted: str) -> None:
    """Raises: ValueError if there is no folder at a path."""
    if not path.is_dir():
        raise ValueError(f"{path} is {'no folder' if path.exists() else 'missing'}, wanted {wanted}")


def check_file(path: Path, wanted: str) -> None:
    """Raises: ValueError if there is no file at a path."""
    if not path.is_file():
        raise ValueError(f"{path} is {'no file' if path.exists() else 'missing'}, wanted {wanted}")


def _scan(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the files and of the folders in a folder; paths for all would take longer than the scan."""
    files: list[str] = []
    folders: list[str] = []
    try:
        found = os.scandir(folder)  # it distinguishes files from folders without a call for each
    except (FileNotFoundError, NotADirectoryError):
        check_folder(folder, "a folder")
        raise
    with found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if entry.name not in _OF_SYSTEMS:
                    folders.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
            else:
                raise ValueError(f"{entry.path} is neither a file nor a folder, perhaps a broken link")
    return files, folders


def _paths(folder: Path, names: list[str]) -> tuple[Path, ...]:
    if len(names) > 1:
        names = sorted(names, key=natural_key)
    return tuple([folder / name for name in names])
