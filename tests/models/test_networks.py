import pytest
import torch
from strategies import wake
from sweeps import sweep
from torch import nn

import strfnet
from strfnet.layers.head import ReIDOutput
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.reduction import TemporalReduction
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import TemporalConv
from strfnet.models.registry import ARCHITECTURES

DEPTHS = ("resnet8", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
CLIP = torch.randn(2, 3, 5, 256, 16, generator=torch.Generator().manual_seed(0))
SMALL_CLIP = torch.randn(2, 3, 5, 64, 32, generator=torch.Generator().manual_seed(0))
NAMES = [form.format("resnet8") for form in ARCHITECTURES]
NAMES += [pytest.param(form.format("resnet18"), marks=pytest.mark.slow) for form in ARCHITECTURES]


def build(name, **arguments):
    torch.manual_seed(0)
    return strfnet.create_model(name, **arguments)


def on_meta(name):
    with torch.device("meta"):
        return strfnet.create_model(name)


def where(network, kind):
    return [path for path, module in network.backbone.named_modules() if isinstance(module, kind)]


def blocks(*pairs):
    return [f"layer{stage}.{block}" for stage, chosen in pairs for block in chosen]


def test_every_network_of_both_papers_is_listed_for_every_depth():
    names = strfnet.list_models()
    assert len(set(names)) == len(names) == len(DEPTHS) * len(ARCHITECTURES)
    for depth in DEPTHS:
        for form in ("i3d_{}", "strf_p3da_{}", "strf_p3db_{}", "strf_p3dc_{}", "{}_fpl", "{}_maxfpl", "nvan_{}",
                     "nvan_spatial_{}", "nvan_temporal_{}", "ste_nvan_{}", "ap3d_{}", "ap3d_nl_{}"):  # fmt: skip
            assert form.format(depth) in names


@pytest.mark.parametrize("wrong", ["ste_nvan_resnet5", "resnet50", "", "nope", None])
def test_an_unknown_name_is_refused_with_the_nearest(wrong):
    with pytest.raises(ValueError, match="there is no network") as caught:
        strfnet.create_model(wrong)
    if wrong == "ste_nvan_resnet5":
        assert "did you mean ste_nvan_resnet50" in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_returns_embeddings_in_evaluation_and_logits_too_in_training(name):
    small = "resnet8" in name
    clip, channels = (SMALL_CLIP, 64) if small else (CLIP, 512)
    network = wake(build(name, num_classes=7))
    trained = network.train()(clip)
    network.eval()
    with torch.no_grad():
        output = network(clip)
        alone = network(clip[:1])
        last = network(clip.contiguous(memory_format=torch.channels_last_3d))
        assert not small or network.backbone(clip).shape[-2:] == (8, 4)
    assert isinstance(trained, ReIDOutput) and isinstance(output, ReIDOutput)
    assert trained.logits.shape == (2, 7) and output.logits is None
    assert trained.embedding.shape == output.embedding.shape == output.feature.shape == (2, channels)
    scale = output.embedding.abs().max()
    assert (alone.embedding - output.embedding[:1]).abs().max() <= 1e-4 * scale
    assert (last.embedding - output.embedding).abs().max() <= 1e-4 * scale
    (trained.embedding.sum() + trained.logits.sum()).backward()
    for path, parameter in network.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), path


@pytest.mark.parametrize(
    ("depth", "stage2", "stage3"),
    sweep([("resnet50", 4, 6), ("resnet18", 2, 2), ("resnet101", 4, 23)], quick=1),
)
def test_units_stand_where_the_papers_place_them(depth, stage2, stage3):
    strf = on_meta(f"strf_p3dc_{depth}")
    every_second = blocks((2, range(0, stage2, 2)), (3, range(0, stage3, 2)))
    assert where(strf, TemporalConv) == [f"{block}.conv2" for block in every_second]
    assert where(strf, STRF) == [f"{block}.conv2.after.0" for block in every_second]
    between = blocks((2, range(1, stage2, 2)), (3, range(1, stage3, 2)))
    assert where(on_meta(f"ap3d_nl_{depth}"), NonLocalBlock) == [f"{block}.after.0" for block in between]
    last = blocks((2, range(stage2)[-2:]), (3, range(stage3)[-3:]))
    ste = on_meta(f"ste_nvan_{depth}")
    assert where(ste, NonLocalBlock) == [f"{block}.after.0" for block in last]
    assert where(ste, TemporalReduction) == [f"layer2.{stage2 - 1}.after.1", f"layer3.{stage3 - 1}.after.1"]


def test_the_small_network_has_units_of_its_own_size():
    parameters = {name: sum(p.numel() for p in build(f"{name}_resnet8").backbone.parameters()) for name in
                  ("c2d", "strf_c2d", "i3d", "strf_i3d", "p3dc", "strf_p3dc")}  # fmt: skip
    # Stem 464 + 4,960 + 14,400 + 57,856; a place's unit: 2 C c + 24 c^2 + 2 c + 4 (4 c + 2) with c = C / 4.
    assert parameters["c2d"] == 77_680
    assert {parameters[f"strf_{host}"] - parameters[host] for host in ("c2d", "i3d", "p3dc")} == {2_200 + 8_488}
    assert parameters["i3d"] - parameters["c2d"] == 2 * 9 * (32**2 + 64**2)
    assert parameters["p3dc"] - parameters["c2d"] == 3 * (32**2 + 64**2)
    assert where(build("c2d_nl_resnet8"), NonLocalBlock) == ["layer2.0.after.0", "layer3.0.after.0"]
    assert [build("ste_nvan_resnet8").get_submodule(f"backbone.layer{s}.0.after.0").stripes for s in (2, 3)] == [8, 8]


def test_the_small_network_has_no_weights_to_start_from():
    with pytest.raises(ValueError, match="'IMAGENET1K_V2', but a resnet8 has none"):
        strfnet.create_model("c2d_resnet8", weights="IMAGENET1K_V2")


def test_the_families_differ_as_their_published_code_does():
    ap3d, nvan = build("p3dc_resnet18"), build("nvan_resnet18")
    assert isinstance(ap3d.backbone.relu, nn.ReLU) and not hasattr(nvan.backbone, "relu")
    assert ap3d.head.pooling == "max_mean" and nvan.head.pooling == "mean"
    assert ap3d.head.neck.bias.requires_grad and not nvan.head.neck.bias.requires_grad
    assert ap3d.head.classifier.bias is not None and nvan.head.classifier.bias is None
    non_local = build("ap3d_nl_resnet18").backbone.layer2[1].after[0]
    assert non_local.subsample and not nvan.backbone.layer2[1].after[0].subsample
    for network in (ap3d, nvan):
        assert network.backbone.layer4[0].conv1.stride == (1, 1)
        assert 0.0009 < network.head.classifier.weight.std() < 0.0011


@torch.no_grad()
def test_the_stem_of_nvan_passes_negative_values_on():
    network = build("resnet18_fpl").eval()
    seen = []
    network.backbone.maxpool.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].min()))
    network(CLIP)
    assert seen[0] < 0


@torch.no_grad()
def test_ste_nvan_merges_frames_twice_and_sees_pairs():
    network = build("ste_nvan_resnet18").eval()
    maps = network.backbone(torch.randn(1, 3, 8, 256, 16))
    assert maps.shape == (1, 512, 2, 16, 1)
    assert network.backbone(torch.randn(1, 3, 5, 256, 16)).shape[2] == 2  # 5 frames, then 3, then 2
    block = network.backbone.layer3[1].after[0]
    assert (block.stripes, block.window) == (16, 2)
    spatial = build("nvan_spatial_resnet18").backbone.layer3[1].after[0]
    assert (spatial.stripes, spatial.window) == (16, None)


@torch.no_grad()
def test_a_new_network_embeds_as_its_image_network():
    torch.manual_seed(3)
    plain = strfnet.create_model("c2d_resnet18").eval()
    for name in ("strf_p3dc_resnet18", "strf_i3d_resnet18", "ap3d_nl_resnet18"):
        network = strfnet.create_model(name).eval()
        network.backbone.load_state_dict(plain.backbone.state_dict())
        network.head.load_state_dict(plain.head.state_dict())
        expected = plain(CLIP).embedding
        assert (network(CLIP).embedding - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_whole_network_works_in_one_memory_order():
    network = build("strf_p3dc_resnet18").eval()
    orders = {}

    def note(path):
        def hook(module, inputs, output):
            orders[path] = output.is_contiguous(memory_format=torch.channels_last)

        return hook

    for path, module in network.backbone.named_modules():
        if isinstance(module, nn.Conv2d) and not path.endswith(("squeeze", "temporal")) and ".units." not in path:
            module.register_forward_hook(note(path))
    network(CLIP)
    assert len(orders) > 15 and all(orders.values()), orders


def test_a_network_without_a_classifier_has_no_logits():
    network = build("c2d_resnet18", num_classes=None)
    assert network.train()(CLIP).logits is None
