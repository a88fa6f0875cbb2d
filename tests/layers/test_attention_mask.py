import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import clips, normal, wake

from strfnet import FAM

MASKS = ("product", "time", "space", "joint")
PARAMETERS = {"product": 4 * 3 + 2, "time": 3 * 3 + 1, "space": 3 + 1, "joint": 3 + 1}
every_mask = pytest.mark.parametrize("mask", MASKS)


def sigmoid(number):
    return 1 / (1 + math.exp(-number))


def restated(fam, clip):
    """The mask of a clip, number by number."""
    b, _, t, h, w = clip.shape
    size, mask = clip.abs(), torch.empty(b, 1, t, h, w, dtype=clip.dtype)
    frame_means, place_means = size.sum(dim=(3, 4)) / (h * w), size.sum(dim=2) / t

    def in_time(i, j):
        total = fam.over_time.bias.item()
        for tap in range(3):
            near = j + tap - 1
            if fam.time_padding == "replicate":
                near = min(max(near, 0), t - 1)
            if 0 <= near < t:
                total += (fam.over_time.weight[0, :, tap] @ frame_means[i, :, near]).item()
        return sigmoid(total)

    def at(conv, vector):
        return sigmoid((conv.weight[0, :, 0, 0] @ vector).item() + conv.bias.item())

    for i in range(b):
        for j in range(t):
            for row in range(h):
                for column in range(w):
                    value = 1.0
                    if fam.over_both is not None:
                        value = at(fam.over_both, size[i, :, j, row, column])
                    if fam.over_time is not None:
                        value *= in_time(i, j)
                    if fam.over_space is not None:
                        value *= at(fam.over_space, place_means[i, :, row, column])
                    mask[i, 0, j, row, column] = value
    return mask


@every_mask
@given(
    clip=clips(channels=3, max_batch=2, max_frames=5, max_height=4, max_width=3),
    time_padding=st.sampled_from(["replicate", "zeros"]),
)
@settings(max_examples=25)
def test_the_mask_is_the_sigmoids_of_mean_magnitudes(mask, clip, time_padding):
    fam = wake(FAM(3, mask=mask, time_padding=time_padding).double())
    expected, weighed = restated(fam, clip), fam(clip)
    assert fam.mask(clip).shape == (len(clip), 1, *clip.shape[2:])
    torch.testing.assert_close(fam.mask(clip), expected)
    torch.testing.assert_close(weighed, clip * expected)
    assert fam.mask(clip).min() > 0 and fam.mask(clip).max() < 1


@every_mask
def test_a_feature_can_be_weighed_by_the_mask_of_another(mask):
    fam, x, component = wake(FAM(3, mask=mask).double()), normal(2, 3, 4, 3, 2), normal(2, 3, 4, 3, 2, seed=1)
    torch.testing.assert_close(fam(x, component), x * restated(fam, component))
    assert not torch.allclose(fam(x, component), fam(x))


@every_mask
def test_the_sign_of_a_feature_does_not_matter_to_its_mask(mask):
    fam, x = wake(FAM(3, mask=mask).double()), normal(2, 3, 4, 3, 2)
    signs = normal(2, 3, 4, 3, 2, seed=2).sign()
    assert torch.equal(fam.mask(x * signs), fam.mask(x))


@every_mask
@given(clip=clips(channels=3, max_batch=2, max_height=4))
@settings(max_examples=20)
def test_equal_frames_get_equal_masks_and_reversed_ones_the_reversed(mask, clip):
    fam = wake(FAM(3, mask=mask).double())
    still = clip[:, :, :1].expand_as(clip)
    masks = fam.mask(still)
    torch.testing.assert_close(masks, masks[:, :, :1].expand_as(masks))
    expected = fam.mask(clip).flip(2)
    if fam.over_time is not None:
        fam.over_time.weight.data = fam.over_time.weight.flip(2).detach()
    torch.testing.assert_close(fam.mask(clip.flip(2)), expected)


@every_mask
def test_parameters_are_those_of_the_budget(mask):
    assert sum(p.numel() for p in FAM(3, mask=mask).parameters()) == PARAMETERS[mask]
    constant = {"time": (3, 4), "space": (2,), "product": (), "joint": ()}[mask]
    varies = wake(FAM(3, mask=mask).double()).mask(normal(1, 3, 4, 3, 2))
    for axis in (2, 3, 4):
        assert bool((varies.diff(dim=axis).abs() > 1e-9).any()) is (axis not in constant)


def test_the_default_is_the_product_with_replicated_frames():
    assert FAM(3).kind == "product" and FAM(3).time_padding == "replicate"
    assert repr(FAM(3, mask="time")).startswith("FAM(\n  3, mask='time', time_padding='replicate'")


def test_a_component_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"component must have the shape of x, .*, got \(1, 3, 2, 2, 2\)"):
        FAM(3)(torch.zeros(1, 3, 2, 4, 4), torch.zeros(1, 3, 2, 2, 2))
