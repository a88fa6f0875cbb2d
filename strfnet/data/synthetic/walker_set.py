"""Data sets of synthetic walkers in memory."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np

from strfnet.data.synthetic.rendering import render
from strfnet.data.synthetic.walkers import Coarse, Dynamic, Fine, Nuisances, Static, Walker, draw_camera, draw_walker
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet

# The appearance of all walkers where appearance must not identify them.
UNIFORM = Walker(
    Static((0.15, 0.59, 0.89), (0.17, 0.59, 1 - 0.6 * 0.89), 0.18, 2.18, 0.47, (0.13, 0.54, 0.75)),
    Dynamic(0.15, math.pi / 2),
    Coarse(4.45, 0.36, 4.33, 1.70),
    Fine(-0.48, 0.61, 0.80, 0.77, 0.87),
)
_USUAL = Nuisances()
_LOST = Nuisances(block=True, jitter=6, shift=20)  # a tracker that has lost its walker
_CALM = Nuisances(occlusion=0.1, jitter=0.3, shift=1)


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
    """Returns walkers who differ in everything, with the junk and distractors of MARS; a pure function.

    Identities count from 1, those of training first; cameras count from 1. The test's rows are junk (identity -1:
    badly centred walkers behind a block), distractors (identity 0: walkers without a query) and the test walkers.
    Queries are each walker's first tracklet from each camera; the gallery is the whole test.

    Args:
        train: number of training identities.
        test: number of test identities.
        cameras: number of cameras; every camera records every walker.
        tracklets: tracklets per identity and camera.
        distractors: number of tracklets of identity 0.
        junk: number of tracklets of identity -1.
        frames: frames per tracklet.
        seed: seed of walkers, cameras and nuisances.
        height: frame height in pixels; the width is half of it.

    Raises: ValueError if a count is too small.
    """
    if min(train, test, tracklets) < 1 or cameras < 2 or min(distractors, junk) < 0:
        given = f"{train=}, {test=}, {cameras=}, {tracklets=}, {distractors=}, {junk=}"
        raise ValueError(f"got {given}, wanted at least 1, 1, 2, 1, 0, 0")
    views = [draw_camera(seed, camera) for camera in range(1, cameras + 1)]

    def see(walker: int, camera: int, number: int, identity: int, nuisances: Nuisances = _USUAL) -> Tracklet:
        clip = render(
            draw_walker(seed, walker),
            views[camera - 1],
            frames=frames,
            seed=(7, seed, walker, camera, number),
            height=height,
            nuisances=nuisances,
        )
        return Tracklet(tuple(clip), identity, camera)

    def walkers(first: int, count: int) -> list[Tracklet]:
        order = np.ndindex(count, cameras, tracklets)
        return [see(first + who, camera + 1, number, first + who) for who, camera, number in order]

    strangers = train + test + 1
    lost = [see(strangers + n, n % cameras + 1, 0, JUNK, _LOST) for n in range(junk)]
    others = [see(strangers + junk + n, n % cameras + 1, 0, DISTRACTOR) for n in range(distractors)]
    rows = (*lost, *others, *walkers(train + 1, test))
    query = range(junk + distractors, len(rows), tracklets)
    return DataSet("synthetic walkers", tuple(walkers(1, train)), rows, tuple(query), tuple(range(len(rows))))


def draw_gait_set(
    *, train: int = 7, test: int = 6, cameras: int = 4, tracklets: int = 20, seed: int = 0, height: int = 64
) -> DataSet:
    """Returns walkers of one appearance who differ in gait alone, so that only the order of frames identifies them.

    An identity is a frequency from 0.05 to 0.45 cycles per frame and a lag of the arms of plus or minus 90 degrees.
    The test's frequencies lie between those of training. Queries are the tracklets of camera 1, the gallery those of
    the other cameras. Tracklets have 16 frames.

    Args:
        train: number of training frequencies; there are twice as many identities.
        test: number of test frequencies; there are twice as many identities.
        cameras: number of cameras; every camera records every walker.
        tracklets: tracklets per training identity and camera; a test identity has a quarter of them.
        seed: seed of cameras and nuisances.
        height: frame height in pixels; the width is half of it.

    Raises: ValueError if a count is too small.
    """
    if train < 2 or test < 1 or cameras < 2 or tracklets < 4:
        raise ValueError(f"got {train=}, {test=}, {cameras=}, {tracklets=}, wanted at least 2, 1, 2, 4")
    views = [draw_camera(seed, camera) for camera in range(1, cameras + 1)]

    def walk(frequencies: Iterable[float], first: int, count: int) -> Iterator[Tracklet]:
        gaits = product(map(float, frequencies), (-math.pi / 2, math.pi / 2))
        for (identity, gait), camera, number in product(enumerate(gaits, first), range(1, cameras + 1), range(count)):
            clip = render(
                replace(UNIFORM, dynamic=Dynamic(*gait)),
                views[camera - 1],
                seed=(8, seed, identity, camera, number),
                height=height,
                nuisances=_CALM,
            )
            yield Tracklet(tuple(clip), identity, camera)

    step = 0.4 / (train - 1)
    rows = tuple(walk(np.linspace(0.05 + step / 2, 0.45 - step / 2, test), 1001, tracklets // 4))
    query = tuple(row for row, item in enumerate(rows) if item.camera == 1)
    gallery = tuple(row for row, item in enumerate(rows) if item.camera != 1)
    return DataSet("synthetic gaits", tuple(walk(np.linspace(0.05, 0.45, train), 1, tracklets)), rows, query, gallery)
