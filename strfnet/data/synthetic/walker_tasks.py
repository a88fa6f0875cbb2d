"""Re-identification tasks made of drawn walkers, each of which asks for one kind of cue.

A task is a plan: who is seen by which camera under which nuisances. Nothing is drawn before it is asked for, and
everything is a pure function of the task's name and one seed, the data seed.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import numpy as np
from numpy.typing import NDArray

from strfnet.data.synthetic.walkers import (
    Camera,
    Coarse,
    Dynamic,
    Fine,
    Nuisances,
    Static,
    Walker,
    draw_camera,
    draw_walker,
    render,
)
from strfnet.data.tracklet import DataSet, Tracklet

TASKS = ("mixed", "gait", "badge", "layout")
FACTORS = ("static", "dynamic", "coarse", "fine")
CAMERAS = 4

# One appearance for everybody, for tasks in which appearance must not tell who it is.
EVERYBODY = Walker(
    Static((0.15, 0.59, 0.89), (0.17, 0.59, 1 - 0.6 * 0.89), 0.18, 2.18, 0.47, (0.13, 0.54, 0.75)),
    Dynamic(0.15, math.pi / 2),
    Coarse(4.45, 0.36, 4.33, 1.70),
    Fine(-0.48, 0.61, 0.80, 0.77, 0.87),
)
_STEADY = Nuisances(occlusion=0, jitter=0.3, shift=1)


@dataclass(frozen=True)
class Scene:
    """One tracklet, before it is drawn.

    Args:
        identity: who is seen, a number from 1.
        camera: which camera, from 1; ``view`` is what that camera does to colours.
        walker: how this identity looks in this tracklet.
        nuisances: how strong each is.
        seed: of the nuisances.
    """

    identity: int
    camera: int
    view: Camera
    walker: Walker
    nuisances: Nuisances
    seed: tuple[int, ...]

    def draw(self) -> NDArray[np.uint8]:
        """RGB (16, 64, 32, 3)."""
        return render(self.walker, self.view, seed=self.seed, nuisances=self.nuisances)


@dataclass(frozen=True)
class WalkerTask:
    """What to train on and what to be tested by; identities of training and test differ.

    Args:
        name: one of `TASKS`.
        train: scenes of the training identities.
        tests: by name, groups of scenes. Retrieval stays inside a group, and a test's figure is the mean over
            its groups. Queries are the scenes of camera 1, the gallery all others.
        twins: for each of `FACTORS`, groups of training identities that differ in that factor alone; empty
            where the task has none.
    """

    name: str
    train: tuple[Scene, ...]
    tests: Mapping[str, tuple[tuple[Scene, ...], ...]]
    twins: tuple[tuple[tuple[int, ...], ...], ...] = ()


def plan_task(name: str, seed: int = 0) -> WalkerTask:
    """The task with this name; tracklets have 16 frames of 64 by 32 pixels, seen by 4 cameras.

    ======== ============================== ============ ====================== ==========================
    name     what tells identities apart    train        test                   tests
    ======== ============================== ============ ====================== ==========================
    mixed    all four factors, or in groups 256 ids x 16 48 ids, and 6 groups   "all", and one per factor,
             of twins one of them           tracklets    of 8 twins per factor  inside the groups of twins
    gait     frequency and lag of the gait  14 ids x 80  12 ids x 24            "all"
    badge    place and colour of a badge    32 ids x 32  24 ids x 8             "clean", and "heavy": a block
                                                                                in front in every frame
    layout   four proportions of the body   32 ids x 32  24 ids x 8             "clean", and "heavy": the
                                                                                walker is badly centred
    ======== ============================== ============ ====================== ==========================

    In "gait" the test's frequencies lie between those of training. In "badge" and "layout" everybody walks as
    they please, every second training tracklet is heavy, and both tests show the same scenes.

    Raises: ValueError for an unknown name.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, wanted one of {', '.join(TASKS)}")
    views = [draw_camera(seed, camera) for camera in range(1, CAMERAS + 1)]
    if name == "mixed":
        return _plan_mixed(seed, views)
    if name == "gait":
        return _plan_gait(seed, views)
    return _plan_cue(name, seed, views)


def draw_tracklets(scenes: Iterable[Scene]) -> tuple[Tracklet, ...]:
    """Tracklets in memory, about 5 ms each."""
    return tuple(Tracklet(tuple(scene.draw()), scene.identity, scene.camera) for scene in scenes)


def draw_test(task: WalkerTask, test: str) -> tuple[DataSet, ...]:
    """The groups of a test, drawn; a `DataSet` each, with nothing to train on.

    Raises: ValueError for a test that the task does not have.
    """
    if test not in task.tests:
        raise ValueError(f"test is {test!r}, wanted one of {', '.join(task.tests)}, those of {task.name}")
    groups = []
    for group in task.tests[test]:
        query, gallery = asked_and_searched(group)
        groups.append(DataSet(f"{task.name} {test}", (), draw_tracklets(group), query, gallery))
    return tuple(groups)


def asked_and_searched(group: Sequence[Scene]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows of the queries (camera 1) and of the gallery (all others)."""
    rows = range(len(group))
    return tuple(r for r in rows if group[r].camera == 1), tuple(r for r in rows if group[r].camera != 1)


def chance(group: Sequence[Scene]) -> tuple[float, float]:
    """Mean AP and rank-1 rate that a random order of the gallery has on average, each in 0 .. 1."""
    query, gallery = asked_and_searched(group)
    matches = [sum(group[other].identity == group[row].identity for other in gallery) for row in query]
    precision, first = np.mean([random_order(m, len(gallery)) for m in matches], axis=0)
    return float(precision), float(first)


def random_order(matches: int, items: int) -> tuple[float, float]:
    """AP by rectangles and rank-1 rate that items in random order have on average, m of n being matches.

    AP is ``sum over ranks k of (1 + (k - 1) (m - 1) / (n - 1)) / k``, divided by n.
    """
    ranks = np.arange(1, items + 1)
    precisions = (1 + (ranks - 1) * (matches - 1) / max(items - 1, 1)) / ranks
    return float(np.mean(precisions)), matches / items


def _plan_mixed(seed: int, views: Sequence[Camera]) -> WalkerTask:
    walkers, twins = _people(seed, count(1), alone=64, groups=12, size=4)
    others, groups = _people(seed, count(1001), alone=48, groups=6, size=8)
    tests = {"all": [tuple(range(1001, 1049))], **dict(zip(FACTORS, groups, strict=True))}
    train = [_scenes(walker, identity, views, 4, Nuisances(), seed) for identity, walker in walkers.items()]
    seen = {identity: _scenes(walker, identity, views, 1, Nuisances(), seed) for identity, walker in others.items()}
    return WalkerTask(
        "mixed",
        tuple(chain(*train)),
        {name: tuple(tuple(chain(*(seen[i] for i in group))) for group in test) for name, test in tests.items()},
        tuple(tuple(groups) for groups in twins),
    )


def _people(
    seed: int, identities: Iterator[int], *, alone: int, groups: int, size: int
) -> tuple[dict[int, Walker], list[list[tuple[int, ...]]]]:
    """Walkers by identity, ``alone`` unlike in everything, then for each factor the ``groups`` of ``size`` twins."""
    walkers = {identity: draw_walker(seed, identity) for identity in islice(identities, alone)}
    twins: list[list[tuple[int, ...]]] = []
    for factor in FACTORS:
        twins.append([])
        for _ in range(groups):
            group = tuple(islice(identities, size))
            shared = draw_walker(seed, group[0])
            for place, identity in enumerate(group):
                own = getattr(draw_walker(seed, identity), factor)
                if factor == "dynamic":  # spread evenly, or twins might walk alike
                    own = Dynamic(0.05 + 0.2 * place / (size - 1), (-1) ** place * math.pi / 2)
                walkers[identity] = replace(shared, **{factor: own})
            twins[-1].append(group)
    return walkers, twins


def _plan_gait(seed: int, views: Sequence[Camera]) -> WalkerTask:
    nuisances = Nuisances(occlusion=0.1, jitter=0.3, shift=1)

    def walk(frequencies: Sequence[float], first: int, tracklets: int) -> tuple[Scene, ...]:
        gaits = [Dynamic(frequency, lag) for frequency in frequencies for lag in (-math.pi / 2, math.pi / 2)]
        return tuple(
            scene
            for identity, gait in enumerate(gaits, start=first)
            for scene in _scenes(replace(EVERYBODY, dynamic=gait), identity, views, tracklets, nuisances, seed)
        )

    train = walk([0.05 + 0.04 * step for step in range(7)], 1, 20)
    return WalkerTask("gait", train, {"all": (walk([0.07 + 0.04 * step for step in range(6)], 1001, 6),)})


def _plan_cue(name: str, seed: int, views: Sequence[Camera]) -> WalkerTask:
    heavy = replace(_STEADY, block=True) if name == "badge" else replace(_STEADY, jitter=3, shift=4)

    def see(identities: Sequence[int], tracklets: int, extents: Sequence[Nuisances]) -> tuple[Scene, ...]:
        scenes = []
        for identity in identities:
            walker = _with_cue(name, draw_walker(seed, identity))
            scenes += _scenes(walker, identity, views, tracklets, extents, seed)
        return tuple(replace(scene, walker=replace(scene.walker, dynamic=_any_gait(scene.seed))) for scene in scenes)

    train, test = range(1, 33), range(1001, 1025)
    tests = {"clean": (see(test, 2, [_STEADY]),), "heavy": (see(test, 2, [heavy]),)}
    return WalkerTask(name, see(train, 8, [_STEADY, heavy]), tests)


def _with_cue(name: str, walker: Walker) -> Walker:
    """Everybody's appearance, but for what tells this walker apart."""
    if name == "layout":
        return replace(EVERYBODY, coarse=walker.coarse)
    own = walker.fine
    badge = replace(EVERYBODY.fine, badge_u=own.badge_u, badge_v=own.badge_v, badge_hue=own.badge_hue)
    return replace(EVERYBODY, fine=badge)


def _any_gait(seed: tuple[int, ...]) -> Dynamic:
    rng = np.random.default_rng([5, *seed])
    return Dynamic(rng.uniform(0.05, 0.25), float(rng.choice([-1, 1])) * math.pi / 2)


def _scenes(
    walker: Walker,
    identity: int,
    views: Sequence[Camera],
    tracklets: int,
    nuisances: Nuisances | Sequence[Nuisances],
    seed: int,
) -> list[Scene]:
    """An identity under every camera, ``tracklets`` times each, the extents of nuisances taking turns."""
    extents = [nuisances] if isinstance(nuisances, Nuisances) else nuisances
    return [
        Scene(identity, camera, view, walker, extents[number % len(extents)], (4, seed, identity, camera, number))
        for camera, view in enumerate(views, start=1)
        for number in range(tracklets)
    ]
