"""Of a ragged batch, every layer and head computes what it computes of each clip alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, wake
from torch import nn

import strfnet
from strfnet.layers import FAM, FFM, FrameAttention, GeM, Head
from strfnet.layers.attention import set_attention
from strfnet.layers.frame_stride import FrameStride
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF


def conv():
    return nn.Conv2d(4, 6, 3, padding=1, groups=2)


def registered(kind, **options):
    """An AP3D convolution that compares 3 features; gradients of cosines of one are nothing but rounding."""
    layer = kind(conv(), **options)
    layer.appearance = strfnet.AppearancePreserving(layer.appearance.channels, inner_channels=3, **options)
    return layer


LAYERS = {
    "strf": lambda: STRF(4, reduction=1),
    "strf zeros": lambda: STRF(4, reduction=1, time_padding="zeros", window=5, dynamic="remainder", mask="joint"),
    "strf whole": lambda: STRF(4, reduction=1, window=None, grid=9, residual=False),
    "static": lambda: FFM(4, "static"),
    "dynamic": lambda: FFM(4, "dynamic"),
    "remainder": lambda: FFM(4, "dynamic", dynamic="remainder", window=None),
    "coarse": lambda: FFM(4, "coarse", grid=(3, 2)),
    "fine": lambda: FFM(4, "fine", split=False),
    "product": lambda: FAM(4),
    "time": lambda: FAM(4, mask="time", time_padding="zeros"),
    "space": lambda: FAM(4, mask="space"),
    "pixels": lambda: NonLocalBlock(4),
    "windows": lambda: NonLocalBlock(4, window=2),
    "subsampled": lambda: NonLocalBlock(4, window=3, subsample=True, norm=False),
    "stripes": lambda: NonLocalBlock(4, stripes=3, pool="both", window=2),
    "dot": lambda: NonLocalBlock(4, pairing="dot"),
    "dot windows": lambda: NonLocalBlock(4, pairing="dot", window=3),
    "over time": lambda: strfnet.TemporalAttention(4, inner_channels=6, heads=2),
    "every second frame": lambda: FrameStride(2),
    "merged": lambda: strfnet.TemporalReduction(3),
    "c2d": lambda: strfnet.C2D(conv()),
    "i3d": lambda: strfnet.I3D(conv()),
    "i3d strided": lambda: strfnet.I3D(conv(), time_kernel=5, time_stride=2, time_dilation=2),
    "p3dc strided": lambda: strfnet.P3DC(conv(), time_kernel=5, time_stride=3),
    "p3da": lambda: strfnet.P3DA(conv()),
    "p3db": lambda: strfnet.P3DB(conv()),
    "p3dc": lambda: strfnet.P3DC(conv()),
    "ap3di": lambda: registered(strfnet.AP3DI),
    "ap3da": lambda: registered(strfnet.AP3DA),
    "ap3db": lambda: registered(strfnet.AP3DB),
    "ap3dc": lambda: registered(strfnet.AP3DC, gate=False),
    "appearance": lambda: strfnet.AppearancePreserving(4, inner_channels=3, detach_gate=False),
}
HEADS = {
    "mean": lambda: Head(4, None),
    "max": lambda: Head(4, None, pooling="max"),
    "max_mean": lambda: Head(4, None, pooling="max_mean", stripes=2),
    "gem": lambda: Head(4, None, pooling="gem", stripes=3),
    "attention": lambda: Head(4, None, pooling="attention"),
    "own": lambda: Head(4, None, pooling=lambda x, lengths=None: GeM(2)(x, lengths)),
}
FILLINGS = (math.nan, math.inf, -math.inf, 1e30, -3.0, 0.0)


def ragged(lengths, t, filling, dtype=torch.float64):
    clip = normal(len(lengths), 4, 20, 5, 3, seed=sum(lengths))[:, :, :t].to(dtype, copy=True)
    for one, length in zip(clip, lengths, strict=True):
        one[:, length:] = filling
    return clip.requires_grad_(), torch.tensor(lengths)


def gradients(output, inputs):
    weights = normal(*output.shape, seed=5).to(output.dtype)
    return torch.autograd.grad((output * weights).sum(), inputs, allow_unused=True)


def assert_alike(ours, theirs, limit):
    """To ``limit`` of the largest value, because some gradients are zero but for rounding."""
    scale = max(1, *(other.abs().max().item() for other in (*theirs, torch.ones(1)) if other is not None))
    for one, other in zip(ours, theirs, strict=True):
        if other is not None:
            assert (one - other).abs().max() <= limit * scale


@pytest.mark.parametrize("name", LAYERS)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    more=st.integers(0, 9),
    filling=st.sampled_from(FILLINGS),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
@settings(max_examples=8)
def test_a_layer_computes_what_it_computes_of_each_clip_alone(name, lengths, more, filling, dtype):
    layer, limit = wake(LAYERS[name]()).to(dtype).eval(), {torch.float64: 1e-12, torch.float32: 3e-6}[dtype]
    clip, counts = ragged(lengths, max(lengths) + more, filling, dtype)
    output = layer(clip, lengths=counts)
    after = getattr(layer, "lengths_after", lambda given: given)(counts)
    alone = [layer(clip[i : i + 1, :, :length]) for i, length in enumerate(lengths)]
    for i, one in enumerate(alone):
        assert after[i] == one.shape[2]
        assert_alike([output[i : i + 1, :, : after[i]]], [one], limit)
        assert not output[i, :, after[i] :].any()
    total = output.shape[2]
    padded = torch.cat([nn.functional.pad(one, (0, 0, 0, 0, 0, total - one.shape[2])) for one in alone])
    inputs = [clip, *layer.parameters()]
    assert_alike(gradients(output, inputs), gradients(padded, inputs), limit)


@pytest.mark.parametrize("name", HEADS)
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3), filling=st.sampled_from(FILLINGS))
@settings(max_examples=10)
def test_a_head_pools_the_frames_that_exist(name, lengths, filling):
    head = wake(HEADS[name]()).double().eval()
    clip, counts = ragged(lengths, max(lengths) + 2, filling)
    output = head(clip, counts).embedding
    alone = torch.cat([head(clip[i : i + 1, :, :length]).embedding for i, length in enumerate(lengths)])
    inputs = [clip, *(p for p in head.parameters() if p.requires_grad)]
    assert_alike([output, *gradients(output, inputs)], [alone, *gradients(alone, inputs)], 1e-12)


@pytest.mark.parametrize("name", ["strf", "pixels", "windows", "stripes"])
def test_statistics_in_training_leave_out_frames_past_the_end(name):
    layers = [wake(LAYERS[name]()).double().train() for _ in range(2)]
    lengths = [4, 1, 2]
    outputs = []
    for layer, more, filling in zip(layers, (0, 5), (0.0, math.nan), strict=True):
        clip, counts = ragged(lengths, 4 + more, filling)
        outputs.append(layer(clip, lengths=counts)[:, :, :4])
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(layer.state_dict() for layer in layers), rtol=1e-12, atol=1e-12)
    norm = next(module for module in layers[0].modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    full = wake(LAYERS[name]()).double().train()
    full(ragged([4, 4, 4], 4, 0.0)[0])
    assert not torch.equal(norm.running_mean, dict(full.named_buffers())["norm.running_mean"])


@pytest.mark.parametrize("name", ["pixels", "windows", "dot windows", "subsampled"])
def test_shown_attention_is_that_of_each_clip_alone(name):
    block = wake(LAYERS[name]()).double().eval()
    clip, counts = ragged([3, 5], 8, math.nan)
    matrix = block.attention(clip, counts)
    query, key, value = block.project(clip, counts)
    gathered = (matrix @ block._windows(value)).flatten(1, 2)[:, : 8 * query.shape[2]]
    torch.testing.assert_close(gathered[1, : 5 * 15], block.gather(query, key, value, counts)[1].flatten(0, 1)[:75])
    alone = block.attention(clip[:1, :, :3])
    torch.testing.assert_close(matrix[:1, : alone.shape[1], : alone.shape[2], : alone.shape[3]], alone)
    masks = strfnet.STRF(4).eval().double().masks(clip, counts)
    assert all(mask[i, :, :n].isfinite().all() for mask in masks.values() for i, n in enumerate([3, 5]))


NAMED = ["strf", "static", "product", "pixels", "p3dc", "appearance", "every second frame", "merged", "over time"]


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (torch.tensor([0, 2]), r"lengths must lie in 1..4, the frames of the clips, got \[0, 2\]"),
        (torch.tensor([4, 5]), r"lengths must lie in 1..4, the frames of the clips, got \[4, 5\]"),
        (torch.tensor([1, 2, 3]), r"lengths must be 2 integers, one a clip, got torch.int64 \(3,\)"),
        (torch.tensor([1.0, 2.0]), r"lengths must be 2 integers, one a clip, got torch.float32 \(2,\)"),
    ],
)
def test_impossible_lengths_are_refused(name, lengths, words):
    with pytest.raises(ValueError, match=words):
        LAYERS[name]()(torch.zeros(2, 4, 4, 5, 3), lengths=lengths)


@pytest.mark.parametrize("form", ["chunked", "plain"])
def test_every_form_of_attention_leaves_out_frames_past_the_end(form):
    block = wake(LAYERS["windows"]()).double().eval()
    clip, counts = ragged([1, 5], 7, math.nan)
    inputs = [clip, *block.parameters()]
    expected = gradients(block(clip, counts), inputs)
    set_attention(block, form)
    torch.testing.assert_close(gradients(block(clip, counts), inputs), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dot_pairs_of_half_precision_do_not_overflow(dtype):
    block = wake(NonLocalBlock(4, pairing="dot", norm=False)).to(dtype)
    clip = (8 + normal(1, 4, 8, 32, 32)).to(dtype)
    expected = block.double()(clip.double())
    found = block.to(dtype)(clip)
    assert (found.double() - expected).abs().max() < 0.05 * expected.abs().max()
    assert FrameAttention(4)(clip.float()).isfinite().all()
