from collections import Counter
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from PIL import Image
from strategies import normal

from strfnet.data.frames import IMAGENET_MEAN
from strfnet.data.transforms import Augmentation, Changes

NOTHING = Augmentation(flip=0)


@pytest.fixture
def clip():
    """Normal numbers: no two pixels, and so no two places, are alike."""
    return normal(3, 4, 16, 8, seed=1, dtype=torch.float32)


def results(augmentation, clip, times):
    rng = np.random.default_rng(3)
    return [augmentation(clip, rng) for _ in range(times)]


def mirrored(clip, result):
    """For each frame, whether it is mirrored; it must be that or as it was."""
    flags = []
    for before, after in zip(clip.unbind(1), result.unbind(1), strict=True):
        flipped = torch.stack([before[..., column] for column in range(before.shape[-1] - 1, -1, -1)], dim=-1)
        assert torch.equal(after, flipped) or torch.equal(after, before)
        flags.append(torch.equal(after, flipped))
    return flags


def windows(clip, result):
    """Top and left of the window that each frame was cut from, when Pillow enlarges it."""
    places = []
    for before, after in zip(clip.unbind(1), result.unbind(1), strict=True):
        h, w = before.shape[1:]
        size = round(w * 1.125), round(h * 1.125)
        large = np.stack([np.asarray(Image.fromarray(channel.numpy()).resize(size, Image.Resampling.BILINEAR))
                          for channel in before])  # fmt: skip
        near = [
            (top, left)
            for top in range(size[1] - h + 1)
            for left in range(size[0] - w + 1)
            if np.allclose(large[:, top : top + h, left : left + w], after.numpy(), atol=1e-4)
        ]
        assert len(near) == 1
        places += near
    return places


def rectangles(clip, result, fill=IMAGENET_MEAN):
    """Top, left, height and width of what is painted over in each frame, None where nothing is."""
    found = []
    for before, after in zip(clip.unbind(1), result.unbind(1), strict=True):
        changed = (before != after).any(dim=0)
        if not changed.any():
            found.append(None)
            continue
        rows, columns = changed.any(dim=1).nonzero().flatten(), changed.any(dim=0).nonzero().flatten()
        top, left, height, width = rows[0].item(), columns[0].item(), len(rows), len(columns)
        inside = after[:, top : top + height, left : left + width]
        assert changed.sum() == height * width
        assert torch.equal(inside, torch.tensor(fill).view(3, 1, 1).expand_as(inside))
        found.append((top, left, height, width))
    return found


@pytest.mark.parametrize("others", [(), ("crop", "erasing")])
def test_half_of_the_clips_are_mirrored_whole(clip, others):
    flags = [mirrored(clip, result) for result in results(Augmentation(per_frame=others), clip, 1000)]
    assert all(len(set(frames)) == 1 for frames in flags)
    assert 420 < sum(frames[0] for frames in flags) < 580


def test_frames_are_mirrored_by_themselves_where_asked(clip):
    flags = [mirrored(clip, result) for result in results(Augmentation(per_frame=("flip",)), clip, 800)]
    counts = Counter(map(tuple, flags))
    assert len(counts) == 16 and all(20 < count < 85 for count in counts.values())


@pytest.mark.parametrize("flip", [0, 0.2, 1])
def test_probabilities_are_kept_to(clip, flip):
    count = sum(mirrored(clip, result)[0] for result in results(Augmentation(flip=flip), clip, 1000))
    assert abs(count - 1000 * flip) < 5 * (1000 * flip * (1 - flip)) ** 0.5 + 1e-9


@pytest.mark.parametrize("others", [(), ("flip", "erasing")])
def test_a_clip_is_enlarged_and_cropped_at_one_place_each_alike(clip, others):
    places = [windows(clip, r) for r in results(replace(NOTHING, crop=1, per_frame=others), clip, 300)]
    assert all(len(set(frames)) == 1 for frames in places)
    counts = Counter(frames[0] for frames in places)  # 18 by 9 pixels leave room of 2 and 1
    assert len(counts) == 6 and all(20 < count < 85 for count in counts.values())


def test_frames_are_cropped_by_themselves_where_asked(clip):
    places = [windows(clip, r) for r in results(replace(NOTHING, crop=1, per_frame=("crop",)), clip, 30)]
    assert sum(len(set(frames)) > 1 for frames in places) > 20


def test_erasing_paints_one_rectangle_over_all_frames():
    clip = normal(3, 3, 64, 32, seed=2, dtype=torch.float32)
    drawn = [rectangles(clip, result) for result in results(replace(NOTHING, erasing=1), clip, 600)]
    assert all(len(set(frames)) == 1 for frames in drawn)
    shapes = np.array([frames[0] for frames in drawn])
    top, left, height, width = shapes.T
    area, aspect = height * width / (64 * 32), height / width
    assert 0.015 < area.min() < 0.04 and 0.36 < area.max() < 0.42  # sides are rounded
    assert 0.25 < aspect.min() < 0.5 and 3 < aspect.max() < 4
    assert abs(np.median(aspect) - 1.8) < 0.35  # uniform between the ends, not between their logarithms
    assert top.min() == left.min() == 0
    assert (top + height).max() == 64 and (left + width).max() == 32


def test_erasing_agrees_with_the_rule_written_out():
    clip = normal(3, 1, 40, 20, seed=2, dtype=torch.float32)
    for seed in range(50):
        (found,) = rectangles(clip, replace(NOTHING, erasing=1)(clip, np.random.default_rng(seed)))
        rng = np.random.default_rng(seed)
        rng.random(3)  # whether to crop, to mirror, to erase
        while True:
            area, aspect = rng.uniform(0.02, 0.4) * 800, rng.uniform(0.3, 1 / 0.3)
            height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if height < 40 and width < 20:
                break
        assert found == (rng.integers(40 - height + 1), rng.integers(20 - width + 1), height, width)


def test_half_of_the_clips_are_erased_with_the_colour_asked_for(clip):
    augmentation = replace(NOTHING, erasing=0.5, fill=(0.4914, 0.4822, 0.4465))
    drawn = [rectangles(clip, result, augmentation.fill) for result in results(augmentation, clip, 400)]
    assert 150 < sum(frames[0] is not None for frames in drawn) < 250
    assert all(len(set(frames)) == 1 for frames in drawn)


def test_frames_are_erased_by_themselves_where_asked(clip):
    augmentation = replace(NOTHING, erasing=0.5, per_frame=("erasing",))
    drawn = [rectangles(clip, result) for result in results(augmentation, clip, 200)]
    assert 330 < sum(frame is None for frames in drawn for frame in frames) < 470
    assert sum(len(set(frames)) > 1 for frames in drawn) > 150


def test_a_frame_too_small_for_any_rectangle_stays_as_it_is():
    clip = normal(3, 2, 1, 5, dtype=torch.float32)
    assert torch.equal(replace(NOTHING, erasing=1)(clip, np.random.default_rng(0)), clip)


def test_all_together_are_a_pure_function_of_clip_and_generator(clip):
    augmentation = Augmentation(flip=0.5, crop=0.5, erasing=0.5, per_frame=("erasing", "flip", "crop"))
    before = clip.clone()
    once, again, other = (augmentation(clip, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert torch.equal(once, again) and not torch.equal(once, other)
    assert torch.equal(clip, before) and once.shape == clip.shape and once.dtype == clip.dtype


def test_what_is_erased_is_neither_cropped_nor_mirrored_afterwards(clip):
    for seed in range(20):
        result = Augmentation(flip=1, crop=1, erasing=1)(clip, np.random.default_rng(seed))
        painted = (result == torch.tensor(IMAGENET_MEAN).view(3, 1, 1, 1)).all(dim=0).all(dim=0)
        rows, columns = painted.any(dim=1).sum(), painted.any(dim=0).sum()
        assert painted.sum() == rows * columns > 0
        assert not torch.equal(result, clip)


def test_torch_and_numpy_generators_of_the_process_are_left_alone(clip):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    Augmentation(flip=0.5, crop=1, erasing=1)(clip, np.random.default_rng(0))
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)


@pytest.mark.parametrize("per_frame", [(), ("crop", "flip", "erasing")])
def test_a_batch_is_changed_as_its_clips_are_one_by_one(per_frame):
    augmentation = Augmentation(flip=0.5, crop=0.5, erasing=0.5, per_frame=per_frame)
    clips = normal(6, 3, 4, 16, 8, seed=4, dtype=torch.float32)
    drawn = [augmentation.draw((4, 16, 8), np.random.default_rng(seed)) for seed in range(6)]
    together = augmentation.apply(clips, Changes(*map(torch.stack, zip(*drawn, strict=True))))
    singles = [augmentation(clip, np.random.default_rng(seed)) for seed, clip in enumerate(clips)]
    assert torch.equal(together, torch.stack(singles)) and not torch.equal(together, clips)


def test_applying_reads_no_value_on_the_host():
    """On a GPU every read waits for all that was computed before; on the meta device there is nothing to read."""
    augmentation = Augmentation(flip=0.5, crop=0.5, erasing=0.5, per_frame=("erasing",))
    drawn = augmentation.draw((4, 16, 8), np.random.default_rng(0))
    changes = Changes(*(change[None].to("meta") for change in drawn))
    assert augmentation.apply(torch.empty(1, 3, 4, 16, 8, device="meta"), changes).shape == (1, 3, 4, 16, 8)


def test_augmentation_is_a_record():
    assert Augmentation() == Augmentation(flip=0.5, crop=0, erasing=0, fill=IMAGENET_MEAN, per_frame=())
    with pytest.raises(FrozenInstanceError):
        Augmentation().flip = 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"flip": 1.5}, "flip is 1.5, wanted a probability from 0 to 1"),
        ({"crop": -0.1}, "crop is -0.1"),
        ({"crop": True}, "crop is True"),
        ({"erasing": float("nan")}, "erasing is nan"),
        ({"per_frame": ("erase",)}, r"per_frame is \('erase',\), wanted some of crop, flip, erasing"),
        ({"per_frame": "flip"}, "per_frame is 'flip'"),
        ({"per_frame": True}, "per_frame is True"),
        ({"fill": (0.5,)}, r"fill is \(0.5,\)"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**wrong)


@pytest.mark.parametrize("shape", [(1, 3, 4, 16, 8), (4, 3, 16, 8), (3, 16, 8)])
def test_clips_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"clip is \(.*\), wanted \(3, t, h, w\)"):
        Augmentation()(torch.zeros(shape), np.random.default_rng(0))
