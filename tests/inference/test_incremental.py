"""Incremental inference with temporal layers at any module path, and the paths where it is refused."""

import copy
from collections import OrderedDict
from functools import partial

import pytest
import timm
import torch
from strategies import normal, wake
from torch import nn

import strfnet
from strfnet.inference.stream import Stream
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import resnet_maps

CLIP = normal(2, 3, 8, 24, 16)


def network(units=None, *, temporal="p3d_c", image=None, **options):
    """A network of two basic blocks and one between them, with units at places; awake, in double precision."""
    maps = resnet_maps("resnet8").double() if image is None else image
    backbone = strfnet.inflate(maps, temporal=temporal, unit=None, **options)
    return whole(backbone if units is None else strfnet.splice(backbone, units))


def whole(backbone, channels=64):
    return wake(ReIDNetwork(backbone, Head(channels, None)).double()).eval()


def check_exact(net):
    stream, start = Stream(net), 0
    for end in (1, 2, 3, 6, 8):
        stream.push(CLIP[:, :, start:end])
        with torch.no_grad():
            expected = net(CLIP[:, :, :end]).embedding
        torch.testing.assert_close(stream.embedding(), expected, rtol=1e-9, atol=1e-9)
        start = end


def strf(channels):
    return strfnet.STRF(channels, reduction=4, mask="joint")


def window(channels):
    return strfnet.NonLocalBlock(channels, window=3)


@pytest.mark.parametrize(
    "units",
    [
        {"layer2.0.conv1": strf},
        {"layer2.0.bn1": strf, "layer2.0.conv2": window, "layer3.0.bn2": strf},
        {"layer2.0.conv2": window},  # behind the P3D-C convolution
        {"conv1": strf, "relu": strfnet.NonLocalBlock(16, window=2), "layer1": window},
        {"layer1.0": strfnet.TemporalReduction(3), "layer2.0": strf, "layer3.0": strfnet.TemporalReduction()},
        {
            "layer2.0.downsample.0": lambda c: strfnet.STRF(c, units=["fine"], mask=None),
            "layer1.0.relu": nn.Identity(),
        },
        {"layer3.0.conv1": strf, "layer3.0.conv2": strfnet.TemporalReduction(1)},
    ],
    ids=" ".join,
)
def test_units_after_convolutions_norms_blocks_and_stages(units):
    if "layer1.0.relu" in units:
        units["layer1.0.relu"] = strfnet.C2D(nn.Conv2d(16, 16, 1))
    check_exact(network(units))


def test_units_that_replace_a_module():
    backbone = strfnet.inflate(resnet_maps("resnet8").double(), temporal="i3d", unit=None)
    instead = {
        "layer2.0.conv1": strfnet.P3DB(nn.Conv2d(16, 32, 3, padding=1)),
        "layer3.0.bn1": strf,
        "layer1": strfnet.C2D(nn.Conv2d(16, 16, 3, padding=1)),
    }
    check_exact(whole(strfnet.splice(backbone, instead, instead=True)))


def test_strided_convolutions_over_time_and_other_forms():
    places = ["conv1", "layer1.0.conv1", "layer2.0.conv2", "layer3.0.conv1", "layer3.0.conv2"]
    for temporal in ("i3d", "p3d_a", "p3d_b", "p3d_c", "ap3d_p3d_a", "ap3d_p3d_b", "ap3d_i3d"):
        check_exact(network(temporal=temporal, places=places))


@pytest.mark.parametrize("kind", [strfnet.I3D, strfnet.P3DB, strfnet.P3DC, strfnet.AP3DA])
def test_kernels_of_other_lengths_and_dilations_in_time(kind):
    check_exact(network(temporal=partial(kind, time_kernel=5, time_dilation=2), places=["conv1", "layer3.0"]))
    with pytest.raises(ValueError, match=r"layer2\.0\.conv2 \(\w+\) returns fewer frames .*\(time_stride=2\)"):
        Stream(network(temporal=partial(kind, time_stride=2)))


def test_timm_blocks_with_squeeze_excitation():
    image = timm.create_model("seresnet18")
    parts = OrderedDict((name, part) for name, part in image.named_children() if name not in ("global_pool", "fc"))
    backbone = strfnet.inflate(nn.Sequential(parts).double(), temporal="p3d_c", unit=strf)
    check_exact(whole(backbone, 512))


def test_a_network_in_contiguous_memory_order():
    net = copy.deepcopy(network({"layer3": strf}))
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()
    check_exact(net)


class Own(nn.Module):
    def forward(self, x):
        return x.flip(2)


class Branching(nn.Module):
    """Its parts stand in a row, but that is not how they are run."""

    def __init__(self, stage):
        super().__init__()
        self.first, self.second = stage, copy.deepcopy(stage)

    def forward(self, x):
        return self.first(x) + self.second(x)


def refused(net, message):
    with pytest.raises(ValueError, match=message + r".* so frames cannot be embedded one by one exactly; "):
        Stream(net)
    stream = Stream(net, frames=3)
    stream.push(CLIP)
    with torch.no_grad():
        torch.testing.assert_close(stream.embedding(), net(CLIP[:, :, [0, 3, 6]]).embedding)


def test_an_unknown_unit_is_refused_by_its_path():
    refused(network({"layer2.0.bn1": Own()}), r"^backbone.layer2.0.bn1.after.0 \(Own\) is not a layer of strfnet")
    spliced = strfnet.splice(network().backbone, {"layer3": Own()}, instead=True)
    net = ReIDNetwork(spliced, Head(32, None).double()).eval()
    refused(net, r"^backbone.layer3.unit \(Own\) is not a layer of strfnet")
    stacked = {"layer1": strf, "layer1.0": strfnet.NonLocalBlock}
    refused(network(stacked), r"^backbone.layer1.0.after.1 \(NonLocalBlock\) attends over all frames")


def test_blocks_with_an_unknown_order_of_layers_are_refused():
    refused(
        network({"layer2.0.relu": strfnet.NonLocalBlock(32, window=2)}),
        r"^backbone.layer2.0.relu \(ReLU\) stands where a layer over time",
    )
    refused(network({"layer2.0.downsample": strf}), r"^backbone.layer2.0.downsample \(Sequential\) stands where")
    image = resnet_maps("resnet8").double()
    image.layer2 = Branching(image.layer2)
    places = ["layer2.first.0", "layer2.second.0"]
    refused(
        network(image=image, places=places), r"^backbone.layer2 \(Branching\) is no residual block of torchvision"
    )


def test_a_layer_at_two_paths_is_refused():
    image = resnet_maps("resnet8").double()
    image.layer1 = nn.Sequential(OrderedDict(one=image.layer1, two=nn.Identity(), three=nn.Identity()))
    spliced = strfnet.splice(strfnet.inflate(image, temporal="c2d", unit=None), {"layer1.two": window(16)})
    spliced.layer1.three = spliced.layer1.two
    refused(whole(spliced), r"^backbone.layer1.three \(FollowedIdentity|Identity\) stands at several places")


def test_statistics_over_all_frames_are_refused():
    image = resnet_maps("resnet8").double()
    image.layer3[0].bn1 = nn.BatchNorm2d(64, track_running_stats=False)
    refused(network(image=image), r"^backbone.layer3.0.bn1 \(BatchNorm2d\) takes its statistics from all frames")


def test_other_heads_and_backbones_are_refused():
    class OwnHead(Head):
        pass

    backbone = network().backbone
    refused(ReIDNetwork(backbone, OwnHead(64, None).double()).eval(), r"^head \(OwnHead\) pools")
    plain = nn.Sequential(nn.Conv3d(3, 8, 1)).double()
    with pytest.raises(ValueError, match=r"^backbone \(Sequential\) was not made by strfnet.inflate"):
        Stream(ReIDNetwork(plain, Head(8, None).double()))
