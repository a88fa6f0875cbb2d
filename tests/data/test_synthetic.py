from dataclasses import replace

import numpy as np
import pytest

from strfnet.data.frames import read_frame
from strfnet.data.readers.folder import read_folder
from strfnet.data.synthetic import Nuisances, draw_camera, draw_walker, render, write_walkers

WITHOUT_NOISE = Nuisances(noise=0), Nuisances(noise=0, occlusion=0)
pytestmark = pytest.mark.filterwarnings("ignore:The image:DeprecationWarning")


def difference(one, other):
    """Mean over pixels, in grey levels of 0 .. 255, frame by frame."""
    return abs(one.astype(float) - other.astype(float)).mean(axis=(1, 2, 3))


def test_a_tracklet_is_a_pure_function_of_its_arguments():
    walker, camera = draw_walker(0, 1), draw_camera(0, 2)
    assert walker == draw_walker(0, 1)
    clip = render(walker, camera, frames=5, seed=(1, 2))
    assert clip.shape == (5, 64, 32, 3) and clip.dtype == np.uint8
    np.testing.assert_array_equal(clip, render(draw_walker(0, 1), draw_camera(0, 2), frames=5, seed=(1, 2)))


def test_everything_that_is_drawn_changes_the_picture():
    walker, camera = draw_walker(0, 1), draw_camera(0, 2)
    clip = render(walker, camera, frames=5, seed=3)
    others = [
        render(draw_walker(0, 2), camera, frames=5, seed=3),
        render(draw_walker(1, 1), camera, frames=5, seed=3),
        render(walker, draw_camera(0, 3), frames=5, seed=3),
        render(walker, camera, frames=5, seed=4),
    ]
    assert all(difference(clip, other).min() > 5 for other in others)


@pytest.mark.parametrize("factor", ["static", "dynamic", "coarse", "fine"])
def test_each_number_of_each_factor_shows(factor):
    walker, other, camera = draw_walker(0, 1), draw_walker(0, 6), draw_camera(0, 0)
    walker = replace(walker, static=replace(walker.static, stripe_contrast=0.3))
    clip = render(walker, camera, seed=2).astype(float)
    for name, value in vars(getattr(other, factor)).items():
        twin = replace(walker, **{factor: replace(getattr(walker, factor), **{name: value})})
        assert abs(render(twin, camera, seed=2) - clip).max() > 10, name


def test_one_frame_does_not_tell_how_fast_somebody_walks():
    walker, camera = draw_walker(0, 1), draw_camera(0, 0)
    twin = replace(walker, dynamic=replace(walker.dynamic, frequency=0.2))
    changed = difference(render(walker, camera, seed=3), render(twin, camera, seed=3))
    assert changed[0] == 0 and changed[1:].min() > 0


@pytest.mark.parametrize("part", ["gain", "bias", "background"])
def test_each_part_of_a_camera_shows(part):
    walker, camera, other = draw_walker(0, 1), draw_camera(0, 0), draw_camera(0, 1)
    changed = replace(camera, **{part: getattr(other, part)})
    assert difference(render(walker, camera, seed=3), render(walker, changed, seed=3)).min() > 5


def test_a_larger_picture_shows_the_same_scene():
    walker, camera = draw_walker(0, 3), draw_camera(0, 1)
    small, large = render(walker, camera, seed=9), render(walker, camera, seed=9, height=192)
    assert large.shape == (16, 192, 96, 3)
    pooled = large.reshape(16, 64, 3, 32, 3, 3).mean(axis=(2, 4))
    assert difference(small, pooled).max() < 8  # noise and edges


def test_walkers_keep_to_the_ranges_of_the_recipe():
    walkers = [draw_walker(0, identity) for identity in range(200)]
    frequencies = [walker.dynamic.frequency for walker in walkers]
    assert 0.05 <= min(frequencies) < 0.06 and 0.24 < max(frequencies) <= 0.25
    assert {round(np.degrees(walker.dynamic.lag)) for walker in walkers} == {-90, 90}
    shares = [walker.coarse.torso_share for walker in walkers]
    assert 0.28 <= min(shares) < 0.29 and 0.45 < max(shares) <= 0.46


def test_a_block_passes_in_front_of_two_tracklets_in_five_for_3_to_9_frames():
    walker, camera, seeds = draw_walker(0, 1), draw_camera(0, 0), range(100)
    usual, clear = ([render(walker, camera, seed=s, nuisances=n).astype(float) for s in seeds] for n in WITHOUT_NOISE)
    hidden = [abs(one - other).max(axis=(1, 2, 3)) > 60 for one, other in zip(usual, clear, strict=True)]
    runs = ["".join("-#"[int(frame)] for frame in frames).strip("-") for frames in hidden]
    assert 30 <= sum(map(bool, runs)) <= 50
    assert set(filter(None, runs)) <= {"#" * length for length in range(3, 10)}


def test_written_walkers_are_read_back(tmp_path):
    write_walkers(tmp_path / "walkers", identities=3, cameras=2, tracklets=2, frames=4, seed=5, height=64)
    tracklets = read_folder(tmp_path / "walkers")
    assert [path.name for path in tmp_path.iterdir()] == ["walkers"]
    assert [(t.identity, t.camera, len(t.frames)) for t in tracklets] == [
        (f"walker{i}", f"camera{c}", 4) for i in (1, 2, 3) for c in (1, 2) for _ in range(2)
    ]
    clip = render(draw_walker(5, 2), draw_camera(5, 1), frames=4, seed=(3, 5, 2, 1, 0))
    frame = read_frame(tracklets[10].frames[2]).permute(1, 2, 0).numpy() * 255
    changed = difference(clip, frame[None])
    assert changed.argmin() == 2 and changed[2] < 7  # JPEG thins out colour


def test_walkers_are_not_written_over_anything(tmp_path):
    (tmp_path / "note.txt").touch()
    with pytest.raises(ValueError, match="exists already"):
        write_walkers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


@pytest.mark.parametrize(
    "wrong", [{"frames": 0}, {"height": 63}, {"height": 2}, {"identities": 0}, {"tracklets": -1}]
)
def test_walkers_that_cannot_be_drawn_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"got .* wanted"):
        write_walkers(tmp_path / "walkers", **wrong)
    assert not (tmp_path / "walkers").exists()


def test_a_staying_block_is_in_front_in_every_frame_and_turns_at_the_borders():
    walker, camera = draw_walker(0, 1), draw_camera(0, 0)
    for seed in range(12):
        clean = render(walker, camera, frames=24, seed=seed, nuisances=Nuisances(occlusion=0, noise=0)).astype(float)
        heavy = render(walker, camera, frames=24, seed=seed, nuisances=Nuisances(occlusion=0, noise=0, block=True))
        covered = abs(heavy - clean).max(axis=-1) > 12
        assert covered.any(axis=(1, 2)).all()
        columns = np.arange(32) + 0.5
        inside = [columns[frame.any(axis=0)] for frame in covered]
        middles = np.array([(places.min() + places.max()) / 2 for places in inside])
        assert abs(np.diff(middles)).max() < 4.1  # 1 to 3 pixels, found to a pixel
        assert middles.max() - middles.min() > 10  # it travels


def test_each_nuisance_can_be_taken_away():
    still = Nuisances(occlusion=0, jitter=0, shift=0, scale=0, noise=0)
    walker, camera = draw_walker(0, 1), draw_camera(0, 0)
    standing = replace(walker, dynamic=replace(walker.dynamic, frequency=0))
    clip = render(standing, camera, seed=1, nuisances=still)
    assert (clip == clip[0]).all()
    for name, more in {"jitter": 2, "shift": 4, "scale": 0.2, "noise": 0.1, "occlusion": 1, "block": True}.items():
        changed = render(standing, camera, seed=1, nuisances=replace(still, **{name: more}))
        assert (difference(clip, changed) > 0).any(), name
        assert bool((changed == changed[0]).all()) == (name in ("shift", "scale")), name


def test_jitter_is_larger_up_and_down_than_sideways():
    shaken = Nuisances(occlusion=0, jitter=2, shift=0, scale=0, noise=0)
    one, camera = draw_walker(0, 1), draw_camera(0, 0)
    one = replace(one, dynamic=replace(one.dynamic, frequency=0))
    other = replace(one, static=draw_walker(0, 2).static)  # in other clothes, so that the figure shows
    clips = [render(walker, camera, frames=300, seed=1, nuisances=shaken).astype(float) for walker in (one, other)]
    weights = abs(clips[0] - clips[1]).sum(axis=-1)
    middles = [
        weights.sum(axis=axis) @ np.arange(size) / weights.sum(axis=(1, 2)) for axis, size in ((2, 64), (1, 32))
    ]
    rows, columns = (np.std(middle) for middle in middles)
    assert 1.7 < rows < 2.3 and 0.55 < columns / rows < 0.65


@pytest.mark.parametrize("seed", [3, (3, 1)])
def test_defaults_are_the_nuisances_that_drawings_have(seed):
    walker, camera = draw_walker(0, 1), draw_camera(0, 0)
    given = Nuisances(occlusion=0.4, block=False, jitter=0.7, shift=1.5, scale=0.08, noise=0.02)
    assert given == Nuisances()
    np.testing.assert_array_equal(
        render(walker, camera, seed=seed), render(walker, camera, seed=seed, nuisances=given)
    )


def test_drawings_stay_as_they_are():
    means = [[155.4, 77.98, 136.23], [155.41, 77.09, 134.24], [154.61, 77.78, 134.06]]
    clip = render(draw_walker(0, 1), draw_camera(0, 2), seed=(1, 2)).astype(float)
    np.testing.assert_allclose(clip[[0, 7, 15]].mean(axis=(1, 2)), means, atol=0.02)
