from dataclasses import asdict

import numpy as np
import pytest

from strfnet.data.synthetic.walker_tasks import (
    EVERYBODY,
    FACTORS,
    TASKS,
    asked_and_searched,
    chance,
    draw_test,
    draw_tracklets,
    plan_task,
)

PLANS = {name: plan_task(name) for name in TASKS}


def identities(scenes):
    return {scene.identity for scene in scenes}


def everyone_tested(task):
    return [scene for groups in task.tests.values() for group in groups for scene in group]


@pytest.mark.parametrize(
    ("name", "people", "tracklets", "tests"),
    [
        ("mixed", 256, 4096, {"all": (1, 48, 192)} | dict.fromkeys(FACTORS, (6, 8, 32))),
        ("gait", 14, 1120, {"all": (1, 12, 288)}),
        ("badge", 32, 1024, dict.fromkeys(("clean", "heavy"), (1, 24, 192))),
        ("layout", 32, 1024, dict.fromkeys(("clean", "heavy"), (1, 24, 192))),
    ],
)
def test_counts_are_those_of_the_recipe(name, people, tracklets, tests):
    task = PLANS[name]
    assert (len(identities(task.train)), len(task.train)) == (people, tracklets)
    assert {
        test: (len(groups), len(identities(groups[0])), len(groups[0])) for test, groups in task.tests.items()
    } == tests
    for groups in task.tests.values():
        assert len({(len(identities(group)), len(group)) for group in groups}) == 1


@pytest.mark.parametrize("name", TASKS)
def test_nobody_is_in_training_and_test_and_all_are_seen_by_all_cameras_alike(name):
    task = PLANS[name]
    assert not identities(task.train) & identities(everyone_tested(task))
    for scenes in (task.train, *(group for groups in task.tests.values() for group in groups)):
        counts = np.zeros((max(identities(scenes)) + 1, 5), int)
        for scene in scenes:
            counts[scene.identity, scene.camera] += 1
        assert not counts[:, 0].any() and len(np.unique(counts[sorted(identities(scenes)), 1:])) == 1
        query, gallery = asked_and_searched(scenes)
        assert {scenes[row].camera for row in query} == {1} and {scenes[row].camera for row in gallery} == {2, 3, 4}
        assert sorted(query + gallery) == list(range(len(scenes)))


@pytest.mark.parametrize("name", TASKS)
def test_no_two_scenes_share_the_seed_of_their_nuisances(name):
    task = PLANS[name]
    scenes = (*task.train, *everyone_tested(task))
    shown_twice = 2 if len(task.tests) == 2 else 1  # clean and heavy show the same scenes
    tests = [scene.seed for scene in everyone_tested(task)]
    assert len({scene.seed for scene in scenes}) == len(task.train) + len(tests) // shown_twice


@pytest.mark.parametrize("name", TASKS)
def test_a_plan_is_a_pure_function_of_name_and_seed(name):
    def flat(task):
        return [(s.identity, s.camera, s.walker, s.nuisances, s.seed, s.view.gain.tolist()) for s in task.train]

    assert flat(plan_task(name)) == flat(PLANS[name])
    other = plan_task(name, 1)
    assert all(one.seed != two.seed for one, two in zip(other.train, PLANS[name].train, strict=True))
    assert not np.array_equal(other.train[0].view.gain, PLANS[name].train[0].view.gain)


def differing(scenes):
    """The numbers, as (factor, name), in which walkers of these scenes differ."""
    walkers = [asdict(scene.walker) for scene in scenes]
    names = [(factor, name) for factor in FACTORS for name in walkers[0][factor]]
    return {pair for pair in names if len({walker[pair[0]][pair[1]] for walker in walkers}) > 1}


def test_mixed_twins_differ_in_their_factor_alone_and_in_all_of_it():
    task = PLANS["mixed"]
    for factor, groups in zip(FACTORS, task.twins, strict=True):
        assert [len(group) for group in groups] == [4] * 12
        for group in groups:
            walkers = {scene.identity: scene for scene in task.train if scene.identity in group}
            assert len(walkers) == 4
            assert {pair[0] for pair in differing(walkers.values())} == {factor}
        for group in task.tests[factor]:
            assert {pair[0] for pair in differing(group)} == {factor}
    in_groups = {identity for groups in task.twins for group in groups for identity in group}
    assert len(in_groups) == 192 and in_groups < identities(task.train)
    assert {pair[0] for pair in differing(task.tests["all"][0])} == set(FACTORS)


def test_mixed_twins_of_gait_are_spread_evenly_with_both_lags():
    for group in PLANS["mixed"].tests["dynamic"]:
        gaits = sorted({(s.walker.dynamic.frequency, s.walker.dynamic.lag) for s in group})
        np.testing.assert_allclose([gait[0] for gait in gaits], [0.05 + 0.2 * k / 7 for k in range(8)])
        assert [round(np.degrees(gait[1])) for gait in gaits] == [90, -90] * 4


def test_gaits_of_the_test_lie_between_those_of_training():
    def frequencies(scenes):
        for lag in (-90, 90):
            found = {
                round(s.walker.dynamic.frequency, 9) for s in scenes if round(np.degrees(s.walker.dynamic.lag)) == lag
            }
            yield sorted(found)

    train, test = (list(frequencies(scenes)) for scenes in (PLANS["gait"].train, PLANS["gait"].tests["all"][0]))
    assert train == [[0.05, 0.09, 0.13, 0.17, 0.21, 0.25, 0.29]] * 2
    assert test == [[0.07, 0.11, 0.15, 0.19, 0.23, 0.27]] * 2
    assert {pair[0] for pair in differing(PLANS["gait"].train)} == {"dynamic"}
    of_one = {scene.walker for scene in PLANS["gait"].train if scene.identity == 5}
    assert len(of_one) == 1


@pytest.mark.parametrize(
    ("name", "cue"),
    [
        ("badge", {("fine", "badge_u"), ("fine", "badge_v"), ("fine", "badge_hue")}),
        ("layout", {("coarse", "shoulders"), ("coarse", "torso_share"), ("coarse", "head"), ("coarse", "legs")}),
    ],
)
def test_a_cue_is_all_that_tells_and_gait_is_a_nuisance(name, cue):
    task = PLANS[name]
    walk = {("dynamic", "frequency"), ("dynamic", "lag")}
    assert differing(task.train) == differing(task.tests["clean"][0]) == cue | walk
    assert differing([scene for scene in task.train if scene.identity == 3]) == walk
    assert task.train[0].walker.static == EVERYBODY.static


@pytest.mark.parametrize(("name", "change"), [("badge", {"block"}), ("layout", {"jitter", "shift"})])
def test_clean_and_heavy_show_the_same_scenes_but_for_the_nuisance(name, change):
    task = PLANS[name]
    for clean, heavy in zip(task.tests["clean"][0], task.tests["heavy"][0], strict=True):
        assert (clean.seed, clean.walker, clean.camera) == (heavy.seed, heavy.walker, heavy.camera)
        given, other = asdict(clean.nuisances), asdict(heavy.nuisances)
        assert {key for key in given if given[key] != other[key]} == change
    kinds = {scene.nuisances for scene in task.tests["clean"][0]}, {s.nuisances for s in task.tests["heavy"][0]}
    assert [scene.nuisances in kinds[1] for scene in task.train] == [False, True] * (len(task.train) // 2)
    assert [scene.nuisances in kinds[0] for scene in task.train] == [True, False] * (len(task.train) // 2)


def test_clean_and_heavy_layouts_share_background_and_start():
    clean, heavy = (PLANS["layout"].tests[test][0][5].draw().astype(float) for test in ("clean", "heavy"))
    corner = abs(clean[:, :4, :4] - heavy[:, :4, :4])
    assert corner.max() == 0 and abs(clean - heavy).mean() > 5


@pytest.mark.parametrize(
    ("name", "test", "mean", "first"),
    [
        ("mixed", "all", 5.2, 2.1),
        ("mixed", "fine", 23.1, 12.5),
        ("gait", "all", 10.4, 8.3),
        ("badge", "clean", 7.2, 4.2),
        ("layout", "heavy", 7.2, 4.2),
    ],
)
def test_chance_is_what_random_orders_reach(name, test, mean, first):
    group = PLANS[name].tests[test][0]
    assert tuple(round(100 * figure, 1) for figure in chance(group)) == (mean, first)
    query, gallery = asked_and_searched(group)
    rng = np.random.default_rng(0)
    match = np.array([group[row].identity == group[query[0]].identity for row in gallery])
    hits = rng.permuted(np.tile(match, (2000, 1)), axis=1)
    drawn = (hits * hits.cumsum(axis=1) / np.arange(1, len(match) + 1)).sum(axis=1) / match.sum()
    assert abs(100 * np.mean(drawn) - mean) < 4 * 100 * np.std(drawn) / len(drawn) ** 0.5 + 0.05
    assert round(100 * match.mean(), 1) == first


def test_drawn_tests_are_data_sets_one_for_each_group():
    task = PLANS["mixed"]
    groups = draw_test(task, "fine")
    assert [(len(data.test), len(data.query), len(data.gallery), data.train) for data in groups] == [
        (32, 8, 24, ())
    ] * 6
    scene, tracklet = task.tests["fine"][2][7], groups[2].test[7]
    assert (tracklet.identity, tracklet.camera) == (scene.identity, scene.camera)
    np.testing.assert_array_equal(np.stack(tracklet.frames), scene.draw())
    assert np.stack(tracklet.frames).shape == (16, 64, 32, 3)


def test_tracklets_of_a_plan_are_drawn_in_its_order():
    scenes = PLANS["badge"].train[3:6]
    for tracklet, scene in zip(draw_tracklets(scenes), scenes, strict=True):
        np.testing.assert_array_equal(np.stack(tracklet.frames), scene.draw())
        assert (tracklet.identity, tracklet.camera) == (scene.identity, scene.camera)


def test_unknown_tasks_and_tests_are_refused():
    with pytest.raises(ValueError, match="task is 'colour', wanted one of mixed, gait, badge, layout"):
        plan_task("colour")
    with pytest.raises(ValueError, match="test is 'heavy', wanted one of all, those of gait"):
        draw_test(PLANS["gait"], "heavy")
