"""Synthetic walkers as JPEG files: one folder per tracklet, or the layout of MARS."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strfnet.data.synthetic.rendering import render
from strfnet.data.synthetic.walkers import draw_camera, draw_walker
from strfnet.data.tracklet import JUNK, DataSet, Tracklet
from strfnet.system.files import make_folder, unfinished_name


def write_walkers(
    root: str | Path,
    *,
    identities: int = 6,
    cameras: int = 2,
    tracklets: int = 1,
    frames: int = 16,
    seed: int = 0,
    height: int = 128,
) -> None:
    """Writes JPEG frames that `strfnet.data.read_folder` reads: ``root/<identity>/<camera>/<tracklet>/*.jpg``.

    ``root`` appears when all files are written, so an interrupted call leaves no partial data set.

    Args:
        root: folder to create.
        identities: number of walkers.
        cameras: number of cameras; every camera records every walker.
        tracklets: tracklets per walker and camera.
        frames: frames per tracklet.
        seed: seed of walkers, cameras and nuisances.
        height: frame height in pixels; the width is half of it.

    Raises: ValueError if ``root`` exists and is not empty, or a count is below 1.
    """
    if min(identities, cameras, tracklets) < 1:
        raise ValueError(f"got {identities=}, {cameras=}, {tracklets=}, wanted at least 1 of each")
    with _new_folder(root) as unfinished:
        for identity, camera, tracklet in np.ndindex(identities, cameras, tracklets):
            folder = unfinished / f"walker{identity + 1}" / f"camera{camera + 1}" / f"tracklet{tracklet + 1}"
            clip = render(
                draw_walker(seed, identity),
                draw_camera(seed, camera),
                frames=frames,
                seed=(3, seed, identity, camera, tracklet),
                height=height,
            )
            _write_jpegs([folder / f"{number:04d}.jpg" for number in range(1, frames + 1)], clip)


def write_mars(root: str | Path, data: DataSet) -> None:
    """Writes a data set in memory as files that the MARS reader reads (with ``complete=False``).

    Frames become JPEGs ``bbox_train/0065/0065C1T0002F016.jpg`` (identity, camera, tracklet of that identity and
    camera, frame; ``00-1`` for junk). ``info`` gets the lists of names and, through scipy, MATLAB's tables. Tracklets
    are sorted by identity, as in MARS. The gallery that a reader finds is the whole test. ``root`` appears when all
    files are written.

    Raises: ValueError if ``root`` exists and is not empty, if a frame is a file, if an identity is not an integer
    from -1 to 9999, or if a camera is not an integer from 1 to 9; ImportError without scipy.
    """
    try:
        from scipy.io import savemat
    except ImportError as error:
        raise ImportError('writing MARS\'s tables needs scipy: pip install "strfnet[matlab]"') from error

    for tracklet in (*data.train, *data.test):
        _check(tracklet)
    with _new_folder(root) as folder:
        info = folder / "info"
        info.mkdir()
        for part, tracklets in (("train", data.train), ("test", data.test)):
            names, table = _write_part(folder / f"bbox_{part}", [tracklet for _, tracklet in _by_identity(tracklets)])
            (info / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
            savemat(info / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(table, dtype=np.int32)})
        numbers = {row: number for number, (row, _) in enumerate(_by_identity(data.test), start=1)}
        query = np.array([[numbers[row] for row in data.query]], dtype=np.uint16)
        savemat(info / "query_IDX.mat", {"query_IDX": query})


@contextmanager
def _new_folder(root: str | Path) -> Iterator[Path]:
    """Yields a hidden folder that is renamed to ``root`` when the block succeeds.

    Raises: ValueError if ``root`` exists and is not empty, or a folder above it is a file.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root} exists already, wanted a new or empty folder for the walkers")
    make_folder(root.parent)
    unfinished = unfinished_name(root.parent)
    unfinished.mkdir()
    try:
        yield unfinished
        unfinished.replace(root)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_jpegs(paths: Sequence[Path], clip: Iterable[NDArray[np.uint8]]) -> None:
    from PIL import Image

    for path, frame in zip(paths, clip, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path, quality=95)


def _by_identity(tracklets: Sequence[Tracklet]) -> list[tuple[int, Tracklet]]:
    """Returns rows and tracklets, sorted by identity."""
    return sorted(enumerate(tracklets), key=lambda item: int(str(item[1].identity)))


def _write_part(folder: Path, tracklets: Sequence[Tracklet]) -> tuple[list[str], list[tuple[int, ...]]]:
    """Returns the names of all frames, and a row (first name, last name, identity, camera) per tracklet."""
    names: list[str] = []
    table: list[tuple[int, ...]] = []
    seen = Counter[tuple[object, object]]()
    for tracklet in tracklets:
        seen[tracklet.identity, tracklet.camera] += 1
        person = "00-1" if tracklet.identity == JUNK else f"{tracklet.identity:04d}"
        start = f"{person}C{tracklet.camera}T{seen[tracklet.identity, tracklet.camera]:04d}"
        files = [f"{start}F{number:03d}.jpg" for number in range(1, len(tracklet.frames) + 1)]
        frames = [frame for frame in tracklet.frames if isinstance(frame, np.ndarray)]
        _write_jpegs([folder / person / name for name in files], frames)
        table.append(
            (len(names) + 1, len(names) + len(files), int(str(tracklet.identity)), int(tracklet.camera or 0))
        )
        names += files
    return names, table


def _check(tracklet: Tracklet) -> None:
    if not all(isinstance(frame, np.ndarray) for frame in tracklet.frames):
        raise ValueError(f"the frames of the tracklet at {tracklet.where} are files, wanted arrays in memory")
    for name, value, lowest, highest in (
        ("identity", tracklet.identity, -1, 9999),
        ("camera", tracklet.camera, 1, 9),
    ):
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"{name} of a tracklet is {value!r}, wanted an integer from {lowest} to {highest}")
