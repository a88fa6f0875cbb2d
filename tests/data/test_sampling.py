from collections import Counter
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from strfnet.data.choices import TrainingSampling
from strfnet.data.sampling import (
    EVALUATION_SAMPLERS,
    TRAINING_SAMPLERS,
    all_frames,
    balanced_first,
    balanced_random,
    consecutive,
    dense,
    evaluation_sampler,
    evenly,
    middle,
    random_sorted,
    restricted_all,
    restricted_first,
    restricted_random,
    strided,
    strided_first,
    strided_ragged,
    training_sampler,
)

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "sampling.safetensors")
LENGTHS = GOLDEN["lengths"].tolist()
sizes = {"length": st.integers(1, 300), "frames": st.integers(1, 40)}


def drawn(form, length, frames, times=6000, **options):
    """How often each clip comes, and its share of all."""
    rng = np.random.default_rng(7)
    return Counter(tuple(form(length, frames, rng, **options)) for _ in range(times))


def assert_alike(counts, expected):
    """All expected clips came, no others, each as often as the others but for five deviations."""
    assert set(counts) == set(expected)
    each = sum(counts.values()) / len(expected)
    assert all(abs(count - each) < 5 * each**0.5 for count in counts.values())


def test_picks_are_those_of_the_published_code():
    assert [restricted_first(length, 8) for length in LENGTHS] == GOLDEN["rrs.S8.test"].tolist()
    assert [strided_first(length, 4) for length in LENGTHS] == GOLDEN["ap3d.begin4"].tolist()


@pytest.mark.parametrize("length", LENGTHS)
def test_training_draws_from_the_published_chunks(length):
    pool = GOLDEN[f"rrs.S8.pool.{length}"]
    rng = np.random.default_rng(length)
    clips = np.array([restricted_random(length, 8, rng) for _ in range(200)])
    assert [set(column) for column in clips.T] == [set(chunk) for chunk in pool.tolist()]
    assert np.transpose(restricted_all(length, 8)).tolist() == pool.tolist()


def test_each_entry_of_each_chunk_is_as_likely_whatever_the_others_are():
    chunks = GOLDEN["rrs.S8.pool.9"][3:5].tolist()
    assert chunks == [[6, 7], [8, 8]]  # the last frame was repeated
    assert_alike(drawn(restricted_random, 4, 2), list(product([0, 1], [2, 3])))
    padded = drawn(restricted_random, 5, 2)  # chunks 0 1 2 and 3 4 4
    for first in range(3):
        assert padded[first, 3] == pytest.approx(6000 / 9, abs=130)
        assert padded[first, 4] == pytest.approx(2 * 6000 / 9, abs=180)


@given(length=st.integers(1, 300), chunks=st.integers(1, 40))
def test_picks_agree_with_the_rule_in_words(length, chunks):
    frames, stride = list(range(length)), 1
    while stride * chunks < length:
        stride += 1
    while len(frames) < stride * chunks:
        frames.append(length - 1)
    cut = [frames[chunk * stride : (chunk + 1) * stride] for chunk in range(chunks)]
    assert restricted_first(length, chunks) == [chunk[0] for chunk in cut]
    assert restricted_all(length, chunks) == [list(clip) for clip in zip(*cut, strict=True)]
    assert {frame for clip in restricted_all(length, chunks) for frame in clip} == set(range(length))


@given(**sizes)
def test_balanced_chunks_are_those_that_numpy_splits(length, frames):
    cut = np.array_split(np.arange(length), frames)
    firsts = [int(chunk[0]) if len(chunk) else length - 1 for chunk in cut]
    assert balanced_first(length, frames) == firsts
    picks = balanced_random(length, frames, np.random.default_rng(0))
    if length < frames:
        assert picks == random_sorted(length, frames, np.random.default_rng(0))
    else:
        assert all(pick in chunk for pick, chunk in zip(picks, cut, strict=True))


def test_balanced_chunks_repeat_no_frame():
    assert_alike(drawn(balanced_random, 5, 2), list(product([0, 1, 2], [3, 4])))


@pytest.mark.parametrize("length", LENGTHS)
def test_strided_takes_the_published_way_for_each_length(length):
    clips = set(drawn(strided, length, 4, times=300))
    window = {tuple(range(start, start + 25, 8)) for start in range(length - 24)}
    regime = 0 if clips <= window else 1 if all(len(set(clip)) == 4 for clip in clips) else 2
    assert regime == GOLDEN["ap3d.random.regime"][length - 1]
    assert all(list(clip) == sorted(clip) and 0 <= clip[0] <= clip[-1] < length for clip in clips)


@pytest.mark.parametrize(("length", "starts"), [(32, 8), (35, 11)])
def test_strided_takes_every_start_alike_both_ends_included(length, starts):
    assert_alike(drawn(strided, length, 4), [tuple(range(start, start + 25, 8)) for start in range(starts)])


def test_strided_keeps_to_another_stride():
    assert_alike(drawn(strided, 7, 2, stride=3), [(start, start + 3) for start in range(4)])
    assert_alike(drawn(strided, 4, 4, stride=1), [(0, 1, 2, 3)])


@given(**sizes, stride=st.integers(1, 9), seed=st.integers(0, 99))
def test_strided_ragged_is_strided_without_repeated_frames(length, frames, stride, seed):
    ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
    clip = strided_ragged(length, frames, ours, stride=stride)
    assert len(set(clip)) == len(clip)
    if length < frames:
        assert clip == list(range(length))
    else:
        assert clip == strided(length, frames, theirs, stride=stride)
        assert ours.random() == theirs.random()  # so that the augmentation is the same too


def test_random_sorted_takes_every_set_of_frames_alike():
    assert_alike(drawn(random_sorted, 4, 2), [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    assert_alike(drawn(random_sorted, 3, 3), [(0, 1, 2)])
    short = drawn(random_sorted, 2, 3, times=8000)  # 8 draws with replacement, sorted
    expected = {(0, 0, 0): 1000, (0, 0, 1): 3000, (0, 1, 1): 3000, (1, 1, 1): 1000}
    assert all(short[clip] == pytest.approx(count, abs=250) for clip, count in expected.items())
    assert sum(short[clip] for clip in expected) == 8000


def test_consecutive_takes_every_start_alike_and_loops_what_is_too_short():
    assert_alike(drawn(consecutive, 6, 4), [(0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5)])
    assert_alike(drawn(consecutive, 4, 4), [(0, 1, 2, 3)])
    assert_alike(drawn(consecutive, 2, 5), [(0, 1, 0, 1, 0)])


@pytest.mark.parametrize(
    ("form", "length", "frames", "picks"),
    [
        (strided_first, 50, 4, [0, 8, 16, 24]),
        (strided_first, 15, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (strided_first, 3, 8, [0, 1, 2, 0, 1, 2, 0, 1]),
        (strided_first, 1, 1, [0]),
        (evenly, 16, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (evenly, 23, 8, [0, 2, 4, 6, 8, 10, 12, 14]),
        (evenly, 24, 8, [0, 3, 6, 9, 12, 15, 18, 21]),
        (evenly, 3, 5, [0, 1, 2, 2, 2]),
        (middle, 10, 4, [3, 4, 5, 6]),
        (middle, 9, 4, [2, 3, 4, 5]),
        (middle, 4, 4, [0, 1, 2, 3]),
        (middle, 2, 3, [0, 1, 0]),
        (dense, 6, 3, [[0, 1, 2], [3, 4, 5]]),
        (dense, 8, 3, [[0, 1, 2], [3, 4, 5], [6, 7, 6]]),
        (dense, 1, 3, [[0, 0, 0]]),
        (all_frames, 7, 3, [[0, 1, 2], [3, 4, 5], [6]]),
        (all_frames, 2, 32, [[0, 1]]),
        (restricted_all, 5, 3, [[0, 2, 4], [1, 3, 4]]),
    ],
)
def test_sure_picks(form, length, frames, picks):
    assert form(length, frames) == picks


@given(**sizes, seed=st.integers(0, 99))
def test_training_clips_have_their_frames_inside_the_tracklet_and_repeat(length, frames, seed):
    for name, form in TRAINING_SAMPLERS.items():
        clip = form(length, frames, np.random.default_rng(seed))
        most = min(length, frames) if name == "strided_ragged" else frames
        assert len(clip) == most and all(type(index) is int and 0 <= index < length for index in clip), name
        assert clip == form(length, frames, np.random.default_rng(seed)), name
        if name != "consecutive" or length >= frames:
            assert clip == sorted(clip), name


@given(**sizes)
def test_test_clips_have_their_frames_inside_the_tracklet(length, frames):
    for name, form in EVALUATION_SAMPLERS.items():
        clips = form(length, frames)
        assert clips and all(type(index) is int and 0 <= index < length for clip in clips for index in clip), name
        if name != "all_frames":
            assert all(len(clip) == frames for clip in clips), name
        if name in ("all_frames", "dense", "restricted_all"):
            assert {index for clip in clips for index in clip} == set(range(length)), name


@given(length=st.integers(1, 300), frames=st.integers(1, 40))
def test_all_frames_come_once_and_in_order(length, frames):
    assert [index for piece in all_frames(length, frames) for index in piece] == list(range(length))
    assert all(len(piece) == frames for piece in all_frames(length, frames)[:-1])


def test_forms_are_had_by_name():
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    assert training_sampler("strided", frames=4)(99, rng=rng) == strided(99, 4, again, stride=8)
    assert training_sampler("strided", frames=4, stride=3)(99, rng=rng) == strided(99, 4, again, stride=3)
    assert training_sampler("strided_ragged", frames=4, stride=3)(99, rng=rng) == strided(99, 4, again, stride=3)
    assert training_sampler("restricted_random", frames=4)(9, rng=rng) == restricted_random(9, 4, again)
    assert evaluation_sampler("all_frames", frames=32)(40) == [list(range(32)), list(range(32, 40))]
    assert evaluation_sampler("restricted_first", frames=3)(4) == [[0, 2, 3]]


def test_a_recipe_may_name_every_training_sampler():
    assert set(get_args(TrainingSampling)) == set(TRAINING_SAMPLERS)


@pytest.mark.parametrize("form", [training_sampler, evaluation_sampler])
def test_forms_that_do_not_exist_are_refused(form):
    with pytest.raises(ValueError, match=r"sampling must be one of .*evenly.*, got 'random'"):
        form("random", frames=8)
    with pytest.raises(ValueError, match="got clips of 0 frames"):
        form("evenly", frames=0)


@pytest.mark.parametrize(("length", "frames"), [(0, 8), (8, 0), (-1, 8), (3, -2)])
def test_nothing_to_pick_from_is_refused(length, frames):
    for form in TRAINING_SAMPLERS.values():
        with pytest.raises(ValueError, match=rf"got .*{length} frames .*wanted at least 1 of each"):
            form(length, frames, np.random.default_rng(0))
    for form in EVALUATION_SAMPLERS.values():
        with pytest.raises(ValueError, match=rf"got .*{length} frames .*wanted at least 1 of each"):
            form(length, frames)


@pytest.mark.parametrize("stride", [0, -8])
def test_a_stride_that_goes_nowhere_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}"):
        strided(99, 4, np.random.default_rng(0), stride=stride)
    with pytest.raises(ValueError, match=f"a stride of {stride}"):
        training_sampler("strided", frames=4, stride=stride)
