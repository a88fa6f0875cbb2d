"""Tracklets from folders of image files that are named by identity and camera."""

import filecmp
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from strfnet.data.readers.directory import FRAME_SUFFIXES, check_folder, collected, entries, frames_among
from strfnet.data.readers.repeats import Placed, check_apart
from strfnet.data.tracklet import DataSet, Tracklet

_LAYOUT = "<identity>/<camera>/<tracklet>/*.jpg (or without <camera>, or <tracklet>/*.jpg alone)"
PARTS = ("train", "test", "query", "gallery")
_WANTED = "wanted train, and test or both query and gallery"


def read_folder(root: str | Path) -> list[Tracklet]:
    """Read all tracklets below a folder, in natural order of their paths. No image is decoded.

    A folder of images is one tracklet, with its images in natural order as the frames. Its path gives identity and
    camera. All tracklets have the same depth:

    - ``root/<identity>/<camera>/<tracklet>/*.jpg``
    - ``root/<identity>/<tracklet>/*.jpg``: the camera is None
    - ``root/<tracklet>/*.jpg``: the folder's name is the identity, the camera is None

    Frames are ``.jpg``, ``.jpeg`` and ``.png`` files, in upper or lower case. Hidden files and folders, and files
    that are no images, are ignored. Images of another format or incomplete ones (``.jpg.part``) raise an error, so
    that no tracklet is silently shorter than its folder.

    Raises: ValueError naming the path if the root is missing, is no folder or has no images; if a folder is empty; if
    images are in the root, beside folders, too deep or at two depths; or if a link is broken.
    """
    root = Path(root)
    check_folder(root, f"{_LAYOUT} in it")
    files, folders = entries(root)
    tracklets = [tracklet for folder in folders for tracklet in _tracklets(folder, root)]
    if frames_among(files):
        raise ValueError(f"images are directly in {root}, wanted {_LAYOUT} in it")
    if not tracklets:
        raise ValueError(f"no images below {root}, wanted {_LAYOUT} in it")
    depths = {len(folder.relative_to(root).parts): folder for folder, _ in tracklets}
    if len(depths) > 1:
        one, other = list(depths.values())[:2]
        raise ValueError(f"tracklets {one} and {other} have different depths, wanted {_LAYOUT} for all")
    return [tracklet for _, tracklet in tracklets]


def read_folder_data_set(root: str | Path) -> DataSet:
    """Read a data set of your own, for training and testing.

    ``root`` has some of these folders, each in the layout of ``read_folder``:

    - ``train``: training tracklets; it may be missing
    - ``test``: the gallery, of which ``first_queries`` selects the queries
    - ``query`` and ``gallery`` instead of ``test``; a query whose files are also in the gallery, in a folder of the
      same name and with the same bytes, is one tracklet, both query and gallery

    A root with none of these folders is a test set.

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
    tracklets = {name: read_folder(path) for name, path in parts.items()}
    check_apart(Placed(name, str(Path(one.where).parent), one) for name in tracklets for one in tracklets[name])
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
    """
    train, test = tuple(parts.get("train", ())), list(parts.get("gallery", parts.get("test", ())))
    gallery = tuple(range(len(test)))
    if "query" not in parts:
        return DataSet(name, train, tuple(test), first_queries(test), gallery)
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
        if tracklet.identity is not None and len(views[tracklet.identity]) > 1:
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
def _tracklets(folder: Path, root: Path) -> list[tuple[Path, Tracklet]]:
    """The folders with images in or below ``folder``, and their tracklets."""
    files, inner = entries(folder)
    frames, place = frames_among(files), folder.relative_to(root).parts
    if frames and inner:
        raise ValueError(f"{folder} holds images beside folders, wanted one or the other: {_LAYOUT} in {root}")
    if frames:
        return [(folder, Tracklet(frames, identity=place[0], camera=place[1] if len(place) == 3 else None))]
    if not inner:
        raise ValueError(f"{folder} holds no {', '.join(sorted(FRAME_SUFFIXES))} images, wanted at least one")
    if len(place) == 3:
        raise ValueError(f"{folder} holds folders one level deeper than {_LAYOUT} in {root}")
    return [found for child in inner for found in _tracklets(child, root)]
