"""Any 2-D network on clips: its inputs, what it returns, its stem, and where it fails."""

from typing import NamedTuple

import pytest
import timm
import torch
import torchvision
from strategies import wake
from sweeps import sweep
from torch import nn

import strfnet
from strfnet.inflation.splicing import Followed, unsplice

CLIP = torch.randn(2, 3, 3, 64, 32, generator=torch.Generator().manual_seed(0))
FRAMES = CLIP.transpose(1, 2).flatten(0, 1)


class Pair(NamedTuple):
    logits: torch.Tensor
    maps: torch.Tensor


class Cameras(nn.Module):
    """Returns several tensors; takes the frames by another name, camera labels, and a flag."""

    def __init__(self, form=lambda maps, vectors: maps):
        super().__init__()
        self.conv, self.block, self.form = (
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU()),
            form,
        )
        self.cameras = nn.Embedding(4, 8)

    def forward(self, pixel_values, cameras=None, *, double=False):
        maps = self.block(self.conv(pixel_values)) * (2 if double else 1)
        if cameras is not None:
            maps = maps + self.cameras(cameras)[:, :, None, None]
        return self.form(maps, maps.mean((2, 3)))


def in_clips(maps):
    return maps.unflatten(0, (2, 3)).transpose(1, 2)


@torch.no_grad()
def test_keywords_and_further_inputs_pass_through():
    network, labels = Cameras().eval(), torch.tensor([1, 3])
    inflated = strfnet.inflate(network, places=["conv"], unit="temporal_attention", temporal="c2d")
    plain = in_clips(network(FRAMES))
    for answer in (inflated(CLIP), inflated(pixel_values=CLIP), inflated(clip=CLIP)):
        assert torch.equal(answer, plain)
    seen = in_clips(network(FRAMES, labels.repeat_interleave(3), double=True))
    assert torch.equal(inflated(CLIP, labels, double=True), seen)
    assert torch.equal(inflated(pixel_values=CLIP, cameras=labels, double=True), seen)
    assert torch.equal(inflated(CLIP, labels.repeat_interleave(3), double=True), seen)  # one for each frame
    with pytest.raises(TypeError, match="clip must be a tensor"):
        inflated(cameras=labels)


def test_inputs_that_cannot_be_guessed_are_given_as_an_example():
    class Needy(Cameras):
        def forward(self, frames, cameras):
            return super().forward(frames, cameras)

    labels = torch.tensor([0, 2])
    inflated = strfnet.inflate(Needy(), places=[], unit=None)
    with pytest.raises(ValueError, match=r"cannot be run on the meta device.*cameras.*example="):
        strfnet.splice(inflated, {"block.1": strfnet.STRF})
    for example in ((CLIP, labels), {"frames": CLIP, "cameras": labels}):
        spliced = strfnet.splice(inflated, {"block.1": strfnet.STRF}, example=example)
        assert torch.equal(spliced(CLIP, labels), inflated(CLIP, labels))
    with pytest.raises(ValueError, match="example must hold a clip"):
        strfnet.splice(inflated, {"block.1": strfnet.STRF}, example=labels)


SEVERAL = {
    "tuple": (lambda maps, vectors: (vectors, maps), 1, r"a tuple of \[0\] \(6, 8\), \[1\] \(6, 8, 128, 64\)"),
    "list": (lambda maps, vectors: [maps, vectors], 0, r"a list of \[0\] \(6, 8, 128, 64\)"),
    "dict": (lambda maps, vectors: {"out": maps}, "out", r"a dict of 'out': \(6, 8, 128, 64\)"),
    "record": (lambda maps, vectors: Pair(vectors, maps), "maps", r"a Pair of 'logits': \(6, 8\), 'maps'"),
    "function": (lambda maps, vectors: ((maps,), 0), lambda returned: returned[0][0], r"a tuple of \[0\] tuple"),
}


@pytest.mark.parametrize("form", SEVERAL)
def test_one_of_several_outputs_is_selected_and_without_a_selector_they_are_named(form):
    make, output, words = SEVERAL[form]
    network = Cameras(make)
    with pytest.raises(ValueError, match=f"the network returns {words}.*output="):
        strfnet.inflate(network, places=[], unit=None)
    answer = strfnet.inflate(network, places=[], unit=None, output=output)(CLIP)
    assert torch.equal(answer, in_clips(network.block(network.conv(FRAMES))))
    wrong = 7 if form in ("tuple", "list") else "none"
    if form != "function":
        with pytest.raises(ValueError, match=f"output is {wrong!r}, which is not in "):
            strfnet.inflate(network, places=[], unit=None, output=wrong)


def test_a_function_is_called_with_a_single_tensor_too():
    network = Cameras(lambda maps, vectors: vectors)
    inflated = strfnet.inflate(network, places=[], unit=None, output=lambda vectors: vectors[:, :, None, None])
    assert torch.equal(inflated(CLIP), in_clips(network(FRAMES)[:, :, None, None]))


def test_networks_that_return_more_in_training_are_selected_from_there_alone():
    class Torchreid(Cameras):
        def forward(self, x):
            maps = super().forward(x)
            return (maps.sum((2, 3)), maps.mean((2, 3))) if self.training else maps.mean((2, 3))

    with pytest.raises(ValueError, match=r"returns a tuple of \[0\] \(6, 8\), \[1\] \(6, 8\)"):
        strfnet.inflate(Torchreid(), places=[], unit=None)
    inflated = strfnet.inflate(Torchreid(), places=[], unit=None, output=1)
    torch.testing.assert_close(inflated.train()(CLIP), inflated.eval()(CLIP))
    unknown = strfnet.inflate(Torchreid().eval(), places=[], unit=None).train()
    with pytest.raises(ValueError, match=r"got a tuple of \[0\] \(6, 8\), \[1\] \(6, 8\); select one"):
        unknown(CLIP)


BUILDERS = {
    "GoogLeNet": (lambda: torchvision.models.googlenet(init_weights=False), "inception4a", 512),
    "SqueezeNet": (torchvision.models.squeezenet1_1, "features.7", 256),
    "ShuffleNet": (torchvision.models.shufflenet_v2_x0_5, "stage3.1", 96),
    "DenseNet, a block": (torchvision.models.densenet121, "features.denseblock2", 512),
    "DenseNet, a layer": (torchvision.models.densenet121, "features.denseblock2.denselayer3", 32),
    "GhostNet": (lambda: timm.create_model("ghostnet_100"), "blocks.4.0", 40),
    "VoVNet": (lambda: timm.create_model("ese_vovnet19b_slim"), "stages.1.blocks.0", 256),
    "TResNet": (lambda: timm.create_model("tresnet_m"), "body.layer2.0", 128),
}


@pytest.mark.parametrize("name", sweep(BUILDERS, quick=3))
@torch.no_grad()
def test_a_builder_gets_the_width_that_a_run_finds_and_the_network_stays_the_same(name):
    build, path, channels = BUILDERS[name]
    torch.manual_seed(0)
    network = build().eval()
    inflated = strfnet.inflate(network, places=[], unit=None)
    spliced = strfnet.splice(inflated, {path: strfnet.TemporalAttention})
    unit = spliced.get_submodule(path).after[0]
    assert unit.channels == channels and torch.equal(spliced(CLIP), inflated(CLIP))
    calls = []
    spliced.get_submodule(path).after.register_forward_hook(lambda *_: calls.append(0))
    spliced(CLIP)
    assert calls == [0]  # a block that goes through its children does not take the unit for one of them
    assert [type(m) for m in strfnet.deflate(spliced).modules()] == [type(m) for m in network.modules()]
    with pytest.raises((ValueError, RuntimeError), match="channels"):
        spliced(torch.zeros(1, 4, 2, 64, 64))


def test_containers_with_a_forward_hide_the_units_from_it_alone():
    network = strfnet.splice(
        strfnet.inflate(torchvision.models.densenet121, places=[], unit=None), {"features.denseblock1": strfnet.STRF}
    )
    block = network.features.denseblock1
    names = [f"denselayer{number}" for number in range(1, 7)]
    assert isinstance(block, Followed) and "after" in dict(block.named_children()) and len(block) == 6
    assert list(block) == list(block.keys()) == names and [name for name, _ in block.items()] == names
    assert list(block.values()) == [block.get_submodule(name) for name in names]
    assert list(unsplice(network).features.denseblock1) == names


def test_a_module_that_is_not_called_is_refused():
    network = torchvision.models.googlenet(init_weights=False).eval()
    inflated = strfnet.inflate(network, places=[], unit=None)
    with pytest.raises(ValueError, match="aux1 is not called when the network runs"):
        strfnet.splice(inflated, {"aux1": strfnet.STRF})


def test_an_error_deep_inside_names_the_path_of_its_module():
    network = wake(strfnet.inflate(torchvision.models.resnet18, unit=None, places=[]))
    network = strfnet.splice(network, {"layer3.1": strfnet.NonLocalBlock(256, stripes=40)})
    with pytest.raises(ValueError, match=r"^layer3\.1\.after\.0 \(NonLocalBlock\): 40 stripes need as many rows"):
        network(CLIP)

    def interrupt(*_):
        raise KeyboardInterrupt

    network.layer3[1].after[0].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        network(CLIP)


def test_a_place_that_is_no_convolution_takes_a_unit_alone():
    network = torchvision.models.mobilenet_v2().eval()
    inflated = strfnet.inflate(network, places=["features.5", "features.1.conv.0.0"], unit="strf")
    assert isinstance(inflated.features[5], Followed)
    assert isinstance(inflated.features[1].conv[0][0], strfnet.P3DC)
    for options in ({"temporal": "i3d"}, {"unit": None}):
        with pytest.raises(ValueError, match=r"features\.5 is a InvertedResidual; a place must be a 2-D convolution"):
            strfnet.inflate(network, places=["features.5"], **options)
