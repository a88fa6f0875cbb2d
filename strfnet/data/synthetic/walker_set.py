"""A data set of drawn walkers, in memory, and any such set written to disk in the layout of MARS."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from strfnet.data.synthetic.walkers import Nuisances, draw_camera, draw_walker, new_folder, render, write_jpegs
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet

_ORDINARY = Nuisances()
_MISSED = Nuisances(block=True, jitter=6, shift=20)  # what a tracker brings home that has lost its walker


def draw_set(
    *,
    train: int = 16,
    test: int = 8,
    cameras: int = 3,
    tracklets: int = 2,
    distractors: int = 2,
    junk: int = 2,
    frames: int = 16,
    seed: int = 0,
    height: int = 64,
) -> DataSet:
    """Walkers to train on and others to test on, with what makes MARS hard beside them; a pure function.

    Identities count from 1, those of training first; cameras count from 1. The test's rows are junk (identity
    -1: badly centred walkers behind a block), distractors (identity 0: walkers whom nobody asks for) and the
    walkers, who differ in everything. Queries are each walker's first tracklet under each camera; the gallery
    is every row.

    Args:
        train: how many identities to train on.
        test: how many to test on.
        cameras: how many; each of them sees everybody.
        tracklets: how many of each identity under each camera.
        distractors: how many tracklets of nobody who is asked for.
        junk: how many that cannot be judged.
        frames: how many of each tracklet.
        seed: of everything that is drawn.
        height: of the frames in pixels, twice their width.

    Raises: ValueError for a number that is too small.
    """
    if min(train, test, tracklets) < 1 or cameras < 2 or min(distractors, junk) < 0:
        given = f"{train=}, {test=}, {cameras=}, {tracklets=}, {distractors=}, {junk=}"
        raise ValueError(f"got {given}, wanted at least 1, 1, 2, 1, 0, 0")
    views = [draw_camera(seed, camera) for camera in range(1, cameras + 1)]

    def see(walker: int, camera: int, number: int, identity: int, nuisances: Nuisances = _ORDINARY) -> Tracklet:
        clip = render(
            draw_walker(seed, walker),
            views[camera - 1],
            frames=frames,
            seed=(7, seed, walker, camera, number),
            height=height,
            nuisances=nuisances,
        )
        return Tracklet(tuple(clip), identity, camera)

    def people(first: int, count: int) -> list[Tracklet]:
        order = np.ndindex(count, cameras, tracklets)
        return [see(first + who, camera + 1, number, first + who) for who, camera, number in order]

    strangers = train + test + 1
    lost = [see(strangers + n, n % cameras + 1, 0, JUNK, _MISSED) for n in range(junk)]
    nobody = [see(strangers + junk + n, n % cameras + 1, 0, DISTRACTOR) for n in range(distractors)]
    rows = (*lost, *nobody, *people(train + 1, test))
    query = range(junk + distractors, len(rows), tracklets)
    return DataSet("drawn walkers", tuple(people(1, train)), rows, tuple(query), tuple(range(len(rows))))


def write_mars(root: str | Path, data: DataSet) -> None:
    """A data set in memory, as files that `strfnet.data.readers.mars.read_mars` reads (with ``complete=False``).

    Frames become JPEGs ``bbox_train/0065/0065C1T0002F016.jpg`` (identity, camera, tracklet of that identity and
    camera, frame; ``00-1`` for junk), and ``info`` gets the lists of names and, through scipy, MATLAB's tables. In
    each part tracklets are put in order of their identities, as MARS has them. What a reader finds as the gallery
    is every row of the test. The folder appears when all is written.

    Raises: ValueError if ``root`` is there already and not empty; for frames that are files, an identity that is
    no number from -1 to 9999, or a camera that is none from 1 to 9; ImportError without scipy.
    """
    try:
        from scipy.io import savemat
    except ImportError as error:
        raise ImportError('writing MARS\'s tables needs scipy: pip install "strfnet[matlab]"') from error

    for tracklet in (*data.train, *data.test):
        _check(tracklet)
    with new_folder(root) as folder:
        info = folder / "info"
        info.mkdir()
        for part, tracklets in (("train", _in_order(data.train)), ("test", _in_order(data.test))):
            names, table = _write_part(folder / f"bbox_{part}", [tracklet for _, tracklet in tracklets])
            (info / f"{part}_name.txt").write_text("".join(f"{name}\n" for name in names))
            savemat(info / f"tracks_{part}_info.mat", {f"track_{part}_info": np.array(table, dtype=np.int32)})
        numbers = {row: number for number, (row, _) in enumerate(_in_order(data.test), start=1)}
        query = np.array([[numbers[row] for row in data.query]], dtype=np.uint16)
        savemat(info / "query_IDX.mat", {"query_IDX": query})


def _in_order(tracklets: Sequence[Tracklet]) -> list[tuple[int, Tracklet]]:
    """Rows and tracklets, by identity."""
    return sorted(enumerate(tracklets), key=lambda item: int(item[1].identity))


def _write_part(folder: Path, tracklets: Sequence[Tracklet]) -> tuple[list[str], list[tuple[int, ...]]]:
    """The names of all frames, and a row (first name, last name, identity, camera) for each tracklet."""
    names: list[str] = []
    table: list[tuple[int, ...]] = []
    seen = Counter[tuple[object, object]]()
    for tracklet in tracklets:
        seen[tracklet.identity, tracklet.camera] += 1
        person = "00-1" if tracklet.identity == JUNK else f"{tracklet.identity:04d}"
        start = f"{person}C{tracklet.camera}T{seen[tracklet.identity, tracklet.camera]:04d}"
        own = [f"{start}F{number:03d}.jpg" for number in range(1, len(tracklet.frames) + 1)]
        write_jpegs([folder / person / name for name in own], tracklet.frames)  # type: ignore[arg-type]
        table.append((len(names) + 1, len(names) + len(own), int(tracklet.identity), int(tracklet.camera or 0)))
        names += own
    return names, table


def _check(tracklet: Tracklet) -> None:
    if not all(isinstance(frame, np.ndarray) for frame in tracklet.frames):
        raise ValueError(f"the tracklet at {tracklet.where} lies on disk, wanted frames in memory")
    for name, value, lowest, highest in (
        ("identity", tracklet.identity, -1, 9999),
        ("camera", tracklet.camera, 1, 9),
    ):
        if not isinstance(value, int) or not lowest <= value <= highest:
            raise ValueError(f"{name} of a tracklet is {value!r}, wanted a number from {lowest} to {highest}")
