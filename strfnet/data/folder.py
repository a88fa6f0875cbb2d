"""Tracklets from a folder of image files, where the folders' names say who was seen by whom."""

from pathlib import Path

from strfnet.data.tracklet import Tracklet, natural_order

FRAME_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_OTHER_IMAGES = frozenset({".avif", ".bmp", ".gif", ".heic", ".jp2", ".tif", ".tiff", ".webp"})
_LAYOUT = "<identity>/<camera>/<tracklet>/*.jpg (or without <camera>, or <tracklet>/*.jpg alone)"


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
    at the end of a branch holds none; if images lie in the root, beside folders, too deep or at two depths.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is {'no folder' if root.exists() else 'missing'}, wanted {_LAYOUT} in it")
    folders = [tracklet for child in _visible(root, "folders") for tracklet in _frame_folders(child, root)]
    if _frames(root):
        raise ValueError(f"images lie directly in {root}, wanted {_LAYOUT} in it")
    if not folders:
        raise ValueError(f"no images below {root}, wanted {_LAYOUT} in it")
    depths = {len(folder.relative_to(root).parts): folder for folder in folders}
    if len(depths) > 1:
        one, other = list(depths.values())[:2]
        raise ValueError(f"tracklets {one} and {other} lie at different depths, wanted {_LAYOUT} for all")
    return [_tracklet(folder, root) for folder in folders]


def _tracklet(folder: Path, root: Path) -> Tracklet:
    names = folder.relative_to(root).parts
    return Tracklet(_frames(folder), identity=names[0], camera=names[1] if len(names) == 3 else None)


def _frame_folders(folder: Path, root: Path) -> list[Path]:
    """The folders with images at the ends of the branches that start here; perhaps ``folder`` alone."""
    frames, inner = _frames(folder), _visible(folder, "folders")
    if frames and inner:
        raise ValueError(f"{folder} holds images beside folders, wanted one or the other: {_LAYOUT} in {root}")
    if frames:
        return [folder]
    if not inner:
        raise ValueError(f"{folder} holds no {', '.join(sorted(FRAME_SUFFIXES))} images, wanted at least one")
    if len(folder.relative_to(root).parts) == 3:
        raise ValueError(f"{folder} holds folders, one level more than {_LAYOUT} in {root}")
    return [found for child in inner for found in _frame_folders(child, root)]


def _frames(folder: Path) -> tuple[Path, ...]:
    files = _visible(folder, "files")
    frames = tuple(file for file in files if file.suffix.lower() in FRAME_SUFFIXES)
    for file in set(files) - set(frames):
        if {suffix.lower() for suffix in file.suffixes} & (FRAME_SUFFIXES | _OTHER_IMAGES):
            raise ValueError(f"{file} looks like a frame, but is none of {', '.join(sorted(FRAME_SUFFIXES))}")
    return frames


def _visible(folder: Path, kind: str) -> list[Path]:
    """The ``files`` or the ``folders`` in a folder, hidden ones left out, in natural order."""
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted((path for path in shown if path.is_dir() == (kind == "folders")), key=natural_order)
