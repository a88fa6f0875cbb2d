import copy
import re
from collections import OrderedDict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_golden, golden, normal, wake
from torch import nn
from torchvision.models.resnet import Bottleneck

from strfnet import AP3DA, AP3DB, AP3DC, AP3DI, C2D, I3D, P3DA, P3DB, P3DC, inflate
from strfnet.layers.temporal import TemporalConv, inflate_weight

KINDS = {"C2D": C2D, "I3D": I3D, "P3DA": P3DA, "P3DB": P3DB, "P3DC": P3DC}
TEMPORAL = {"C2D": "c2d", "I3D": "i3d", "P3DA": "p3d_a", "P3DB": "p3d_b", "P3DC": "p3d_c"}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@st.composite
def convolutions(draw):
    """Any 2-D convolution that fits a frame of 5 x 5 pixels."""
    groups, stride = draw(st.integers(1, 3)), (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    kernel, dilation = [(draw(st.integers(1, n)), draw(st.integers(1, n))) for n in (3, 2)]
    paddings = st.tuples(st.integers(0, 2), st.integers(0, 2)) | st.just("valid")
    centred = tuple(d * (k - 1) // 2 for k, d in zip(kernel, dilation, strict=True))
    padding = draw(paddings | st.just(centred) | (st.just("same") if stride == (1, 1) else st.nothing()))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return nn.Conv2d(
        groups * draw(st.integers(1, 2)),
        groups * draw(st.integers(1, 2)),
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
        dtype=torch.float64,
    )


def clip_for(conv, t, seed=0):
    return normal(2, conv.in_channels, t, 5, 6, seed=seed, dtype=conv.weight.dtype)


def frame_by_frame(conv, clip):
    return torch.stack([conv(clip[:, :, i]) for i in range(clip.shape[2])], dim=2)


def mixed(weight, frame, groups):
    """A 1 x 1 grouped convolution, output channel by output channel."""
    outputs, inputs = weight.shape
    answer = []
    for o in range(outputs):
        first = (o // (outputs // groups)) * inputs
        answer.append(sum(weight[o, i] * frame[:, first + i] for i in range(inputs)))
    return torch.stack(answer, dim=1)


def taps_and_frames(layer, i, t):
    """The taps of frame i, and the frame that each reads; beyond the ends there is nothing to add."""
    half, dilation = layer.time_kernel // 2, layer.time_dilation
    frames = [(tap, i + dilation * (tap - half)) for tap in range(layer.time_kernel)]
    return [(tap, j) for tap, j in frames if 0 <= j < t]


def over_frames(layer, clip):
    """Taps over time, (o, i, taps), at every frame that is kept."""
    t, weight, answer = clip.shape[2], layer.temporal.weight[..., 0], []
    for i in range(0, t, layer.time_stride):
        near = taps_and_frames(layer, i, t)
        answer.append(sum(mixed(weight[:, :, tap], clip[:, :, j], layer.groups) for tap, j in near))
    return torch.stack(answer, dim=2)


def restated(layer, conv, clip):
    """The answer of an awake layer made from ``conv``, written frame by frame."""
    if isinstance(layer, C2D):
        return frame_by_frame(conv, clip)
    if isinstance(layer, I3D):
        slices = []
        for tap in range(layer.time_kernel):
            slices.append(copy.deepcopy(conv))
            slices[tap].weight.data = layer.weight.data[:, :, tap]
            slices[tap].bias = conv.bias if tap == layer.time_kernel // 2 else None
        t = clip.shape[2]
        near = [taps_and_frames(layer, i, t) for i in range(0, t, layer.time_stride)]
        return torch.stack([sum(slices[tap](clip[:, :, j]) for tap, j in taps) for taps in near], dim=2)
    y = frame_by_frame(conv, clip)
    if isinstance(layer, P3DA):
        return over_frames(layer, y)
    kept = y[:, :, :: layer.time_stride]
    if isinstance(layer, P3DB):
        rows, columns = conv.stride
        return kept + over_frames(layer, clip[..., ::rows, ::columns])
    return kept + over_frames(layer, y)


def reads_a_middle_pixel(conv):
    """Whether the frame is padded by half of what the kernel spans, on both sides of both axes."""
    for axis in range(2):
        span = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        padding = {"same": span / 2, "valid": 0}.get(conv.padding, conv.padding[axis])
        if span % 2 or padding != span / 2:
            return False
    return True


@pytest.mark.parametrize("case", ["k3s1", "k3s2", "k1s1"])
@pytest.mark.parametrize("kind", KINDS)
def test_convolutions_agree_with_the_published_ones_new_and_trained(case, kind):
    numbers = golden("inflation")
    weight = numbers[f"{case}.weight2d"]
    conv = nn.Conv2d(*weight.shape[1::-1], weight.shape[2], 1 + (case == "k3s2"), weight.shape[2] // 2, bias=False)
    conv.double().weight.data = weight
    layer, x = KINDS[kind](conv), numbers[f"{case}.x"]
    assert_golden(layer(x), numbers[f"{case}.{kind}.out_init"])
    put_trained(layer, numbers, f"{case}.{kind}.")
    assert_golden(layer(x), numbers[f"{case}.{kind}.out"])


@pytest.mark.parametrize("case", ["k3s1", "k3s2", "k1s1"])
@pytest.mark.parametrize(
    ("setting", "kind"),
    [*(("td5ts1", kind) for kind in ("I3D", "P3DA", "P3DB", "P3DC")), ("td3ts2", "I3D"), ("td3ts2", "P3DA")],
)
def test_kernels_of_five_frames_and_strides_in_time_agree_with_the_published_ones(case, setting, kind):
    numbers, prefix = golden("inflation_time"), f"{case}.{setting}.{kind}."
    weight = numbers[f"{case}.weight2d"]
    conv = nn.Conv2d(*weight.shape[1::-1], weight.shape[2], 1 + (case == "k3s2"), weight.shape[2] // 2, bias=False)
    conv.double().weight.data = weight
    time = {"time_kernel": 5} if setting == "td5ts1" else {"time_stride": 2}
    layer, x = KINDS[kind](conv, **time), numbers[f"{case}.x"]
    assert_golden(layer(x), numbers[f"{prefix}out_init"])
    put_trained(layer, numbers, prefix)
    assert_golden(layer(x), numbers[f"{prefix}out"])


def put_trained(layer, numbers, prefix):
    if isinstance(layer, I3D):
        layer.weight.data = numbers[f"{prefix}conv3d.weight"]
    elif not isinstance(layer, C2D):
        layer.temporal.weight.data = numbers[f"{prefix}temporal_conv3d.weight"].squeeze(4)


@pytest.mark.parametrize("block", ["plain", "down"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_inflated_bottleneck_agrees_with_the_published_one(block, kind):
    numbers = golden("inflation")
    prefix = f"bottleneck.{block}."
    state = {
        key.removeprefix(f"{prefix}src2d."): v for key, v in numbers.items() if key.startswith(f"{prefix}src2d.")
    }
    width = {"plain": 4, "down": 8}[block]
    shortcut = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32)) if block == "down" else None
    image = Bottleneck(16, width, stride=2 if block == "down" else 1, downsample=shortcut).double().eval()
    missing = image.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all("num_batches" in key for key in missing.missing_keys)
    network = nn.Sequential(OrderedDict(block=image))
    network = inflate(network, temporal=TEMPORAL[kind], unit=None, places=["block.conv2"])
    if kind != "C2D":
        put_trained(network.block.conv2, numbers, f"{prefix}{kind}.conv2.")
    assert_golden(network(numbers[f"{prefix}x"]), numbers[f"{prefix}{kind}.out"])


@pytest.mark.parametrize("case", ["k3s1", "k3s2", "k1s1"])
def test_kernels_are_inflated_as_published_and_to_any_length(case):
    numbers = golden("inflation")
    weight = numbers[f"{case}.weight2d"]
    for frames in (3, 4):
        for how in ("mean", "center"):
            published = numbers[f"{case}.inflate_conv.td{frames}.{how}.weight3d"]
            assert_golden(inflate_weight(weight, frames, how=how), published)
    for frames in (1, 2, 5):
        torch.testing.assert_close(inflate_weight(weight, frames, how="mean").sum(dim=2), weight)
        slices = inflate_weight(weight, frames).unbind(2)
        assert [bool(one.any()) for one in slices] == [i == frames // 2 for i in range(frames)]
    with pytest.raises(ValueError, match=r"frames must be at least 1, got 0"):
        inflate_weight(weight, 0)
    with pytest.raises(ValueError, match=r'how must be "center" or "mean", got \'centre\''):
        inflate_weight(weight, 3, how="centre")


times = st.fixed_dictionaries(
    {"time_kernel": st.sampled_from([1, 3, 5]), "time_stride": st.integers(1, 3), "time_dilation": st.integers(1, 2)}
)


@every_kind
@given(conv=convolutions(), t=st.integers(1, 6), seed=st.integers(0, 99), time=times | st.just({}))
@settings(max_examples=60, deadline=None)
def test_of_any_geometry_new_it_is_the_convolution_per_frame_and_awake_the_sum_over_frames(kind, conv, t, seed, time):
    if kind is C2D:
        time = {}
    if kind is P3DB and not reads_a_middle_pixel(conv):
        with pytest.raises(ValueError, match="needs padding of half its extent"):
            P3DB(conv)
        return
    layer, clip = kind(conv, **time), clip_for(conv, t, seed)
    torch.testing.assert_close(layer(clip), frame_by_frame(conv, clip)[:, :, :: layer.time_stride])
    wake(layer, seed)
    awake = layer.image_conv()
    torch.testing.assert_close(layer(clip), restated(layer, awake, clip))


@pytest.mark.parametrize("kind", [I3D, P3DA, AP3DI, AP3DA])
def test_inflated_by_the_mean_it_is_the_convolution_inside_a_clip_of_equal_frames(kind):
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=False).double()
    layer, clip = kind(conv, how="mean", time_kernel=5), clip_for(conv, 1).repeat(1, 1, 7, 1, 1)
    if kind in (I3D, P3DA):
        torch.testing.assert_close(layer(clip)[:, :, 2:-2], frame_by_frame(conv, clip)[:, :, 2:-2])
    assert not torch.allclose(layer(clip)[:, :, 0], conv(clip[:, :, 0]))
    torch.testing.assert_close(layer.image_conv().weight, conv.weight)
    state = {"weight": 2 * conv.weight}
    layer.load_state_dict(state, strict=False)
    torch.testing.assert_close(layer.image_conv().weight, state["weight"])
    with pytest.raises(ValueError, match=r'how must be "center" or "mean", got \'centre\''):
        kind(conv, how="centre")


@pytest.mark.parametrize("kind", [I3D, P3DA, P3DB, P3DC, AP3DI, AP3DA, AP3DB, AP3DC])
@pytest.mark.parametrize(
    ("time", "message"),
    [
        ({"time_kernel": 4}, "time_kernel must be odd, so that its middle is a frame, got 4"),
        ({"time_kernel": 0}, "time_kernel must be a whole number of at least 1, got 0"),
        ({"time_stride": 1.5}, "time_stride must be a whole number of at least 1, got 1.5"),
        ({"time_dilation": -1}, "time_dilation must be a whole number of at least 1, got -1"),
    ],
)
def test_time_settings_without_a_middle_frame_are_refused(kind, time, message):
    with pytest.raises(ValueError, match=message):
        kind(nn.Conv2d(2, 2, 1), **time)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "accepted"),
    [
        ((3, 1), 1, (1, 0), True),
        ((3, 3), 2, (2, 2), True),
        ((3, 5), 1, "same", True),
        ((1, 1), 1, "valid", True),
        ((3, 3), 1, "valid", False),
        ((3, 3), 1, (1, 0), False),
        ((3, 3), 1, (2, 2), False),
        ((2, 2), 1, "same", False),
        ((2, 2), 1, (1, 1), False),
        ((2, 2), 2, "same", True),
    ],
)
def test_time_beside_space_needs_a_middle_pixel(kernel, dilation, padding, accepted):
    conv = nn.Conv2d(2, 2, kernel, dilation=dilation, padding=padding)
    assert reads_a_middle_pixel(conv) is accepted
    if accepted:
        torch.testing.assert_close(P3DB(conv)(clip_for(conv, 2)), frame_by_frame(conv, clip_for(conv, 2)))
    else:
        with pytest.raises(ValueError, match=rf"got padding {re.escape(str(conv.padding))} with kernel"):
            P3DB(conv)


@every_kind
def test_frames_are_refused_as_no_clip(kind):
    with pytest.raises(ValueError, match=r"x must be a clip \(b, c, t, h, w\), got 4 axes"):
        kind(nn.Conv2d(2, 3, 1))(torch.zeros(6, 2, 5, 6))


@every_kind
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_it_has_the_dtype_of_the_convolution(kind, dtype):
    conv = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2).to(dtype)
    layer, clip = kind(conv), clip_for(conv, 3).to(dtype)
    assert {p.dtype for p in layer.parameters()} == {dtype} == {layer(clip).dtype}
    torch.testing.assert_close(layer(clip), frame_by_frame(conv, clip))


@every_kind
@pytest.mark.parametrize("training", [True, False])
def test_mode_frozen_parameters_and_hooks_are_kept(kind, training):
    conv = nn.Conv2d(3, 4, 3, padding=1).train(training)
    conv.weight.requires_grad_(False)
    conv.register_forward_hook(lambda module, inputs, answer: 2 * answer)
    layer, clip = kind(conv), clip_for(conv, 2)
    assert all(module.training is training for module in layer.modules())
    trained = {name for name, parameter in layer.named_parameters() if parameter.requires_grad}
    assert trained == {"bias"} | ({"temporal.weight"} if hasattr(layer, "temporal") else set())
    torch.testing.assert_close(layer(clip), frame_by_frame(conv, clip))
    assert layer(clip).abs().sum() > 0
    assert layer.image_conv().weight.requires_grad is False and layer.image_conv().training is training
    thawed = kind(nn.Conv2d(3, 4, 3, padding=1))
    assert all(parameter.requires_grad for parameter in (*thawed.parameters(), *thawed.image_conv().parameters()))


@every_kind
@pytest.mark.parametrize("bias", [True, False])
def test_the_image_convolution_comes_back_bit_for_bit_with_todays_weights(kind, bias):
    conv = nn.Conv2d(4, 4, (3, 1), stride=(1, 2), padding=(1, 0), groups=2, bias=bias, padding_mode="circular")
    conv.register_forward_hook(lambda module, inputs, answer: 2 * answer)
    layer, frame = kind(conv), clip_for(conv, 1)[:, :, 0]
    back = layer.image_conv()
    assert type(back) is nn.Conv2d and repr(back) == repr(conv) and torch.equal(back(frame), conv(frame))
    assert list(back.state_dict()) == list(conv.state_dict()) and not list(back.children())
    if hasattr(layer, "temporal"):
        nn.init.ones_(layer.temporal.weight)
        assert torch.equal(layer.image_conv()(frame), conv(frame))
    middle = layer.weight.data[:, :, 1] if kind is I3D else layer.weight.data
    middle += 1
    assert torch.equal(layer.image_conv().weight, conv.weight + 1)
    assert torch.equal(back.weight, conv.weight)  # made earlier, and not tied to the layer


@every_kind
def test_the_convolution_given_is_not_touched(kind):
    conv = nn.Conv2d(3, 3, 3, padding=1)
    before, names = copy.deepcopy(conv.state_dict()), set(vars(conv))
    layer = kind(conv)
    wake(layer)
    layer(clip_for(conv, 2)).sum().backward()
    assert conv.weight.grad is None and set(vars(conv)) == names and not list(conv.children())
    assert all(torch.equal(conv.state_dict()[key], value) for key, value in before.items())


@every_kind
def test_a_checkpoint_of_the_image_convolution_loads_and_is_not_touched(kind):
    torch.manual_seed(1)
    conv = nn.Conv2d(3, 4, 3, padding=1)
    layer = nn.Sequential(kind(nn.Conv2d(3, 4, 3, padding=1)))
    state = nn.Sequential(conv).state_dict()
    loaded = layer.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys and set(loaded.missing_keys) <= {"0.temporal.weight"}
    assert state["0.weight"].ndim == 4
    clip = clip_for(conv, 3)
    torch.testing.assert_close(layer(clip), frame_by_frame(conv, clip))
    layer.load_state_dict(layer.state_dict())  # its own, strictly: 5-D for I3D


@every_kind
@pytest.mark.parametrize("other", [nn.Conv3d(2, 2, 1), nn.Linear(2, 2), C2D(nn.Conv2d(2, 2, 1)), nn.LazyConv2d(2, 1)])
def test_subclasses_of_the_convolution_and_other_modules_are_refused(kind, other):
    with pytest.raises(TypeError, match=rf"conv must be a plain torch.nn.Conv2d, got {type(other).__name__}"):
        kind(other)


def test_a_convolution_that_does_not_say_what_it_does_over_time_says_so():
    with pytest.raises(TypeError, match="TemporalConv does not implement convolve"):
        TemporalConv(nn.Conv2d(2, 2, 1))(torch.zeros(1, 2, 1, 1, 1))


def test_a_representation_shows_what_is_not_usual():
    usual, strided = (repr(P3DC(nn.Conv2d(2, 2, 3, padding=1), time_stride=stride)) for stride in (1, 2))
    assert "time_kernel=3\n" in usual and "time_kernel=3, time_stride=2\n" in strided


def test_a_weight_that_is_assigned_is_a_parameter_of_the_layer():
    layer = P3DC(nn.Conv2d(2, 2, 3))
    layer.weight = weight = nn.Parameter(torch.ones(2, 2, 3, 3))
    assert dict(layer.named_parameters())["weight"] is weight
