import copy
import pickle
from functools import partial
from typing import get_args

import pytest
import timm
import torch
import torchvision
from strategies import normal, wake
from sweeps import sweep
from torch import nn

import strfnet
from strfnet.inflation.extension import own_class
from strfnet.inflation.inflation import TEMPORAL, UNITS, Temporal, Unit, deflate, inflate
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import P3DC

CLIP = torch.randn(2, 3, 3, 64, 32, generator=torch.Generator().manual_seed(1))
SMALL = ["torchvision.resnet18", "timm.resnet18"]
LARGE = ["torchvision.resnet50", "torchvision.resnext50_32x4d", "timm.resnet50d"]
SWEEP = [
    "torchvision.resnet34",
    "torchvision.resnet101",
    "torchvision.resnet152",
    "torchvision.wide_resnet50_2",
    "timm.resnet50",
    "timm.seresnet50",
    "timm.ecaresnet50d",
    "timm.resnetaa50",
]


def image_network(name):
    """A real network with random norm weights and statistics; asleep, wrong ones would pass too."""
    library, _, name = name.partition(".")
    torch.manual_seed(0)
    network = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            wake(module)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def frame_by_frame(network, clip):
    """The mean over frames of what the image network answers to each, one call a frame."""
    return torch.stack([network(clip[:, :, j]) for j in range(clip.shape[2])]).mean(dim=0)


def relative_error(answer, expected):
    return ((answer - expected).abs().max() / expected.abs().max()).item()


@pytest.fixture(scope="module")
def resnet18():
    return image_network("torchvision.resnet18")


@pytest.mark.parametrize("name", sweep([*SMALL, *LARGE, *SWEEP], quick=3))
@torch.no_grad()
def test_an_inflated_network_answers_as_the_image_network_on_every_frame(name):
    network = image_network(name)
    expected = frame_by_frame(network, CLIP)
    units = (None, "strf", "non_local")
    for number, temporal in enumerate(TEMPORAL):
        for unit in units if name in SMALL else (units[number % 3],):
            error = relative_error(inflate(network, temporal=temporal, unit=unit)(CLIP), expected)
            assert error <= 1e-5, (temporal, unit)


@torch.no_grad()
def test_a_folded_network_is_equal_to_the_bit(resnet18):
    per_frame = resnet18(CLIP.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3)).mean(dim=1)
    for unit in (None, "strf", "non_local"):
        assert torch.equal(inflate(resnet18, temporal="c2d", unit=unit)(CLIP), per_frame)
    last = CLIP.contiguous(memory_format=torch.channels_last_3d)
    per_frame = resnet18(last.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3)).mean(dim=1)
    assert torch.equal(inflate(resnet18, temporal="c2d")(last), per_frame)


def test_each_name_stands_for_its_convolution():
    assert get_args(Temporal) == tuple(TEMPORAL) and get_args(Unit) == tuple(UNITS)
    with torch.device("meta"):
        network = torchvision.models.resnet18()
        kinds = {name: own_class(inflate(network, temporal=name, unit=None).layer2[0].conv2) for name in TEMPORAL}
    assert kinds == {
        "c2d": nn.Conv2d,
        "i3d": strfnet.I3D,
        "p3d_a": strfnet.P3DA,
        "p3d_b": strfnet.P3DB,
        "p3d_c": strfnet.P3DC,
        "ap3d_i3d": strfnet.AP3DI,
        "ap3d_p3d_a": strfnet.AP3DA,
        "ap3d_p3d_b": strfnet.AP3DB,
        "ap3d_p3d_c": strfnet.AP3DC,
    }


def test_the_headline_network_is_strf_on_p3dc_in_every_second_block():
    with torch.device("meta"):
        network = strfnet.inflate(torchvision.models.resnet50)
    found = [path for path, module in network.named_modules() if isinstance(module, P3DC)]
    assert found == [f"layer2.{i}.conv2" for i in (0, 2)] + [f"layer3.{i}.conv2" for i in (0, 2, 4)]
    assert all(isinstance(network.get_submodule(path).after[0], STRF) for path in found)
    plain = sum(p.numel() for p in torchvision.models.resnet50().parameters())
    temporal = 2 * 3 * 128**2 + 3 * 3 * 256**2
    assert sum(p.numel() for p in network.parameters()) == plain + temporal + 51_368


def test_an_awake_network_depends_on_the_order_of_frames(resnet18):
    network = inflate(resnet18)
    assert torch.equal(network(CLIP), network(CLIP.contiguous()))
    wake(network.layer2[0].conv2.temporal)
    wake(network.layer2[0].conv2.after)
    forwards, backwards = network(CLIP), network(CLIP.flip(2))
    assert relative_error(backwards, forwards) > 1e-3


def test_the_callers_network_is_not_modified(resnet18):
    before = pickle.dumps(resnet18)
    inflate(resnet18, last_stride=1)(CLIP)
    assert pickle.dumps(resnet18) == before


@torch.no_grad()
def test_what_was_inflated_is_taken_apart_to_what_went_in(resnet18):
    for temporal in TEMPORAL:
        inflated = inflate(resnet18, temporal=temporal, last_stride=1)
        inflated = strfnet.splice(inflated, {"layer1": NonLocalBlock})
        image = deflate(inflated)
        assert type(image) is type(resnet18)
        assert [(p, type(m)) for p, m in image.named_modules()] == [(p, type(m)) for p, m in resnet18.named_modules()]
        state, expected = image.state_dict(), resnet18.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        assert torch.equal(image(CLIP[:, :, 0]), resnet18(CLIP[:, :, 0]))
        assert "after" in dict(inflated.layer1[-1].named_children())  # taken apart was a copy


def test_deflate_refuses_an_image_network(resnet18):
    with pytest.raises(ValueError, match="not an inflated network"):
        deflate(resnet18)


@pytest.mark.parametrize("name", ["torchvision.resnet18", "torchvision.resnet50", "timm.resnet18", "timm.resnet50d"])
@torch.no_grad()
def test_last_stride_one_keeps_the_resolution_of_the_last_stage(name):
    shapes = []
    network = image_network(name)
    for last_stride in (None, 1, 2):
        inflated = inflate(network, temporal="c2d", unit=None, last_stride=last_stride)
        inflated.layer4.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[2:])))
        inflated(torch.randn(1, 3, 2, 64, 32))
    assert shapes == [(2, 1), (4, 2), (2, 1)]


@pytest.mark.parametrize("kind", [strfnet.I3D, strfnet.P3DB, strfnet.AP3DC])
def test_shortcuts_follow_a_stride_in_time(resnet18, kind):
    image = copy.deepcopy(resnet18).double()
    before, places = str(image), ["layer2.0", "layer2.1", "layer3.1"]
    network = inflate(image, temporal=partial(kind, time_stride=2), places=places, unit=None)
    clip = normal(2, 3, 9, 64, 32)  # 9 frames become 5, 3 and 2
    with torch.no_grad():
        expected = torch.stack([image(clip[:, :, i]) for i in (0, 8)]).mean(dim=0)
        torch.testing.assert_close(network(clip), expected)
    assert network.state_dict().keys() - image.state_dict().keys() == {
        key for key in network.state_dict() if ".temporal." in key or ".appearance." in key
    }
    assert str(deflate(network)) == before and deflate(network).layer2[1].downsample is None


def test_last_stride_is_refused_where_a_pool_cannot_be_told():
    network = timm.create_model("resnetblur50")
    before = pickle.dumps(network)
    with pytest.raises(ValueError, match=r"last_stride=1: layer4\.0\.\w+ has a stride"):
        inflate(network, last_stride=1)
    assert pickle.dumps(network) == before


def test_dtype_mode_frozen_parameters_and_hooks_survive():
    network = torchvision.models.resnet18().double().train()
    network.layer2[0].conv2.weight.requires_grad_(False)
    network.layer3.eval()
    calls = []
    network.layer2[0].conv2.register_forward_hook(lambda module, inputs, output: calls.append(output.shape))
    inflated = inflate(network, unit=partial(STRF, reduction=4))
    conv = inflated.layer2[0].conv2
    assert {parameter.dtype for parameter in inflated.parameters()} == {torch.float64}
    assert inflated.training and conv.after[0].training and conv.temporal.training
    assert not inflated.layer3.training and not inflated.layer3[0].conv2.after[0].training
    assert not conv.weight.requires_grad and conv.temporal.weight.requires_grad
    inflated(CLIP.double())
    assert calls == [(6, 128, 8, 4)]  # as the image network would have called it


@torch.no_grad()
def test_copies_and_pickles_answer_alike(resnet18):
    network = inflate(resnet18)
    wake(network.layer3[0].conv2.after)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(twin) is type(network) and isinstance(twin, torchvision.models.ResNet)
        assert torch.equal(twin(CLIP), network(CLIP))
        twin.layer1[0].conv1.weight.zero_()
    assert network.layer1[0].conv1.weight.abs().sum() > 0


@pytest.mark.parametrize("temporal", ["c2d", "i3d", "p3d_c", "ap3d_p3d_a"])
@torch.no_grad()
def test_a_checkpoint_of_the_image_network_loads_strictly(resnet18, temporal):
    network = inflate(torchvision.models.resnet18, temporal=temporal).eval()
    outcome = network.load_state_dict(resnet18.state_dict())
    assert not outcome.missing_keys and not outcome.unexpected_keys
    assert relative_error(network(CLIP), frame_by_frame(resnet18, CLIP)) <= 1e-5


def test_a_checkpoint_that_holds_part_of_the_units_does_not(resnet18):
    network = inflate(resnet18)
    state = network.state_dict()
    network.load_state_dict(state)
    del state["layer2.0.conv2.after.0.expand.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*layer2\.0\.conv2\.after\.0\.expand\.weight"):
        network.load_state_dict(state)
    loose = network.load_state_dict(resnet18.state_dict(), strict=False)
    assert loose.missing_keys and all(".after." in key or ".temporal." in key for key in loose.missing_keys)


@torch.no_grad()
def test_maps_are_put_back_into_clips(resnet18):
    maps = nn.Sequential(*list(resnet18.children())[:-2])
    answer = inflate(maps, places=["5.0"], unit=None)(CLIP)
    assert answer.shape == (2, 512, 3, 2, 1)
    for j in range(3):
        torch.testing.assert_close(answer[:, :, j], maps(CLIP[:, :, j]), rtol=1e-5, atol=1e-5)


def test_any_image_network_is_inflated_at_named_places():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    inflated = inflate(network, places=["2"], temporal="i3d", unit="non_local")
    torch.testing.assert_close(inflated(CLIP)[:, :, 1], network(CLIP[:, :, 1]))


def test_a_temporal_convolution_of_ones_own_takes_the_place_and_is_taken_out_again(resnet18):
    class Shift(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = copy.deepcopy(conv)

        def forward(self, x):
            frames = x.roll(1, dims=2).transpose(1, 2)
            return self.conv(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).transpose(1, 2)

    inflated = inflate(resnet18, temporal=Shift, unit=None, places=["layer3.0"])
    assert relative_error(inflated(CLIP), frame_by_frame(resnet18, CLIP)) > 1e-4
    assert torch.equal(deflate(inflated)(CLIP[:, :, 0]), resnet18(CLIP[:, :, 0]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"places": ["layer2.0.conv9"]}, ["no module 'layer2.0.conv9'", "did you mean layer2.0.conv"]),
        ({"places": ["layer2.0.bn1"]}, ["layer2.0.bn1 is a BatchNorm2d"]),
        ({"places": ["layer2.0", "layer2.0.conv2"]}, ["places must differ"]),
        ({"places": [""]}, ["network itself"]),
        ({"temporal": "p3d"}, ["temporal must be one of", "p3d_c", "'p3d'"]),
        ({"temporal": 3}, ["temporal must be one of", "3"]),
        ({"unit": "srtf"}, ["unit must be one of", "strf", "'srtf'"]),
        ({"last_stride": 3}, ["last_stride must be 1, 2 or None, got 3"]),
    ],
)
def test_impossible_wishes_are_refused_and_nothing_is_changed(resnet18, arguments, words):
    before = pickle.dumps(resnet18)
    with pytest.raises((ValueError, TypeError)) as caught:
        inflate(resnet18, **arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert pickle.dumps(resnet18) == before


class Standardised(nn.Conv2d):
    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def with_layer(path, layer):
    network = torchvision.models.resnet18()
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, layer)
    return network


UNSUPPORTED = {
    "scripted": (lambda: with_layer("relu", torch.jit.script(nn.ReLU())), ["relu", "scripted"]),
    "quantised": (lambda: with_layer("fc", torch.ao.nn.quantized.Linear(512, 10)), ["fc", "quantised"]),
    "parallel": (lambda: nn.DataParallel(torchvision.models.resnet18()), ["network", "wraps"]),
    "compiled": (lambda: torch.compile(torchvision.models.resnet18()), ["network", "wraps"]),
    "inflated": (lambda: inflate(torchvision.models.resnet18), ["inflated already"]),
    "three-dimensional": (torchvision.models.video.r3d_18, ["stem.0", "takes clips already"]),
    "no resnet": (torchvision.models.squeezenet1_0, ["no plain ResNet: SqueezeNet has no layer2", "name the places"]),
    "other convolution": (
        lambda: with_layer("layer3.0.conv2", Standardised(256, 256, 3, padding=1)),
        ["layer3.0.conv2", "plain torch.nn.Conv2d", "Standardised"],
    ),
    "no network": (lambda: 3, ["int"]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_networks_that_cannot_be_inflated_are_refused_with_path_and_reason(kind):
    build, words = UNSUPPORTED[kind]
    with pytest.raises((ValueError, TypeError)) as caught:
        inflate(build())
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (torch.zeros(2, 3, 48, 32), ["clip must be a clip", "4 axes"]),
        (torch.zeros(2, 8, 3, 48, 32), ["clip must have 3 channels", "looks like (b, t, c, h, w)"]),
        (torch.zeros(2, 3, 0, 48, 32), ["clip is empty along t"]),
        (torch.zeros(2, 3, 2, 48, 32).double(), ["clip is torch.float64"]),
    ],
)
def test_what_is_no_clip_is_refused_at_the_door(resnet18, clip, words):
    with pytest.raises(ValueError) as caught:
        inflate(resnet18)(clip)
    assert all(word in str(caught.value) for word in words), caught.value


@torch.no_grad()
def test_a_clip_is_not_touched_by_its_neighbours_in_the_batch(resnet18):
    network = inflate(resnet18)
    wake(network.layer2[0].conv2.after)
    alone = network(CLIP[:1])
    poisoned = CLIP.clone()
    poisoned[1, :, 0] = float("nan")
    torch.testing.assert_close(network(poisoned)[:1], alone, rtol=1e-5, atol=1e-5)
    assert network(poisoned)[1].isnan().all()
