"""Settings of the published code other than its default: built, read off files, remembered by files, and refused."""

import re

import pytest
import torch
from strategies import normal, wake
from sweeps import sweep

import strfnet
from strfnet import NonLocalBlock
from strfnet.deployment import fuse
from strfnet.inflation.extension import own_class
from strfnet.layers.temporal import TemporalConv
from strfnet.models import find_network, load, load_official, options_of, save, save_official
from strfnet.weights.published import STE_NVAN, published_state

EVERY = ["layer2.0", "layer2.1", "layer3.0", "layer3.1"]


def where(network, kind):
    return [path for path, module in network.backbone.named_modules() if isinstance(module, kind)]


# What a file tells, and what it does not, on ResNets that have several blocks in a stage.
TOLD = [
    ("p3da_resnet18", {"places": EVERY}, {}),
    ("p3dc_nl_resnet18", {"places": ["layer1.0", "layer4.1"], "non_local": ["layer1.1", "layer2.0", "layer4.0"]}, {}),
    ("i3d_resnet18", {"time_kernel": 5}, {}),
    ("i3d_nl_resnet18", {"non_local": ["layer4.1"], "time_kernel": 7}, {"last_stride": 2}),
    ("p3db_resnet18", {"time_kernel": 1}, {"time_stride": 2}),
    ("ap3d_resnet18", {"host": "i3d", "time_kernel": 5}, {"temperature": 1.5}),
    ("ap3d_nl_resnet18", {"gate": False, "places": EVERY}, {"host": "p3d_a", "time_dilation": 2}),
    ("c2d_nl_resnet18", {"non_local": ["layer1.0", "layer4.1"]}, {"last_stride": 2, "pooling": "mean"}),
    ("resnet18_fpl", {}, {"last_stride": 2, "pooling": "max"}),
    ("nvan_resnet18", {"non_local": ["layer1.1", "layer4.0", "layer4.1"]}, {"window": 3}),
    ("nvan_temporal_resnet18", {"non_local": ["layer1.1", "layer3.1"]}, {"last_stride": 2}),
    ("nvan_spatial_resnet18", {}, {"stripes": 8}),
    ("p3dc_nl_resnet18", {"time_kernel": 5}, {"time_stride": 2}),
    ("ap3d_nl_resnet18", {}, {"time_stride": 2, "host": "p3d_b"}),
    ("ste_nvan_resnet18", {"non_local": ["layer1.1", "layer4.1"]}, {"stripes": [16, 8, 8, 4]}),
]


@pytest.mark.parametrize(
    ("name", "told", "given"), sweep(TOLD, quick=2), ids=[f"{name}-{told}" for name, told, _ in TOLD]
)
def test_files_give_the_same_network_back(name, told, given, tmp_path):
    network = wake(strfnet.create_model(name, num_classes=4, **told, **given)).eval()
    assert network.options == {**told, **given}
    save_official(network, tmp_path / "theirs.pth")
    save(network, tmp_path / "ours.safetensors")
    clip = normal(1, 3, 4, 256, 16, dtype=torch.float32)
    with torch.no_grad():
        expected = network(clip).embedding
        for found in (
            load_official(tmp_path / "theirs.pth", name, **given),
            load(tmp_path / "ours.safetensors"),
            strfnet.create_model(name, num_classes=4, pretrained=tmp_path / "theirs.pth", **told, **given),
        ):
            assert found.options == network.options and str(found) == str(network)
            assert torch.equal(found.eval()(clip).embedding, expected)
    if given:
        unlike = load_official(tmp_path / "theirs.pth", name).eval()
        assert unlike.options == told
        with torch.no_grad():
            assert not torch.equal(unlike(clip).embedding, expected)


def test_weights_saved_with_other_options_are_refused_by_name(tmp_path):
    file = tmp_path / "saved.safetensors"
    places = {"places": ("layer2.0", "layer3.0")}
    save(strfnet.create_model("p3dc_resnet8", num_classes=3, **places, time_dilation=2), file)
    same = strfnet.create_model("p3dc_resnet8", num_classes=3, pretrained=file, **places, time_dilation=2)
    assert same.options == {"places": ["layer2.0", "layer3.0"], "time_dilation": 2}
    # Two ways to say the same places.
    assert strfnet.create_model("p3dc_resnet8", num_classes=3, pretrained=file, time_dilation=2).options
    with pytest.raises(ValueError, match=r"time_dilation is 1, but 2 in the file.* wanted those of the file"):
        strfnet.create_model("p3dc_resnet8", num_classes=3, pretrained=file, **places)
    for options in ({"time_dilation": 1}, {"time_dilation": 2, "pooling": "max"}):
        with pytest.raises(ValueError, match=rf"{list(options)[-1]} is .* in the file"):
            find_network("p3dc_resnet8", weights=file, options=options)
    assert find_network("p3dc_resnet8", weights=file).network.options == same.options
    strfnet.create_model("p3db_resnet8", num_classes=3, pretrained=file)  # another model is not compared


@pytest.mark.slow
def test_without_a_name_the_file_tells_places_too(tmp_path):
    for name, options in (
        ("i3d_nl_resnet18", {"non_local": ["layer4.1"], "time_kernel": 5}),
        ("nvan_resnet18", {"non_local": ["layer1.1", "layer3.1"]}),  # sub-sampled in stage 1, as no other form
        ("ap3d_resnet18", {"host": "i3d"}),
    ):
        save_official(strfnet.create_model(name, num_classes=3, **options), tmp_path / "file.pth")
        found = load_official(tmp_path / "file.pth")
        assert (found.name, found.options) == (name, options)
    save_official(strfnet.create_model("p3dc_resnet18", num_classes=3, places=EVERY), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="may be p3da_resnet18, p3db_resnet18, p3dc_resnet18: say which"):
        load_official(tmp_path / "file.pth")
    save_official(strfnet.create_model("ste_nvan_resnet18", num_classes=3), tmp_path / "file.pth")
    with pytest.raises(ValueError, match="may be nvan_spatial_resnet18, ste_nvan_resnet18: say which"):
        load_official(tmp_path / "file.pth", stripes=8)
    with pytest.raises(ValueError, match=r"strips are not options of resnet18_fpl, nvan_resnet18, .*; say which"):
        load_official(tmp_path / "file.pth", strips=8)


def test_options_reach_their_layers():
    network = strfnet.create_model("nvan_resnet18", non_local=["layer1.1", "layer3.0"], window=3, last_stride=2)
    blocks = [module for module in network.modules() if isinstance(module, NonLocalBlock)]
    assert [(block.subsample, block.window) for block in blocks] == [(True, 3), (False, 3)]
    assert network.backbone.layer4[0].conv1.stride == (2, 2)
    network = strfnet.create_model("nvan_temporal_resnet18", non_local=["layer1.1", "layer3.0"])
    blocks = [module for module in network.modules() if isinstance(module, NonLocalBlock)]
    assert [(block.subsample, block.window) for block in blocks] == [(False, 2), (False, None)]
    network = strfnet.create_model("ste_nvan_resnet18", non_local=["layer1.1", "layer3.0"], stripes=(16, 8, 4, 2))
    blocks = [module for module in network.modules() if isinstance(module, NonLocalBlock)]
    assert [(block.stripes, block.window) for block in blocks] == [(16, 2), (4, 2)]
    network = strfnet.create_model("strf_p3dc_resnet8", places=["layer3.0"], time_kernel=5, pooling="mean")
    assert where(network, TemporalConv) == ["layer3.0.conv2"] and where(network, strfnet.STRF) == [
        "layer3.0.conv2.after.0"
    ]
    assert network.backbone.layer3[0].conv2.temporal.kernel_size == (5, 1) and network.head.pooling == "mean"
    network = strfnet.create_model("ap3d_resnet8", host="p3d_b", temperature=2.0, gate=False, time_dilation=2)
    conv = network.backbone.layer2[0].conv2
    assert own_class(conv) is strfnet.AP3DB and conv.appearance.gate is None
    assert (conv.appearance.temperature, conv.appearance.time_dilation) == (2.0, 2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ste_nvan_resnet8", {"strips": 8}, "option of ste_nvan_resnet8 'strips', the nearest is 'stripes'"),
        ("nvan_resnet8", {"stripes": 8}, "there is no option of nvan_resnet8 'stripes'"),
        ("c2d_resnet8", {"time_kernel": 5}, "there is no option of c2d_resnet8 'time_kernel'"),
        ("p3dc_resnet8", {"num_class": 5}, "'num_class', the nearest is 'num_classes'"),
        ("p3dc_resnet8", {"places": ["layer2.1"]}, "block for places, 'layer2.1', the nearest is 'layer2.0'"),
        ("p3dc_resnet8", {"places": "layer5"}, "no residual block for places, 'layer5', the nearest is"),
        ("nvan_resnet8", {"non_local": ["layer2.0", "layer2.0"]}, "non_local must name different blocks"),
        ("p3dc_resnet8", {"time_kernel": 4}, "time_kernel must be odd"),
        ("ste_nvan_resnet8", {"stripes": (8, 8)}, r"stripes must be one number, or 3, one for each stage, got"),
        ("ste_nvan_resnet8", {"stripes": 0}, "stripes must be at least 1"),
        ("p3dc_resnet8", {"last_stride": 2}, "last_stride is 2, but a resnet8 has no fourth stage; wanted 1"),
        ("p3dc_resnet18", {"last_stride": 3}, "last_stride must be 1, 2 or None, got 3"),
        ("p3dc_resnet8", {"pooling": "median"}, "pooling must be one of"),
        ("ap3d_resnet8", {"host": "c2d"}, "host must be one of i3d, p3d_a, p3d_b, p3d_c, got 'c2d'"),
    ],
)  # fmt: skip
def test_options_that_a_network_does_not_take_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        strfnet.create_model(name, **options)


def test_defaults_are_not_options_and_places_are_in_the_order_of_the_network():
    assert strfnet.create_model("p3dc_resnet8", time_kernel=3, non_local=(), places=None).options == {}
    network = strfnet.create_model("nvan_resnet18", non_local=("layer3.1", "layer1.0"))
    assert where(network, NonLocalBlock) == ["layer1.0.after.0", "layer3.1.after.0"]
    with pytest.raises(
        ValueError, match=r"non-local blocks in layer1 that do not follow its last blocks, which the co"
    ):
        published_state(network, STE_NVAN)
    for name in strfnet.list_models():
        assert {"last_stride", "pooling"} <= options_of(name).keys()


def test_a_network_that_its_options_do_not_build_is_refused(tmp_path):
    network = strfnet.create_model("ste_nvan_resnet8", stripes=4)
    network.options = {"stripes": 2}
    message = "create_model('ste_nvan_resnet8', stripes=2) builds: backbone.layer2.0.after.0.stripes is 4, not 2"
    with pytest.raises(ValueError, match=re.escape(message)):
        save(network, tmp_path / "file.safetensors")


def test_fused_and_streamed_networks_follow_options():
    network = wake(strfnet.create_model("p3dc_resnet8", num_classes=None, time_kernel=5, places=["layer3.0"])).eval()
    clip = normal(1, 3, 6, 32, 16, dtype=torch.float32)
    with torch.no_grad():
        expected = network(clip).embedding
    torch.testing.assert_close(fuse(network, tuple(clip.shape))(clip).embedding, expected, rtol=1e-4, atol=1e-4)
    stream = strfnet.Stream(network)
    stream.push(clip[:, :, :3])
    stream.push(clip[:, :, 3:])
    torch.testing.assert_close(stream.embedding(), expected, rtol=1e-4, atol=1e-4)
    longer, usual = (
        strfnet.profile(strfnet.create_model("p3dc_resnet8", time_kernel=k), (1, 3, 4, 64, 32)).macs for k in (5, 3)
    )
    assert longer - usual == 2 * 4 * 16 * 8 * 32 * 32 + 2 * 4 * 8 * 4 * 64 * 64
