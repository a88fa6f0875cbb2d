"""Tracklets from folders of image files that are named by identity and camera."""

import filecmp
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

from strfnet.data.readers.directory import FRAME_SUFFIXES, check_folder, collected, entries, frames_among
from strfnet.data.readers.readings import check_names, check_one_tracklet, identity_of
from strfnet.data.readers.repeats import Placed, check_apart
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet
from strfnet.system.names import check_choice

Layout = Literal["identity/camera/track", "camera/track"]
_LAYOUTS: dict[str, str] = {
    "identity/camera/track": "<identity>/<camera>/<tracklet>/*.jpg (or without <camera>, or <tracklet>/*.jpg alone)",
    "camera/track": "<camera>/<track>/*.jpg",
}
PARTS = ("train", "test", "query", "gallery")
_Found = tuple[Path, tuple[str, ...], tuple[Path, ...]]  # a folder, its names below the root, and its images
_WANTED = "wanted train, and test or both query and gallery"


def read_folder(root: str | Path, *, layout: Layout = "identity/camera/track") -> list[Tracklet]:
    """Read all tracklets below a folder, in natural order of their paths. No image is decoded.

    A folder of images is one tracklet, with its images in natural order as the frames. Its path gives identity and
    camera. All tracklets have the same depth:

    - ``root/<identity>/<camera>/<tracklet>/*.jpg``
    - ``root/<identity>/<tracklet>/*.jpg``: the camera is None
    - ``root/<tracklet>/*.jpg``: the folder's name is the identity, the camera is None

    With ``layout="camera/track"`` it is ``root/<camera>/<track>/*.jpg``: the identity is None, and ``details`` has
    the track. An identity ``junk`` or ``distractor`` is that of MARS, -1 or 0.

    Frames are ``.jpg``, ``.jpeg`` and ``.png`` files, in upper or lower case. Hidden files and folders, and files
    that are no images, are ignored. Images of another format or incomplete ones (``.jpg.part``) raise an error, so
    that no tracklet is silently shorter than its folder.

    Raises: ValueError naming the path if the root is missing, is no folder or has no images; if a folder is empty; if
    images are in the root, beside folders, too deep or at two depths; or if a link is broken. ValueError with both
    readings where there are two: folders ``train`` and ``test``, the tracks of `crop_video`, cameras in place of
    identities, frames named by camera as in published data sets, identities ``-1``, ``00-1`` and ``0000``.
    """
    root = Path(root)
    check_choice("layout", layout, get_args(Layout))
    wanted = _LAYOUTS[layout]
    check_folder(root, f"{wanted} in it")
    files, folders = entries(root)
    if layout == "identity/camera/track":
        check_names(root, folders, PARTS)
    found = [one for folder in folders for one in _folders(folder, (folder.name,), root, layout)]
    if frames_among(files):
        raise ValueError(f"images are directly in {root}, wanted {wanted} in it")
    if not found:
        raise ValueError(f"no images below {root}, wanted {wanted} in it")
    depths = {len(names): folder for folder, names, _ in found}
    if len(depths) > 1:
        one, other = list(depths.values())[:2]
        raise ValueError(f"tracklets {one} and {other} have different depths, wanted {wanted} for all")
    if layout == "camera/track" and 2 not in depths:
        raise ValueError(f"{found[0][0]} is a tracklet, wanted {wanted} in {root}")
    return [one for folder, names, frames in found for one in _tracklet(folder, names, frames, layout)]


def read_folder_data_set(root: str | Path, *, layout: Layout = "identity/camera/track") -> DataSet:
    """Read a data set of your own, for training and testing.

    ``root`` has some of these folders, each in the layout of ``read_folder``:

    - ``train``: training tracklets; it may be missing
    - ``test``: the gallery, of which ``first_queries`` selects the queries
    - ``query`` and ``gallery`` instead of ``test``; a query whose files are also in the gallery, in a folder of the
      same name and with the same bytes, is one tracklet, both query and gallery

    A root with none of these folders is a test set.

    Args:
        root: the folder.
        layout: of each part, as for ``read_folder``.

    Raises: ValueError naming the path of other folders beside these, for a query without a gallery or the reverse,
    for ``test`` beside them, for a file in two tracklets, whatever links lead to it, for two spellings of one
    identity or camera that look alike, and as ``read_folder`` does.
    """
    root = Path(root)
    parts = {folder.name: folder for folder in (entries(root)[1] if root.is_dir() else ())}
    if not parts.keys() & set(PARTS):
        parts = {"test": root}
    stray = next((path for name, path in parts.items() if name not in PARTS), None)
    if stray is not None:
        raise ValueError(f"{stray} is beside {', '.join(name for name in PARTS if name in parts)}, {_WANTED}")
    check_parts(parts, root)
    tracklets = {name: read_folder(path, layout=layout) for name, path in parts.items()}
    check_apart(Placed(name, os.path.dirname(one.where), one) for name in tracklets for one in tracklets[name])
    return data_set_of(f"folder {root.name}", tracklets, same=_same_files)


def check_parts(parts: Iterable[str], source: Path) -> None:
    """Raises: ValueError for a query without a gallery or the reverse, or for ``test`` beside them."""
    if ("query" in parts) != ("gallery" in parts) or {"test", "query"} <= {*parts}:
        raise ValueError(f"{source} holds {', '.join(parts)}, {_WANTED}")


def data_set_of(
    name: str, parts: Mapping[str, Sequence[Tracklet]], *, same: Callable[[Tracklet, Tracklet], bool]
) -> DataSet:
    """A data set of some of `PARTS`: with a query and a gallery, or with the queries of ``first_queries``.

    With a gallery, the test set is the gallery followed by the queries that are not in it. A query is a tracklet of
    the gallery if identity, camera and folder name are equal and ``same`` returns True.

    Raises: ValueError for junk or a distractor in ``train`` or ``query``.
    """
    for part in ("train", "query"):
        stray = next((item for item in parts.get(part, ()) if item.identity in (JUNK, DISTRACTOR)), None)
        if stray is not None:
            raise ValueError(f"{stray.where} is junk or a distractor in {part}, wanted it in test or gallery")
    train, test = tuple(parts.get("train", ())), list(parts.get("gallery", parts.get("test", ())))
    gallery = tuple(range(len(test)))
    if "query" not in parts:
        return replace(test_set(name, test), train=train)
    rows: dict[object, list[int]] = {}
    for row, tracklet in enumerate(test):
        rows.setdefault(_key(tracklet), []).append(row)
    queries = []
    for tracklet in parts["query"]:
        twins = (row for row in rows.get(_key(tracklet), ()) if same(tracklet, test[row]))
        row = next(twins, len(test))
        if row == len(test):
            test.append(tracklet)
        queries.append(row)
    return DataSet(name, train, tuple(test), tuple(queries), gallery)


def test_set(name: str, test: Sequence[Tracklet]) -> DataSet:
    """A data set for testing alone, with the queries of ``first_queries``; all tracklets are its gallery."""
    return DataSet(name, (), tuple(test), first_queries(test), tuple(range(len(test))))


def first_queries(test: Sequence[Tracklet]) -> tuple[int, ...]:
    """Rows of the queries: the first tracklet of each camera, for every identity that is in two cameras.

    Without cameras, the first tracklet of every identity that has two. Other tracklets have no match. The rule is
    ours.
    """
    views: dict[object, set[object]] = {}
    for row, tracklet in enumerate(test):
        # Without cameras every tracklet is a separate view.
        views.setdefault(tracklet.identity, set()).add((None, row) if tracklet.camera is None else tracklet.camera)
    chosen: dict[object, int] = {}
    for row, tracklet in enumerate(test):
        if tracklet.identity not in (None, JUNK, DISTRACTOR) and len(views[tracklet.identity]) > 1:
            chosen.setdefault((tracklet.identity, tracklet.camera), row)
    return tuple(chosen.values())


def frame_names(tracklet: Tracklet) -> list[str]:
    """The names of a tracklet's files, without their folders."""
    return [frame.name for frame in tracklet.frames if isinstance(frame, Path)]


def _key(tracklet: Tracklet) -> tuple[object, ...]:
    first = tracklet.frames[0]
    return tracklet.identity, tracklet.camera, first.parent.name if isinstance(first, Path) else None


def _same_files(one: Tracklet, other: Tracklet) -> bool:
    # Frames are often numbered from 1 in each folder, so equal names do not mean equal files.
    return frame_names(one) == frame_names(other) and all(
        filecmp.cmp(str(a), str(b), shallow=False) for a, b in zip(one.frames, other.frames, strict=True)
    )


@collected
def _folders(folder: Path, names: tuple[str, ...], root: Path, layout: Layout) -> list[_Found]:
    """The folders with images in or below ``folder``, which has these names below the root."""
    files, inner = entries(folder)
    frames, wanted = frames_among(files), _LAYOUTS[layout]
    if frames and inner:
        raise ValueError(f"{folder} holds images beside folders, wanted one or the other: {wanted} in {root}")
    if frames:
        return [(folder, names, frames)]
    if not inner:
        raise ValueError(f"{folder} holds no {', '.join(sorted(FRAME_SUFFIXES))} images, wanted at least one")
    if len(names) == len(layout.split("/")):
        raise ValueError(f"{folder} holds folders one level deeper than {wanted} in {root}")
    return [found for child in inner for found in _folders(child, (*names, child.name), root, layout)]


@collected
def _tracklet(folder: Path, names: tuple[str, ...], frames: tuple[Path, ...], layout: Layout) -> list[Tracklet]:
    """The tracklet of a folder with these names below the root."""
    if layout == "camera/track":
        check_one_tracklet(frames, folder, needs_camera=False)
        return [Tracklet(frames, None, names[0], {"track": names[1]})]
    camera = names[1] if len(names) == 3 else None
    check_one_tracklet(frames, folder, needs_camera=camera is None)
    return [Tracklet(frames, identity_of(names[0], folder), camera)]
