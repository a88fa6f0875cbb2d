import copy
import pickle
from functools import partial

import pytest
import torch
import torchvision
from strategies import wake
from torch import nn

import strfnet
from strfnet.inflation.splicing import splice, unsplice
from strfnet.layers.clip import flatten_time, unflatten_time

CLIP = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))


class Brighter(nn.Module):
    """Adds the number of the frame, so that what it did is easily read off."""

    def __init__(self, by=1.0):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, clip):
        return clip + self.by * torch.arange(clip.shape[2]).view(-1, 1, 1)


class Frames(nn.Module):
    """A network on clips that is no inflated one: a 3-D convolution, then a mean."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(3, 4, (3, 1, 1), padding=(1, 0, 0))
        self.stage = nn.Sequential(nn.BatchNorm3d(4), nn.ReLU())

    def forward(self, clip):
        return self.stage(self.conv(clip)).mean(dim=(2, 3, 4))


@pytest.fixture(scope="module")
def inflated():
    torch.manual_seed(0)
    return strfnet.inflate(torchvision.models.resnet18, unit=None).eval()


@torch.no_grad()
def test_new_units_change_nothing_and_keys_stay(inflated):
    spliced = splice(inflated, {"layer1.0": strfnet.NonLocalBlock, "layer2.1": strfnet.STRF, "bn1": strfnet.STRF})
    assert torch.equal(spliced(CLIP), inflated(CLIP))
    assert set(inflated.state_dict()) < set(spliced.state_dict())
    assert "layer1.0.after.0.query.weight" in spliced.state_dict()
    assert spliced.layer1[0].after[0].channels == 64 and spliced.layer2[1].after[0].channels == 128


@torch.no_grad()
def test_a_unit_sees_the_clips_that_its_place_makes():
    network = splice(Frames(), {"conv": Brighter()}).eval()
    plain = copy.deepcopy(unsplice(network))
    conv = plain.conv(CLIP)
    assert torch.equal(network(CLIP), plain.stage(Brighter()(conv)).mean(dim=(2, 3, 4)))


@torch.no_grad()
def test_units_at_one_place_follow_each_other(inflated):
    network = splice(splice(inflated, {"layer1.1": Brighter(1.0)}), {"layer1.1": strfnet.TemporalReduction()})
    seen = []
    network.layer2.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    plain = []
    inflated.layer2.register_forward_pre_hook(lambda module, inputs: plain.append(inputs[0].clone()))
    network(CLIP)
    inflated(CLIP)
    expected = strfnet.TemporalReduction()(Brighter()(unflatten_time(plain[0], 4)))
    assert torch.equal(seen[0], flatten_time(expected))
    inflated.layer2._forward_pre_hooks.clear()


@pytest.mark.parametrize("strided", [True, False])
@torch.no_grad()
def test_units_follow_blocks_that_get_fewer_frames(strided):
    """Of any number of frames left by a stride in time, or by another unit, also right behind it."""
    places, temporal = (["layer2.0"], partial(strfnet.I3D, time_stride=3)) if strided else ([], None)
    network = strfnet.inflate(torchvision.models.resnet18, unit=None, places=places, temporal=temporal).eval()
    network = network if strided else splice(network, {"layer2.0": strfnet.TemporalReduction(3)})
    spliced = splice(network, {"layer2.0": strfnet.NonLocalBlock, "layer2.1": strfnet.STRF})
    assert [spliced.layer2[block].after[-1].channels for block in range(2)] == [128, 128]
    assert torch.equal(spliced(CLIP), network(CLIP))
    frames = []
    spliced.layer2[1].after[0].register_forward_pre_hook(lambda unit, inputs: frames.append(inputs[0].shape[2]))
    spliced(CLIP)
    assert frames == [2]


@torch.no_grad()
def test_a_sequential_stands_for_its_last_module(inflated):
    network = splice(inflated, {"layer2": Brighter()})
    assert isinstance(network.layer2[1].after[0], Brighter) and len(network.layer2) == 2


@torch.no_grad()
def test_a_unit_in_the_place_of_a_module_and_the_module_back():
    network = Frames().eval()
    instead = splice(network, {"stage": Brighter()}, instead=True)
    torch.testing.assert_close(instead(CLIP), Brighter()(network.conv(CLIP)).mean(dim=(2, 3, 4)))
    assert "stage.unit.by" in instead.state_dict() and "stage.0.weight" not in instead.state_dict()
    whole = unsplice(instead)
    assert torch.equal(whole(CLIP), network(CLIP))
    assert list(whole.state_dict()) == list(network.state_dict())


@torch.no_grad()
def test_units_in_place_of_blocks_run_inside_an_inflated_network_and_are_taken_out(inflated):
    network = splice(inflated, {"layer1.1": Brighter()}, instead=True)
    assert network(CLIP).shape == (2, 1000)
    assert (network(CLIP) - inflated(CLIP)).abs().max() > 1e-3
    assert torch.equal(unsplice(network)(CLIP), inflated(CLIP))


def test_the_given_network_and_unit_are_not_modified():
    network, unit = Frames(), Brighter()
    before = pickle.dumps((network, unit))
    spliced = splice(network, {"conv": unit})
    nn.init.zeros_(spliced.conv.after[0].by)
    assert pickle.dumps((network, unit)) == before


def test_one_module_at_two_places_becomes_two():
    spliced = splice(Frames(), dict.fromkeys(("conv", "stage"), Brighter()))
    assert spliced.conv.after[0] is not spliced.stage[1].after[0]


def test_units_take_dtype_and_mode_of_their_place():
    network = Frames().double().eval()
    unit = splice(network, {"conv": strfnet.NonLocalBlock}).conv.after[0]
    assert unit.query.weight.dtype == torch.float64 and not unit.training


@torch.no_grad()
def test_spliced_networks_are_copied_and_pickled(inflated):
    network = splice(inflated, {"layer1.0": strfnet.STRF(64, reduction=8)})
    wake(network.layer1[0].after)
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(twin(CLIP), network(CLIP))
        assert isinstance(twin.layer1[0], torchvision.models.resnet.BasicBlock)


@pytest.mark.parametrize(
    ("units", "words"),
    [
        ({"layer9": Brighter()}, ["no module 'layer9'", "did you mean layer"]),
        ({"": Brighter()}, ["network itself"]),
        ({"fc": strfnet.STRF}, ["fc returns a tensor (6, 1000)", "wanted maps or tokens"]),
        ({"conv1": lambda channels: channels}, ["unit for conv1", "int"]),
    ],
)
def test_impossible_splices_are_refused(inflated, units, words):
    with pytest.raises((ValueError, TypeError)) as caught:
        splice(inflated, units)
    assert all(word in str(caught.value) for word in words), caught.value


def test_containers_that_are_never_called_are_refused():
    network = nn.ModuleDict({"blocks": nn.ModuleList([nn.ReLU()]), "empty": nn.Sequential()})
    for path in network:
        with pytest.raises(ValueError, match=f"{path} is a .*name a module in it"):
            splice(network, {path: Brighter()})


def test_a_place_with_a_child_of_that_name_is_refused():
    network = nn.Sequential(nn.Module())
    network[0].after = nn.ReLU()
    with pytest.raises(ValueError, match="already has a child named 'after'"):
        splice(network, {"0": Brighter()})


def test_an_image_network_with_a_unit_says_that_it_must_be_inflated():
    network = splice(nn.Sequential(nn.Conv2d(3, 4, 1)), {"0": strfnet.STRF})
    with pytest.raises(ValueError, match="only while the inflated network"):
        network(torch.zeros(2, 3, 8, 8))


class Chain(nn.ModuleList):
    def forward(self, x):
        for module in self:
            x = module(x)
        return x


def test_a_list_with_a_forward_goes_through_its_own_modules_and_then_the_unit():
    chain = Chain([nn.ReLU(), nn.Sigmoid()])
    clip, unit = torch.randn(2, 3, 4, 4, 4), Brighter()
    expected = unit(chain(clip))
    network = splice(nn.Sequential(chain), {"0": unit})
    assert [*map(type, network[0])] == [nn.ReLU, nn.Sigmoid] and len(network[0]) == 2
    assert torch.equal(network(clip), expected)
