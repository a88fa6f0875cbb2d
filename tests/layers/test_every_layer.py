import copy
import pickle
import re

import pytest
import torch
from strategies import normal, reordered, wake
from sweeps import sweep
from torch import nn
from torch.func import functional_call

import strfnet
from strfnet import FAM, FFM, STRF, AppearancePreserving, NonLocalBlock, TemporalAttention, TemporalReduction

C = 4
CONVOLUTIONS = ("C2D", "I3D", "P3DA", "P3DB", "P3DC", "AP3DI", "AP3DA", "AP3DB", "AP3DC")


def convolution(name):
    """A temporal convolution whose gate, if it has one, lets gradients through, as gradcheck needs it."""
    layer = getattr(strfnet, name)(nn.Conv2d(C, C, 3, padding=1, groups=2))
    if hasattr(layer, "appearance"):
        layer.appearance.detach_gate = False
    return layer


# Each public layer, for clips of four channels.
LAYERS = {
    **{name: lambda name=name: convolution(name) for name in CONVOLUTIONS},
    "AppearancePreserving": lambda: AppearancePreserving(C, inner_channels=2, detach_gate=False),
    "FAM": lambda: FAM(C),
    "FAM, joint": lambda: FAM(C, mask="joint", time_padding="zeros"),
    "FFM, static": lambda: FFM(C, "static"),
    "FFM, dynamic": lambda: FFM(C, "dynamic"),
    "FFM, remainder": lambda: FFM(C, "dynamic", dynamic="remainder", window=None),
    "FFM, coarse": lambda: FFM(C, "coarse"),
    "FFM, fine": lambda: FFM(C, "fine", grid=(3, 2)),
    "STRF": lambda: STRF(C, reduction=2),
    "NonLocalBlock": lambda: NonLocalBlock(C),
    "NonLocalBlock, windows": lambda: NonLocalBlock(C, window=2, subsample=True),
    "NonLocalBlock, dot": lambda: NonLocalBlock(C, pairing="dot", window=2, norm=False),
    "NonLocalBlock, stripes": lambda: NonLocalBlock(C, stripes=2, pool="both", window=2),
    "TemporalAttention": lambda: TemporalAttention(C),
    "TemporalReduction": lambda: TemporalReduction(2),
}
FRAMES = {"AppearancePreserving": lambda t: 3 * t, "TemporalReduction": lambda t: (t + 1) // 2}
MODES = {"STRF": [True, False], "NonLocalBlock": [True, False]}  # in training their norms answer otherwise
every_layer = pytest.mark.parametrize("name", LAYERS)
every_layer_with_weights = pytest.mark.parametrize("name", [name for name in LAYERS if name != "TemporalReduction"])


def awake(name, dtype=torch.float64, seed=0):
    return wake(LAYERS[name]().to(dtype), seed).eval()


def test_every_public_layer_is_in_the_table():
    layers = set(strfnet.__all__) & set(strfnet.layers.__all__)
    assert layers == {name.partition(",")[0] for name in LAYERS}
    for name in layers:
        assert type(LAYERS[next(key for key in LAYERS if key.partition(",")[0] == name)]()) is getattr(strfnet, name)


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_shape_and_dtype_are_kept_and_the_input_is_not_touched(name, training):
    for dtype, shape in (
        (torch.float32, (2, C, 1, 3, 2)),
        (torch.float64, (1, C, 3, 5, 4)),
        (torch.bfloat16, (3, C, 4, 2, 7)),
    ):
        layer, clip = awake(name, dtype).train(training), normal(*shape, dtype=dtype)
        before = clip.clone()
        answer = layer(clip)
        b, c, t, h, w = shape
        assert answer.shape == (b, c, FRAMES.get(name, lambda t: t)(t), h, w)
        assert answer.dtype == dtype and answer.isfinite().all() and torch.equal(clip, before)
        assert answer.untyped_storage().data_ptr() != clip.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    ("name", "training"), [(name, mode) for name in LAYERS for mode in MODES.get(name.partition(",")[0], [False])]
)
def test_gradients_of_the_clip_and_of_all_parameters_are_right(name, training):
    layer = awake(name).train(training)
    names, parameters = zip(*layer.named_parameters(), strict=True) if list(layer.parameters()) else ((), ())

    def answer(clip, *values):
        return functional_call(layer, dict(zip(names, values, strict=True)), (clip,))

    clip = normal(1, C, 3, 3, 2, seed=3).requires_grad_()
    assert torch.autograd.gradcheck(answer, (clip, *parameters))


@every_layer
def test_the_answer_does_not_depend_on_the_memory_order(name):
    layer, clip = awake(name), normal(2, C, 3, 4, 3)
    expected = layer(clip)
    frames_first = clip.transpose(1, 2).contiguous().transpose(1, 2)
    wider = torch.cat([clip, clip], dim=2)[:, :, 3:]
    for same in (reordered(clip, "channels_last"), reordered(clip, "strided"), frames_first, wider):
        torch.testing.assert_close(layer(same), expected)
    still = clip[:, :, :1].expand_as(clip)
    torch.testing.assert_close(layer(still), layer(still.contiguous()))


@every_layer
def test_copies_and_pickles_answer_alike_and_stand_alone(name):
    layer, clip = awake(name), normal(2, C, 3, 4, 3)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(clip), layer(clip))
        assert repr(other) == repr(layer) and not other.training
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in layer.parameters()}


@every_layer
def test_the_state_dict_is_all_that_a_layer_knows(name):
    layer, other, clip = awake(name), awake(name, seed=1), normal(2, C, 3, 4, 3)
    assert name == "TemporalReduction" or not torch.allclose(other(clip), layer(clip))
    other.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(other(clip), layer(clip))


@pytest.mark.parametrize("name", sweep(LAYERS, quick=6))
def test_one_compiled_graph_agrees_for_any_batch_and_any_number_of_frames(name):
    torch._dynamo.reset()
    layer, graphs = awake(name), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    for b, t in ((2, 3), (3, 8)):  # all sizes differ at first: equal ones are compiled as one
        clip = normal(b, C, t, 6, 5, seed=t)
        torch.testing.assert_close(compiled(clip), layer(clip))
    assert len(graphs) == 1
    torch._dynamo.reset()


@every_layer
@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_stays_near_float32(name, training):
    layer, clip = awake(name, torch.float32).train(training), normal(2, C, 3, 6, 4, dtype=torch.float32)
    expected = copy.deepcopy(layer)(clip)
    with torch.autocast("cpu", torch.bfloat16):
        answer = layer(clip)
    answer.float().sum().backward() if list(layer.parameters()) else None
    assert all(p.dtype == torch.float32 for p in layer.parameters())
    torch.testing.assert_close(answer.float(), expected, rtol=0.05, atol=0.04 * expected.abs().max().item())


@every_layer
@pytest.mark.parametrize("shape", [(C, 3, 2), (2, C, 3, 4, 3, 1)], ids=str)
def test_what_is_no_clip_is_refused(name, shape):
    with pytest.raises(
        ValueError, match=rf"x must be a clip \(b, c, t, h, w\), got {len(shape)} axes: {said(shape)}"
    ):
        awake(name)(normal(*shape))


@every_layer
def test_a_batch_of_images_is_refused(name):
    with pytest.raises(ValueError, match=r"x must be a clip \(b, c, t, h, w\), got 4 axes: \(2, 4, 3, 3\)"):
        awake(name)(normal(2, C, 3, 3))


@every_layer
@pytest.mark.parametrize("axis", range(5))
def test_a_clip_that_is_empty_along_an_axis_is_refused(name, axis):
    shape = [2, C, 3, 4, 3]
    shape[axis] = 0
    with pytest.raises(ValueError, match=rf"x is empty along {'bcthw'[axis]}: .* {said(shape)}; every axis needs"):
        awake(name)(normal(*shape))


@every_layer_with_weights
@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 5, 3, 2, 2), ""),
        ((2, 3, C, 2, 2), "; it looks like (b, t, c, h, w)"),
        ((2, 3, 2, 2, C), "; it looks like (b, t, h, w, c)"),
    ],
    ids=str,
)
def test_wrong_channels_are_refused_and_a_swapped_order_is_recognised(name, shape, hint):
    with pytest.raises(
        ValueError, match=rf"x must have 4 channels in axis 1 .*, got {said(shape)}{re.escape(hint)}$"
    ):
        awake(name)(normal(*shape))


@every_layer
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_frames_that_were_not_converted_are_refused(name, dtype):
    with pytest.raises(TypeError, match=f"x must hold floating-point numbers, got {dtype}; convert"):
        awake(name)(torch.ones(2, C, 3, 4, 3, dtype=dtype))


@every_layer_with_weights
def test_another_floating_type_than_the_weights_is_refused(name):
    with pytest.raises(ValueError, match=r"x is torch.float64 and the layer torch.float32; convert one"):
        awake(name, torch.float32)(normal(2, C, 3, 4, 3))


@every_layer_with_weights
def test_another_device_than_that_of_the_weights_is_refused(name):
    with pytest.raises(ValueError, match=r"x is on meta and the layer on cpu; move one"):
        awake(name)(normal(2, C, 3, 4, 3).to("meta"))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_no_tensor_is_refused(name):
    with pytest.raises(TypeError, match=r"x must be a tensor \(b, c, t, h, w\), got list"):
        awake(name)([1.0, 2.0])


def said(shape):
    return re.escape(str(tuple(shape)))


UNKNOWN = [
    (lambda: FAM(0), "channels must be at least 1, got 0"),
    (lambda: FAM(4, mask="sum"), "mask must be one of product, time, space, joint, got 'sum'"),
    (lambda: FAM(4, time_padding="same"), "time_padding must be one of replicate, zeros, got 'same'"),
    (lambda: FFM(0), "channels must be at least 1, got 0"),
    (lambda: FFM(4, "ts"), "unit must be one of static, dynamic, coarse, fine, got 'ts'"),
    (lambda: FFM(4, window=2), "window must be an odd number of frames, or None for the whole clip, got 2"),
    (lambda: FFM(4, window=0), "window must be at least 1, or None for the whole clip, got 0"),
    (lambda: FFM(4, window=-1), "window must be at least 1, or None for the whole clip, got -1"),
    (lambda: FFM(4, grid=0), "grid must be one or two numbers of pixels of at least 1, got 0"),
    (lambda: FFM(4, grid=(2, 0)), "grid must be one or two numbers of pixels of at least 1, got (2, 0)"),
    (lambda: FFM(4, grid=(2, 2, 2)), "grid must be one or two numbers of pixels of at least 1, got (2, 2, 2)"),
    (lambda: FFM(4, dynamic="diff"), "dynamic must be one of difference, remainder, got 'diff'"),
    (lambda: FFM(4, mask="sum"), "mask must be one of product, time, space, joint, got 'sum'"),
    (lambda: FFM(4, mask=None, time_padding=0), "time_padding must be one of replicate, zeros, got 0"),
    (lambda: STRF(0), "channels must be at least 1, got 0"),
    (lambda: STRF(4, reduction=0), "reduction must be at least 1, got 0"),
    (lambda: STRF(4, units=("static", "sharp")), "units must be some of"),
    (lambda: STRF(4, dynamic="diff"), "dynamic must be one of difference, remainder, got 'diff'"),
    (lambda: NonLocalBlock(0), "channels must be at least 1, got 0"),
    (lambda: NonLocalBlock(4, inner_channels=0), "inner_channels must be at least 1, got 0"),
    (lambda: NonLocalBlock(4, pairing="gauss"), "pairing must be one of softmax, dot, got 'gauss'"),
    (lambda: NonLocalBlock(4, pool="median"), "pool must be one of mean, max, both, got 'median'"),
    (lambda: NonLocalBlock(4, stripes=0), "stripes must be at least 1, or None for all pixels, got 0"),
    (lambda: NonLocalBlock(4, window=0), "window must be at least 1, or None for all frames, got 0"),
    (lambda: AppearancePreserving(0), "channels must be at least 1, got 0"),
    (lambda: TemporalReduction(0), "factor must be at least 1, got 0"),
    (lambda: strfnet.P3DB(nn.Conv2d(4, 4, 3)), "got padding (0, 0) with kernel (3, 3) and dilation (1, 1)"),
    (lambda: strfnet.AP3DB(nn.Conv2d(4, 4, 2, padding="same")), "got padding same with kernel (2, 2)"),
]


@pytest.mark.parametrize(("build", "message"), UNKNOWN, ids=[message for _, message in UNKNOWN])
def test_an_option_that_is_unknown_or_impossible_is_refused_with_its_name_and_what_would_be_right(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()
