from dataclasses import asdict

import numpy as np
import pytest

FACTORS = ("static", "dynamic", "coarse", "fine")


@pytest.fixture
def tasks(load):
    return load("walker_tasks")


def identities(scenes):
    return {scene.identity for scene in scenes}


def differing(scenes):
    """The numbers, as (factor, name), in which walkers of these scenes differ."""
    walkers = [asdict(scene.walker) for scene in scenes]
    names = [(factor, name) for factor in FACTORS for name in walkers[0][factor]]
    return {pair for pair in names if len({walker[pair[0]][pair[1]] for walker in walkers}) > 1}


@pytest.mark.parametrize(
    ("name", "train", "tests"),
    [
        ("mixed", (256, 4096), {"all": (1, 48, 192)} | dict.fromkeys(FACTORS, (6, 8, 32))),
        ("gait", (14, 1120), {"all": (1, 12, 288)}),
        ("badge", (32, 1024), dict.fromkeys(("clean", "heavy"), (1, 24, 192))),
        ("layout", (32, 1024), dict.fromkeys(("clean", "heavy"), (1, 24, 192))),
    ],
)
def test_a_task_has_new_identities_in_its_test_and_every_camera_records_each_equally_often(tasks, name, train, tests):
    task = tasks.plan_task(name)
    assert (len(identities(task.train)), len(task.train)) == train
    groups = [group for test in task.tests.values() for group in test]
    assert {t: (len(g), len(identities(g[0])), len(g[0])) for t, g in task.tests.items()} == tests
    assert not identities(task.train) & {identity for group in groups for identity in identities(group)}
    for scenes in (task.train, *groups):
        seen, counts = np.unique([(scene.identity, scene.camera) for scene in scenes], axis=0, return_counts=True)
        assert set(seen[:, 1]) == {1, 2, 3, 4} and len(seen) == 4 * len(identities(scenes))
        assert len(set(counts)) == 1
        query, gallery = tasks.queries_and_gallery(scenes)
        assert {scenes[row].camera for row in query} == {1} and {scenes[row].camera for row in gallery} == {2, 3, 4}
        assert sorted(query + gallery) == list(range(len(scenes)))


def test_a_task_is_a_function_of_the_data_seed(tasks):
    one, same, other = (tasks.plan_task("gait", seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train[7].draw(), same.train[7].draw())
    assert abs(one.train[7].draw().astype(float) - other.train[7].draw()).mean() > 5


def test_mixed_twins_differ_in_all_of_their_factor_and_in_nothing_else(tasks):
    task = tasks.plan_task("mixed")
    for factor, groups in zip(FACTORS, task.twins, strict=True):
        assert [len(group) for group in groups] == [4] * 12
        for group in (*([s for s in task.train if s.identity in twins] for twins in groups), *task.tests[factor]):
            assert {pair[0] for pair in differing(group)} == {factor}
    assert len({identity for groups in task.twins for group in groups for identity in group}) == 192
    for group in task.tests["dynamic"]:
        gaits = sorted({(scene.walker.dynamic.frequency, scene.walker.dynamic.lag) for scene in group})
        np.testing.assert_allclose([gait[0] for gait in gaits], np.linspace(0.05, 0.25, 8))
        assert [round(np.degrees(gait[1])) for gait in gaits] == [90, -90] * 4


def test_gaits_of_the_test_lie_between_those_of_training(tasks):
    task = tasks.plan_task("gait")
    for scenes, first, last, count in ((task.train, 0.05, 0.29, 7), (task.tests["all"][0], 0.07, 0.27, 6)):
        gaits = {(scene.walker.dynamic.lag, round(scene.walker.dynamic.frequency, 9)) for scene in scenes}
        wanted = {(lag, round(f, 9)) for lag in (-np.pi / 2, np.pi / 2) for f in np.linspace(first, last, count)}
        assert gaits == wanted
        assert {pair[0] for pair in differing(scenes)} == {"dynamic"}


@pytest.mark.parametrize(
    ("name", "cue", "change"),
    [
        ("badge", {("fine", "badge_u"), ("fine", "badge_v"), ("fine", "badge_hue")}, {"block"}),
        (
            "layout",
            {("coarse", "shoulders"), ("coarse", "torso_share"), ("coarse", "head"), ("coarse", "legs")},
            {"jitter", "shift"},
        ),
    ],
)
def test_identities_differ_in_the_cue_and_the_heavy_test_in_the_nuisance(tasks, name, cue, change):
    task = tasks.plan_task(name)
    walk = {("dynamic", "frequency"), ("dynamic", "lag")}
    clean, heavy = task.tests["clean"][0], task.tests["heavy"][0]
    assert differing(task.train) == differing(clean) == cue | walk
    assert differing([scene for scene in task.train if scene.identity == 3]) == walk
    for one, other in zip(clean, heavy, strict=True):
        assert (one.seed, one.walker, one.camera) == (other.seed, other.walker, other.camera)
        given, changed = asdict(one.nuisances), asdict(other.nuisances)
        assert {key for key in given if given[key] != changed[key]} == change
    halves = {scene.nuisances for scene in task.train[::2]}, {scene.nuisances for scene in task.train[1::2]}
    assert halves == ({clean[0].nuisances}, {heavy[0].nuisances})


@pytest.mark.parametrize(
    ("name", "test", "mean", "first"),
    [("mixed", "all", 5.2, 2.1), ("mixed", "fine", 23.1, 12.5), ("gait", "all", 10.4, 8.3)],
)
def test_chance_is_the_mean_of_random_orders(tasks, name, test, mean, first):
    group = tasks.plan_task(name).tests[test][0]
    assert tuple(round(100 * metric, 1) for metric in tasks.chance(group)) == (mean, first)
    query, gallery = tasks.queries_and_gallery(group)
    rng = np.random.default_rng(0)
    match = np.array([group[row].identity == group[query[0]].identity for row in gallery])
    hits = rng.permuted(np.tile(match, (2000, 1)), axis=1)
    drawn = (hits * hits.cumsum(axis=1) / np.arange(1, len(match) + 1)).sum(axis=1) / match.sum()
    assert abs(100 * np.mean(drawn) - mean) < 4 * 100 * np.std(drawn) / len(drawn) ** 0.5 + 0.05
    assert round(100 * match.mean(), 1) == first


def test_an_unknown_task_is_refused(tasks):
    with pytest.raises(ValueError, match="task is 'colour', wanted one of mixed, gait, badge, layout"):
        tasks.plan_task("colour")
