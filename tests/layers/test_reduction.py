import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import clips, normal

from strfnet import TemporalReduction


def restated(clip, factor, lengths=None):
    """Group by group the largest of the frames that count; zeros where none does."""
    answer = []
    for i, one in enumerate(clip):
        t = clip.shape[2]
        groups = [range(first, min(first + factor, t)) for first in range(0, t, factor)]
        counts = t if lengths is None else lengths[i]
        frames = []
        for group in groups:
            there = [one[:, j] for j in group if j < counts]
            frames.append(torch.stack(there).max(dim=0).values if there else torch.zeros_like(one[:, 0]))
        answer.append(torch.stack(frames, dim=1))
    return torch.stack(answer)


@given(clip=clips(channels=2, max_frames=9), factor=st.integers(1, 5))
@settings(max_examples=40)
def test_neighbouring_frames_become_the_larger_of_them_and_the_last_group_is_shorter(clip, factor):
    answer = TemporalReduction(factor)(clip)
    assert answer.shape[2] == -(-clip.shape[2] // factor)
    assert torch.equal(answer, restated(clip, factor))


@given(clip=clips(channels=2, max_batch=3, max_frames=9), factor=st.integers(1, 4), data=st.data())
@settings(max_examples=40)
def test_of_clips_with_lengths_only_the_frames_that_count_do(clip, factor, data):
    b, _, t = clip.shape[:3]
    lengths = data.draw(st.lists(st.integers(1, t), min_size=b, max_size=b))
    layer, counts = TemporalReduction(factor), torch.tensor(lengths)
    answer = layer(clip, counts)
    assert torch.equal(answer, restated(clip, factor, lengths))
    after = layer.lengths_after(counts)
    assert after.tolist() == [len(range(0, length, factor)) for length in lengths]
    for i, length in enumerate(lengths):
        alone = layer(clip[i : i + 1, :, :length])
        assert torch.equal(answer[i : i + 1, :, : after[i]], alone)
        assert not answer[i, :, after[i] :].any()
    filled = clip.clone()
    for one, length in zip(filled, lengths, strict=True):
        one[:, length:] = float("nan")
    assert torch.equal(layer(filled, counts), answer)  # whatever stands where no frame counts


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_full_lengths_of_any_integer_type_change_nothing(dtype):
    clip = normal(3, 2, 5, 2, 2)
    layer = TemporalReduction(3)
    assert torch.equal(layer(clip, torch.full((3,), 5, dtype=dtype)), layer(clip))


def test_values_of_minus_infinity_in_frames_that_count_stay():
    clip = normal(1, 1, 4, 1, 1)
    clip[:, :, :2] = float("-inf")
    assert TemporalReduction(2)(clip, torch.tensor([2])).flatten().tolist() == [float("-inf"), 0]


def test_pairs_by_default_and_a_factor_of_one_changes_nothing():
    clip = normal(2, 3, 5, 2, 2)
    assert torch.equal(TemporalReduction()(clip), restated(clip, 2))
    assert torch.equal(TemporalReduction(1)(clip), clip)


@given(clip=clips(channels=2, max_frames=7), factor=st.integers(1, 4))
@settings(max_examples=20)
def test_every_gradient_goes_to_the_frame_that_was_the_largest(clip, factor):
    layer, leaf = TemporalReduction(factor), clip.clone().requires_grad_()
    layer(leaf).sum().backward()
    largest = layer(clip).repeat_interleave(factor, dim=2)[:, :, : clip.shape[2]] == clip
    assert torch.equal(leaf.grad, largest.double())


def test_a_nan_stays_in_its_own_group_and_clip():
    clip = normal(2, 1, 5, 1, 1)
    clip[0, 0, 2] = float("nan")
    assert TemporalReduction(2)(clip).isnan().flatten().tolist() == [False, True, False] + [False] * 3


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (torch.tensor([1, 2, 3]), r"lengths must be 2 integers, one a clip, got torch.int64 \(3,\)"),
        (torch.tensor([[1], [2]]), r"lengths must be 2 integers, one a clip, got torch.int64 \(2, 1\)"),
        (torch.tensor([1.0, 2.0]), r"lengths must be 2 integers, one a clip, got torch.float32 \(2,\)"),
        (torch.tensor([True, True]), r"lengths must be 2 integers, one a clip, got torch.bool \(2,\)"),
        (torch.tensor([0, 2]), r"lengths must lie in 1..4, the frames of the clips, got \[0, 2\]"),
        (torch.tensor([4, 5]), r"lengths must lie in 1..4, the frames of the clips, got \[4, 5\]"),
    ],
)
def test_lengths_that_cannot_be_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        TemporalReduction()(torch.zeros(2, 1, 4, 1, 1), lengths)


def test_lengths_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match=r"lengths must be a tensor .* got list"):
        TemporalReduction()(torch.zeros(2, 1, 4, 1, 1), [1, 2])


@pytest.mark.parametrize("factor", [0, -1])
def test_a_factor_below_one_is_refused(factor):
    with pytest.raises(ValueError, match=f"factor must be at least 1, got {factor}"):
        TemporalReduction(factor)
