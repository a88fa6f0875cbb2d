"""Convolutions by Winograd's algorithm compute what direct ones do, in every layer; only some are changed."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import wake
from torch import nn

import strfnet
import strfnet.deployment.winograd as winograd
from strfnet.deployment.deployed import Deployed
from strfnet.deployment.fusion import fuse
from strfnet.deployment.in_place import add_in_place, norms_in_place
from strfnet.deployment.winograd import Winograd, is_suited, matrices, transform, use_winograd
from strfnet.inference.stream import Stream
from strfnet.inflation.extension import own_class
from strfnet.inflation.splicing import Followed
from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC

SHAPE = (1, 3, 4, 64, 32)


@pytest.mark.parametrize("outputs", [winograd.NARROW, winograd.TILE])
def test_in_one_dimension_the_points_give_the_sliding_products(outputs):
    given_pixels, given_kernel, answered = matrices(outputs)
    pixels, kernel = torch.randn(outputs + 2, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    answers = answered @ ((given_kernel @ kernel) * (given_pixels @ pixels))
    torch.testing.assert_close(given_kernel, matrices()[1][winograd.points_of(outputs)])
    for place in range(outputs):
        assert answers[place].item() == pytest.approx(sum(kernel[k] * pixels[place + k] for k in range(3)).item())


@given(
    n=st.integers(1, 3), h=st.integers(1, 9), w=st.integers(1, 9), i=st.integers(1, 5), o=st.integers(1, 5),
    bias=st.booleans(), last=st.booleans(), seed=st.integers(0, 2**31),
)  # fmt: skip
@settings(deadline=None)
def test_the_output_is_that_of_the_direct_convolution(n, h, w, i, o, bias, last, seed):
    generator = torch.Generator().manual_seed(seed)
    conv = nn.Conv2d(i, o, 3, padding=1, bias=bias)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.normal_(generator=generator)
    frames = torch.randn(n, i, h, w, generator=generator)
    frames = frames.contiguous(memory_format=torch.channels_last) if last else frames
    expected = copy.deepcopy(conv).double()(frames.double())
    transform(conv)
    answer = conv(frames)
    assert answer.dtype == torch.float32 and answer.shape == expected.shape
    torch.testing.assert_close(answer.double(), expected, rtol=0, atol=1e-5 * max(1.0, expected.abs().max().item()))


def test_it_is_as_close_to_the_exact_output_as_a_direct_convolution():
    """Unlike with the usual points; activations and kernels as they are in the last stage of a ResNet-50."""
    torch.manual_seed(0)
    conv, frames = nn.Conv2d(512, 512, 3, padding=1, bias=False), torch.randn(2, 512, 16, 8).relu()
    exact = F.conv2d(frames.double(), conv.weight.double(), padding=1)
    transform(conv)
    assert (conv(frames) - exact).abs().max() < 4e-6 * exact.abs().max()


def test_in_bfloat16_its_error_is_small():
    """The transforms survive the rounding; with the points ±5/7 and ±7/5 the error is 0.0173 of the output."""
    torch.manual_seed(0)
    conv, frames = nn.Conv2d(64, 64, 3, padding=1, bias=False).bfloat16(), torch.randn(2, 64, 16, 8).relu().bfloat16()
    exact = F.conv2d(frames.double(), conv.weight.double(), padding=1)
    transform(conv)
    output = conv(frames)
    assert output.dtype == torch.bfloat16 and (output - exact).norm() < 0.015 * exact.norm()


def test_many_frames_are_taken_in_parts(monkeypatch):
    conv, frames = nn.Conv2d(2, 2, 3, padding=1), torch.randn(5, 2, 8, 4)
    transform(conv)
    whole = conv(frames)
    for pixels in (2 * 8 * 4, 1):
        monkeypatch.setattr(winograd, "AT_A_TIME", pixels)
        torch.testing.assert_close(conv(frames), whole, rtol=1e-6, atol=1e-6)
    assert conv(frames.contiguous(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)


def test_under_autocast_it_stays_in_single_precision():
    conv, frames = nn.Conv2d(2, 2, 3, padding=1), torch.randn(1, 2, 8, 4)
    transform(conv)
    expected = conv(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(conv(frames), expected)
        torch.testing.assert_close(conv(frames.bfloat16()), expected, rtol=0.05, atol=0.05)


WIDE = winograd.FEWEST


@pytest.mark.parametrize(
    ("channels", "arguments", "suited"),
    [
        ((WIDE, WIDE), {}, True),
        ((WIDE, WIDE), {"bias": False}, True),
        ((WIDE, 2 * WIDE), {"dtype": torch.float64}, False),
        ((WIDE, WIDE), {"dtype": torch.bfloat16}, True),
        ((WIDE, WIDE), {"dtype": torch.float16}, False),
        ((WIDE, WIDE), {"device": "meta"}, False),
        ((WIDE, WIDE), {"stride": 2}, False),
        ((WIDE, WIDE), {"padding": 0}, False),
        ((WIDE, WIDE), {"padding": "same"}, False),
        ((WIDE, WIDE), {"dilation": 2}, False),
        ((WIDE, WIDE), {"dilation": 2, "padding": 2}, False),
        ((WIDE, WIDE), {"groups": 2}, False),
        ((WIDE, WIDE), {"padding_mode": "reflect"}, False),
        ((WIDE, WIDE), {"kernel_size": 1, "padding": 0}, False),
        ((WIDE - 1, WIDE), {}, False),
        ((WIDE, WIDE - 1), {}, False),
    ],
)
def test_which_convolutions_it_is_suited(channels, arguments, suited):
    assert is_suited(nn.Conv2d(*channels, **{"kernel_size": 3, "padding": 1} | arguments)) is suited


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


def test_subclasses_that_may_compute_otherwise_stay():
    assert not is_suited(Standardized(WIDE, WIDE, 3, padding=1))
    assert not is_suited(nn.utils.parametrizations.weight_norm(nn.Conv2d(WIDE, WIDE, 3, padding=1)))


@pytest.mark.parametrize("kind", [C2D, P3DA, P3DB, P3DC, I3D])
def test_layers_over_time_keep_what_they_do_over_time(kind, monkeypatch):
    monkeypatch.setattr(winograd, "FEWEST", 1)
    layer = wake(kind(nn.Conv2d(3, 4, 3, padding=1)))
    assert is_suited(layer) is (kind is not I3D), "its kernel has three axes"
    clip = torch.randn(2, 3, 5, 6, 5)
    expected = layer(clip)
    if is_suited(layer):
        transform(layer)
        assert isinstance(layer, Winograd) and own_class(layer) is kind
        torch.testing.assert_close(layer(clip), expected, rtol=1e-5, atol=1e-5)


def fused_network(name, shape=SHAPE):
    network = wake(strfnet.create_model(name, num_classes=None)).eval()
    fused = fuse(network, shape)
    return network, fused, use_winograd(fused, shape)


@pytest.mark.parametrize("form", ["i3d_{}", "p3db_{}", "ste_nvan_{}"])
def test_networks_compute_the_same(form):
    network, fused, changed = fused_network(form.format("resnet18"), (1, 3, 4, 256, 16))
    assert changed == sum(isinstance(module, Winograd) for module in fused.modules()) >= 7
    clip = torch.randn(1, 3, 4, 256, 16)
    with torch.inference_mode():
        expected, output = network(clip).embedding, fused(clip).embedding
    assert (output - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_a_network_of_narrow_convolutions_has_none():
    assert fused_network("c2d_resnet8")[2] == 0


def test_copies_and_pickles_stay_what_they_are():
    """A unit follows one of the convolutions, so two mixins extend its class."""
    _, fused, _ = fused_network("strf_p3dc_resnet18")
    assert any(isinstance(module, Winograd) and isinstance(module, Followed) for module in fused.modules())
    clip, file = torch.randn(SHAPE), io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    with torch.inference_mode():
        expected = fused(clip).embedding
        for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused)), torch.load(file, weights_only=False)):
            assert [type(module) for module in twin.modules()] == [type(module) for module in fused.modules()]
            assert torch.equal(twin(clip).embedding, expected)


@pytest.mark.parametrize("form", ["p3dc_{}", "ap3d_{}", "ste_nvan_{}"])
def test_streams_go_on_with_it_and_with_outputs_written_in_place(form):
    network, fused, _ = fused_network(form.format("resnet18"), (1, 3, 4, 256, 16))
    norms_in_place(fused, SHAPE), add_in_place(fused, SHAPE)
    stream = Stream(Deployed(fused, (1, 3, 4, 256, 16), torch.float32))
    clip = torch.randn(1, 3, 6, 256, 16)
    for frames in range(2, 7, 2):
        stream.push(clip[:, :, frames - 2 : frames])
        with torch.inference_mode():
            expected = network(clip[:, :, :frames]).embedding
        assert (stream.embedding() - expected).abs().max() <= 1e-5 * expected.abs().max()
