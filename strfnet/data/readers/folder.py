"""Tracklets from a folder of image files, where the folders' names say who was seen by whom."""

import filecmp
from collections.abc import Callable, Sequence
from pathlib import Path

from strfnet.data.readers.directory import FRAME_SUFFIXES, entries, frames_among
from strfnet.data.tracklet import DataSet, Tracklet

_LAYOUT = "<identity>/<camera>/<tracklet>/*.jpg (or without <camera>, or <tracklet>/*.jpg alone)"
_PARTS = ("train", "test", "query", "gallery")


def read_folder(root: str | Path) -> list[Tracklet]:
    """All tracklets below a folder, in natural order of their paths; nothing is decoded.

    A folder that holds images is one tracklet, its images in natural number order are the frames, and its
    place says the rest. All tracklets of a root lie at one depth:

    - ``root/<identity>/<camera>/<tracklet>/*.jpg``
    - ``root/<identity>/<tracklet>/*.jpg``: the camera is None
    - ``root/<tracklet>/*.jpg``: the folder's name is the identity, the camera is None

    Frames are ``.jpg``, ``.jpeg`` and ``.png`` files in any case. Hidden files and folders and files that are
    no images are left out; images of another kind, or half copied (``.jpg.part``), are refused rather than
    left out, so that no tracklet is silently shorter than its folder.

    Raises: ValueError naming the path, if the root is missing, is no folder or holds no images; if a folder
    at the end of a branch holds none; if images lie in the root, beside folders, too deep or at two depths; if
    a link leads nowhere.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is {'no folder' if root.exists() else 'missing'}, wanted {_LAYOUT} in it")
    files, folders = entries(root)
    tracklets = [tracklet for folder in folders for tracklet in _tracklets(folder, root)]
    if frames_among(files):
        raise ValueError(f"images lie directly in {root}, wanted {_LAYOUT} in it")
    if not tracklets:
        raise ValueError(f"no images below {root}, wanted {_LAYOUT} in it")
    depths = {len(folder.relative_to(root).parts): folder for folder, _ in tracklets}
    if len(depths) > 1:
        one, other = list(depths.values())[:2]
        raise ValueError(f"tracklets {one} and {other} lie at different depths, wanted {_LAYOUT} for all")
    return [tracklet for _, tracklet in tracklets]


def read_folder_data_set(root: str | Path) -> DataSet:
    """People's own tracklets, for training and testing.

    ``root`` holds some of these folders, each laid out as ``read_folder`` takes it:

    - ``train``: what is learnt from; without it there is none
    - ``test``: the gallery; ``first_queries`` says which of its tracklets are asked for
    - or ``query`` and ``gallery`` in the place of ``test``; a query whose files lie in the gallery too, at the
      same place and byte for byte, is one tracklet, both query and gallery

    A root with none of these names is a test alone.

    Raises: ValueError naming the path for other folders beside these, for a query without a gallery or the
    reverse, for ``test`` beside them, and for whatever ``read_folder`` refuses.
    """
    root = Path(root)
    parts = {folder.name: folder for folder in (entries(root)[1] if root.is_dir() else ())}
    if not parts.keys() & set(_PARTS):
        return asked_by_rule(f"folder {root.name}", train=(), test=read_folder(root))
    wanted = "wanted train, and test or both query and gallery"
    stray = next((path for name, path in parts.items() if name not in _PARTS), None)
    if stray is not None:
        raise ValueError(f"{stray} lies beside {', '.join(name for name in _PARTS if name in parts)}, {wanted}")
    if ("query" in parts) != ("gallery" in parts) or {"test", "query"} <= parts.keys():
        raise ValueError(f"{root} holds {', '.join(parts)}, {wanted}")
    tracklets = {name: read_folder(path) for name, path in parts.items()}
    name, train = f"folder {root.name}", tracklets.get("train", [])
    if "query" not in tracklets:
        return asked_by_rule(name, train=train, test=tracklets.get("test", []))
    return asked_apart(name, train=train, query=tracklets["query"], gallery=tracklets["gallery"], same=_same_files)


def asked_by_rule(name: str, *, train: Sequence[Tracklet], test: Sequence[Tracklet]) -> DataSet:
    """A data set whose gallery is the whole test, and whose queries are chosen by ``first_queries``."""
    return DataSet(name, tuple(train), tuple(test), first_queries(test), tuple(range(len(test))))


def first_queries(test: Sequence[Tracklet]) -> tuple[int, ...]:
    """Rows of a test to ask for: of every identity that two cameras saw, the first tracklet of each camera.

    Where the camera is None, the first tracklet of every identity that has two. What is left has no match to
    be found. The rule is ours.
    """
    views: dict[object, set[object]] = {}
    for row, tracklet in enumerate(test):
        # Without cameras every tracklet is a view of its own.
        views.setdefault(tracklet.identity, set()).add((None, row) if tracklet.camera is None else tracklet.camera)
    chosen: dict[object, int] = {}
    for row, tracklet in enumerate(test):
        if len(views[tracklet.identity]) > 1:
            chosen.setdefault((tracklet.identity, tracklet.camera), row)
    return tuple(chosen.values())


def asked_apart(
    name: str,
    *,
    train: Sequence[Tracklet],
    query: Sequence[Tracklet],
    gallery: Sequence[Tracklet],
    same: Callable[[Tracklet, Tracklet], bool],
) -> DataSet:
    """A data set whose queries are listed apart from its gallery.

    The test is the gallery and behind it the queries that are not in it. Two tracklets of one identity and
    camera in folders of one name are one row if ``same`` says so; the row is then read from the gallery.
    """
    test = list(gallery)
    rows: dict[object, list[int]] = {}
    for row, tracklet in enumerate(gallery):
        rows.setdefault(_place(tracklet), []).append(row)
    asked = []
    for tracklet in query:
        twins = (row for row in rows.get(_place(tracklet), ()) if same(tracklet, gallery[row]))
        row = next(twins, len(test))
        if row == len(test):
            test.append(tracklet)
        asked.append(row)
    return DataSet(name, tuple(train), tuple(test), tuple(asked), tuple(range(len(gallery))))


def frame_names(tracklet: Tracklet) -> list[str]:
    """The names of a tracklet's files, without their folders."""
    return [frame.name for frame in tracklet.frames if isinstance(frame, Path)]


def _place(tracklet: Tracklet) -> tuple[object, ...]:
    first = tracklet.frames[0]
    return tracklet.identity, tracklet.camera, first.parent.name if isinstance(first, Path) else None


def _same_files(one: Tracklet, other: Tracklet) -> bool:
    # Own recordings are often numbered from 1 in each folder, so equal names prove nothing.
    return frame_names(one) == frame_names(other) and all(
        filecmp.cmp(str(a), str(b), shallow=False) for a, b in zip(one.frames, other.frames, strict=True)
    )


def _tracklets(folder: Path, root: Path) -> list[tuple[Path, Tracklet]]:
    """The folders with images at the ends of the branches that start here, and their tracklets."""
    files, inner = entries(folder)
    frames, place = frames_among(files), folder.relative_to(root).parts
    if frames and inner:
        raise ValueError(f"{folder} holds images beside folders, wanted one or the other: {_LAYOUT} in {root}")
    if frames:
        return [(folder, Tracklet(frames, identity=place[0], camera=place[1] if len(place) == 3 else None))]
    if not inner:
        raise ValueError(f"{folder} holds no {', '.join(sorted(FRAME_SUFFIXES))} images, wanted at least one")
    if len(place) == 3:
        raise ValueError(f"{folder} holds folders, one level more than {_LAYOUT} in {root}")
    return [found for child in inner for found in _tracklets(child, root)]
