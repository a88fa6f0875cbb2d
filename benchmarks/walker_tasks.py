"""Re-identification tasks of synthetic walkers, each of which needs one kind of cue.

A task is a plan: which camera records which walker under which nuisances. It renders nothing by itself, and is a pure
function of its name and one seed, the data seed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count, islice

import numpy as np
from numpy.typing import NDArray

from strfnet.data.synthetic import Camera, Dynamic, Nuisances, Walker, draw_camera, draw_walker, render
from strfnet.data.synthetic.walker_set import UNIFORM

TASKS = ("mixed", "gait", "badge", "layout")
FACTORS = ("static", "dynamic", "coarse", "fine")
CAMERAS = 4
_STEADY = Nuisances(occlusion=0, jitter=0.3, shift=1)


@dataclass(frozen=True)
class Scene:
    """One tracklet, before it is rendered.

    Args:
        identity: a number from 1.
        camera: a number from 1; ``view`` is the camera itself.
        walker: the identity's factors in this tracklet.
        nuisances: strength of each nuisance.
        seed: seed of the nuisances.
    """

    identity: int
    camera: int
    view: Camera
    walker: Walker
    nuisances: Nuisances
    seed: tuple[int, ...]

    def draw(self) -> NDArray[np.uint8]:
        """Returns RGB (16, 64, 32, 3)."""
        return render(self.walker, self.view, seed=self.seed, nuisances=self.nuisances)


@dataclass(frozen=True)
class WalkerTask:
    """Training and test scenes with disjoint identities.

    Args:
        name: one of `TASKS`.
        train: scenes of the training identities.
        tests: by name, groups of scenes. Each group is a gallery of its own, and a test's metric is the mean over
            groups. Queries are the scenes of camera 1, the gallery all others.
        twins: for each of `FACTORS`, groups of training identities that differ in that factor alone; empty if the
            task has none.
    """

    name: str
    train: tuple[Scene, ...]
    tests: Mapping[str, tuple[tuple[Scene, ...], ...]]
    twins: tuple[tuple[tuple[int, ...], ...], ...] = ()


def plan_task(name: str, seed: int = 0) -> WalkerTask:
    """Returns the task with this name; tracklets have 16 frames of 64 by 32 pixels from 4 cameras.

    ======== ============================== ============ ====================== ==========================
    name     identities differ in           train        test                   tests
    ======== ============================== ============ ====================== ==========================
    mixed    all four factors, or in groups 256 ids x 16 48 ids, and 6 groups   "all", and one per factor,
             of twins one of them           tracklets    of 8 twins per factor  inside the groups of twins
    gait     frequency and lag of the gait  14 ids x 80  12 ids x 24            "all"
    badge    place and colour of a badge    32 ids x 32  24 ids x 8             "clean", and "heavy": a block
                                                                                in front in every frame
    layout   four proportions of the body   32 ids x 32  24 ids x 8             "clean", and "heavy": the
                                                                                walker is badly centred
    ======== ============================== ============ ====================== ==========================

    In "gait" the test's frequencies lie between those of training. In "badge" and "layout" the gait of each tracklet
    is random, every second training tracklet is heavy, and both tests show the same scenes.

    Raises: ValueError if ``name`` is unknown.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, wanted one of {', '.join(TASKS)}")
    views = [draw_camera(seed, camera) for camera in range(1, CAMERAS + 1)]
    if name == "mixed":
        return _plan_mixed(seed, views)
    if name == "gait":
        return _plan_gait(seed, views)
    return _plan_cue(name, seed, views)


def queries_and_gallery(group: Sequence[Scene]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the rows of the queries (camera 1) and of the gallery (all others)."""
    rows = range(len(group))
    return tuple(r for r in rows if group[r].camera == 1), tuple(r for r in rows if group[r].camera != 1)


def chance(group: Sequence[Scene]) -> tuple[float, float]:
    """Returns the expected mAP and rank-1 accuracy of a random order of the gallery, each in 0 .. 1."""
    query, gallery = queries_and_gallery(group)
    matches = [sum(group[other].identity == group[row].identity for other in gallery) for row in query]
    precision, first = np.mean([random_order(m, len(gallery)) for m in matches], axis=0)
    return float(precision), float(first)


def random_order(matches: int, items: int) -> tuple[float, float]:
    """Returns the expected AP (rectangles) and rank-1 accuracy of n items in random order, m of them matches.

    The expected AP is ``sum over ranks k of (1 + (k - 1) (m - 1) / (n - 1)) / k``, divided by n.
    """
    ranks = np.arange(1, items + 1)
    precisions = (1 + (ranks - 1) * (matches - 1) / max(items - 1, 1)) / ranks
    return float(np.mean(precisions)), matches / items


def _plan_mixed(seed: int, views: Sequence[Camera]) -> WalkerTask:
    walkers, twins = _identities(seed, count(1), alone=64, groups=12, size=4)
    others, groups = _identities(seed, count(1001), alone=48, groups=6, size=8)
    tests = {"all": [tuple(range(1001, 1049))], **dict(zip(FACTORS, groups, strict=True))}
    train = [_scenes(walker, identity, views, 4, Nuisances(), seed) for identity, walker in walkers.items()]
    seen = {identity: _scenes(walker, identity, views, 1, Nuisances(), seed) for identity, walker in others.items()}
    return WalkerTask(
        "mixed",
        tuple(chain(*train)),
        {name: tuple(tuple(chain(*(seen[i] for i in group))) for group in test) for name, test in tests.items()},
        tuple(tuple(groups) for groups in twins),
    )


def _identities(
    seed: int, identities: Iterator[int], *, alone: int, groups: int, size: int
) -> tuple[dict[int, Walker], list[list[tuple[int, ...]]]]:
    """Returns walkers by identity, and for each factor ``groups`` of ``size`` twins.

    ``alone`` of the walkers differ in everything; twins differ in one factor.
    """
    walkers = {identity: draw_walker(seed, identity) for identity in islice(identities, alone)}
    twins: list[list[tuple[int, ...]]] = []
    for factor in FACTORS:
        twins.append([])
        for _ in range(groups):
            group = tuple(islice(identities, size))
            shared = draw_walker(seed, group[0])
            for place, identity in enumerate(group):
                own = getattr(draw_walker(seed, identity), factor)
                if factor == "dynamic":  # spaced evenly; random gaits could coincide
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
            for scene in _scenes(replace(UNIFORM, dynamic=gait), identity, views, tracklets, nuisances, seed)
        )

    train = walk([0.05 + 0.04 * step for step in range(7)], 1, 20)
    return WalkerTask("gait", train, {"all": (walk([0.07 + 0.04 * step for step in range(6)], 1001, 6),)})


def _plan_cue(name: str, seed: int, views: Sequence[Camera]) -> WalkerTask:
    heavy = replace(_STEADY, block=True) if name == "badge" else replace(_STEADY, jitter=3, shift=4)

    def see(identities: Sequence[int], tracklets: int, kinds: Sequence[Nuisances]) -> tuple[Scene, ...]:
        scenes = []
        for identity in identities:
            walker = _with_cue(name, draw_walker(seed, identity))
            scenes += _scenes(walker, identity, views, tracklets, kinds, seed)
        return tuple(replace(scene, walker=replace(scene.walker, dynamic=_any_gait(scene.seed))) for scene in scenes)

    train, test = range(1, 33), range(1001, 1025)
    tests = {"clean": (see(test, 2, [_STEADY]),), "heavy": (see(test, 2, [heavy]),)}
    return WalkerTask(name, see(train, 8, [_STEADY, heavy]), tests)


def _with_cue(name: str, walker: Walker) -> Walker:
    """Returns the uniform appearance with this walker's cue."""
    if name == "layout":
        return replace(UNIFORM, coarse=walker.coarse)
    own = walker.fine
    badge = replace(UNIFORM.fine, badge_u=own.badge_u, badge_v=own.badge_v, badge_hue=own.badge_hue)
    return replace(UNIFORM, fine=badge)


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
    """Returns ``tracklets`` scenes of an identity from every camera, with alternating nuisances."""
    kinds = [nuisances] if isinstance(nuisances, Nuisances) else nuisances
    return [
        Scene(identity, camera, view, walker, kinds[number % len(kinds)], (4, seed, identity, camera, number))
        for camera, view in enumerate(views, start=1)
        for number in range(tracklets)
    ]
