import math

import pytest
import torch
from hypothesis import given, settings
from strategies import clips, normal, wake

from strfnet.layers.temporal_attention import TemporalAttention

SETTINGS = [{}, {"heads": 3, "inner_channels": 9}, {"positions": False}]


def one_position_at_a_time(unit, clip):
    """The equation in loops: a position's frames, head by head, weight by weight."""
    b, c, t, h, w = clip.shape
    output = clip.clone()
    width = unit.query.out_features // unit.heads
    code = torch.zeros(t, c, dtype=clip.dtype)
    for frame in range(t):
        for channel in range(c):
            angle = frame / 10_000 ** (channel // 2 * 2 / c)
            code[frame, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    for i, y, x in ((i, y, x) for i in range(b) for y in range(h) for x in range(w)):
        frames = clip[i, :, :, y, x].T
        normed = (frames - frames.mean(1, keepdim=True)) / (frames.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        normed = normed * unit.norm.weight + unit.norm.bias
        placed = normed + code if unit.positions else normed
        query, key, value = unit.query(placed), unit.key(placed), unit.value(normed)
        gathered = torch.zeros_like(query)
        for head in range(unit.heads):
            part = slice(head * width, (head + 1) * width)
            for frame in range(t):
                scores = torch.stack([query[frame, part].dot(key[other, part]) for other in range(t)]) / math.sqrt(
                    width
                )
                weights = scores.exp() / scores.exp().sum()
                gathered[frame, part] = sum(weights[other] * value[other, part] for other in range(t))
        output[i, :, :, y, x] += unit.out(gathered).T
    return output


@pytest.mark.parametrize("options", SETTINGS)
@settings(deadline=None, max_examples=10)
@given(clip=clips(channels=6, max_batch=2, max_frames=4, max_height=3, max_width=2))
def test_the_unit_is_the_equation_written_position_by_position(options, clip):
    unit = wake(TemporalAttention(6, **options).double()).eval()
    with torch.no_grad():
        torch.testing.assert_close(unit(clip), one_position_at_a_time(unit, clip.contiguous()), rtol=1e-5, atol=1e-7)


def test_a_new_unit_is_the_identity_and_its_last_layer_learns_first():
    unit, clip = TemporalAttention(8), normal(2, 8, 3, 4, 2, dtype=torch.float32)
    assert torch.equal(unit(clip), clip)
    unit(clip).square().sum().backward()
    assert {name for name, p in unit.named_parameters() if p.grad.any()} == {"out.weight", "out.bias"}


def test_the_order_of_frames_matters_only_with_positions():
    clip = normal(1, 8, 4, 2, 3)
    for positions in (True, False):
        unit = wake(TemporalAttention(8, positions=positions).double())
        turned = unit(clip.flip(2)).flip(2)
        assert torch.allclose(turned, unit(clip)) is not positions


def test_weights_are_those_of_the_output():
    unit, clip = wake(TemporalAttention(8, heads=2).double()), normal(2, 8, 3, 4, 2)
    weights = unit.attention(clip)
    assert weights.shape == (2, 4, 2, 2, 3, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    gathered = (weights.flatten(0, 2) @ unit.project(clip)[2]).transpose(1, 2).flatten(2)
    added = unit.out(gathered).unflatten(0, (2, 4, 2)).permute(0, 4, 3, 1, 2)
    torch.testing.assert_close(unit(clip), clip + added)


def test_heads_have_64_channels_at_most_and_divide_the_width():
    heads = {channels: TemporalAttention(channels).heads for channels in (1, 24, 128, 200, 384, 768)}
    assert heads == {1: 1, 24: 1, 128: 1, 200: 2, 384: 3, 768: 6}
    with pytest.raises(ValueError, match="heads must divide inner_channels, 4, got 3"):
        TemporalAttention(8, heads=3)
    with pytest.raises(ValueError, match="inner_channels must be at least 1, got 0"):
        TemporalAttention(8, inner_channels=0)
