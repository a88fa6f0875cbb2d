"""Published files become networks that answer as the published code does, and the same files again."""

import importlib
import json
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from strategies import assert_golden, golden, normal, wake
from sweeps import sweep

import strfnet
from strfnet.layers.ap3d import AppearancePreserving
from strfnet.layers.non_local import NonLocalBlock
from strfnet.models.checkpoints import load, load_official, save, save_official
from strfnet.weights.published import AP3D, APPEARANCE, NETWORKS, STE_NVAN, published_name

ROOT = Path(__file__).parents[1]
SMALL = {form.format("resnet8"): family for family in (STE_NVAN, AP3D) for form in NETWORKS[family]}
RESTATED = [name for name in SMALL if not name.startswith("ap3d") and "_nl_" not in name]


def random_state(shapes, seed=0):
    """Values for names and shapes, as training could have left them."""
    generator = torch.Generator().manual_seed(seed)
    state = OrderedDict()
    for number, (name, shape) in enumerate(shapes.items()):
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(number)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        else:
            state[name] = torch.randn(shape, generator=generator) / max(np.prod(shape[1:]), 25) ** 0.5
    return state


def write(path, state, family):
    """A file as the authors' code writes it."""
    if family == AP3D:
        torch.save({"state_dict": state, "rank1": np.float64(0.881234567), "epoch": 240}, path)
    else:
        torch.save(state, path)


def assert_same_file(path, other):
    """Two files of ``torch.save`` hold the same names, types and bits."""
    one, two = (torch.load(p, weights_only=False) for p in (path, other))
    if "state_dict" in one:
        assert {k: (type(v), v) for k, v in one.items() if k != "state_dict"} == {
            k: (type(v), v) for k, v in two.items() if k != "state_dict"
        }
        one, two = one["state_dict"], two["state_dict"]
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert value.dtype == two[name].dtype and torch.equal(value, two[name]), name


@pytest.fixture
def restate(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("restatements").restate


@pytest.fixture
def published_file(tmp_path):
    """A file as the authors' code would save a small network by name."""

    def make(name, path=tmp_path / "published.pth"):
        network = wake(strfnet.create_model(name, num_classes=7))
        save_official(network, path, family=SMALL.get(name))
        return path

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("ste_resnet50_NL_stripe_hr", "ste_nvan_resnet50"),
        ("ap3d_ap3dnlres50", "ap3d_nl_resnet50"),
        ("torchvision_resnet50", "c2d_resnet50"),
    ],
)
def test_a_file_of_the_published_names_gives_an_embedding_and_itself_again(table, name, tmp_path):
    shapes = json.loads((ROOT / f"tests/golden/keys_{table}.json").read_text())["keys"]
    write(tmp_path / "theirs.pth", random_state(shapes), AP3D if "ap3d" in table else None)
    network = load_official(tmp_path / "theirs.pth", name if name.startswith("ste") else None)
    assert network.name == name
    save(network, tmp_path / "ours.safetensors")
    save_official(load(tmp_path / "ours.safetensors"), tmp_path / "again.pth")
    assert_same_file(tmp_path / "theirs.pth", tmp_path / "again.pth")
    with torch.no_grad():
        embedding = network.eval()(normal(1, 3, 4, 256, 16, dtype=torch.float32)).embedding
    assert embedding.shape == (1, 2048) and embedding.isfinite().all()


@pytest.mark.parametrize("name", sweep(RESTATED, quick=5))
def test_a_published_file_answers_as_the_published_computation(name, restate, tmp_path):
    family, name = SMALL[name], name.replace("resnet8", "resnet18")  # published code has the stem of torchvision's
    theirs = restate(strfnet.create_model(name, num_classes=7)).eval()
    shapes = {key: value.shape for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(random_state(shapes))
    classifier = {"classifier.weight": (7, 512)} | ({"classifier.bias": (7,)} if family == AP3D else {})
    prefix = "module." if family == STE_NVAN else ""
    state = {f"{prefix}{key}": value for key, value in random_state(shapes | classifier).items()}
    write(tmp_path / "file.pth", state, family)
    ours, clip = load_official(tmp_path / "file.pth", name).eval().double(), normal(1, 3, 4, 256, 16)
    with torch.no_grad():
        torch.testing.assert_close(ours(clip).embedding, theirs.double()(clip).embedding, rtol=1e-8, atol=1e-8)
    for key, value in state.items():
        if "classifier" in key:
            assert torch.equal(ours.head.classifier.get_parameter(key.rpartition(".")[2]), value)


def test_the_published_names_of_units_belong_to_the_published_answers():
    numbers = golden("inflation")
    module = AppearancePreserving(32, inner_channels=2).double()
    for part, theirs in APPEARANCE.items():
        weight = module.get_submodule(part).weight
        weight.data = numbers[f"apm.att.{theirs}.weight"].reshape(weight.shape)
    assert_golden(module(numbers["apm.x"]), numbers["apm.att.out"])
    block = NonLocalBlock(16, inner_channels=8, subsample=True).double().eval()
    named = {key: published_name(block, key) for key in block.state_dict() if "tracked" not in key}
    values = {key: numbers[f"nonlocal3d.sub.{name}"] for key, name in named.items()}
    state = {key: value.reshape(block.state_dict()[key].shape) for key, value in values.items()}
    block.load_state_dict(state, strict=False)
    assert_golden(block(numbers["nonlocal3d.x"]), numbers["nonlocal3d.sub.out"])


@pytest.mark.parametrize("name", sweep(SMALL, quick=7))
def test_every_published_form_comes_back_as_it_was(name, published_file, tmp_path):
    path = published_file(name)
    network = load_official(path, name)
    assert (network.name, network.head.classifier.out_features) == (name, 7)
    save_official(network, tmp_path / "again.pth")
    assert_same_file(path, tmp_path / "again.pth")


@pytest.mark.parametrize("name", sweep(SMALL, quick=5))
def test_a_network_is_recognised_by_names_and_shapes_where_they_tell(name, published_file):
    path = published_file(name)
    alike = [["nvan", "nvan_spatial", "nvan_temporal", "ste_nvan"], ["p3da", "p3db", "p3dc"]]
    alike += [["p3da_nl", "p3db_nl", "p3dc_nl"]]
    for group in ([f"{form}_resnet8" for form in forms] for forms in alike):
        if name in group:
            with pytest.raises(ValueError, match=rf"{path} \(.*\) may be {', '.join(group)}: say which"):
                load_official(path)
            return
    assert load_official(path).name == name


def test_wrappers_and_what_lay_beside_are_kept(tmp_path):
    network = wake(strfnet.create_model("i3d_resnet8", num_classes=3))
    save_official(network, tmp_path / "plain.pth")
    state = torch.load(tmp_path / "plain.pth")["state_dict"]
    state = {f"module._orig_mod.{key}": value for key, value in state.items()}
    beside = {"rank1": np.float32(0.1), "epoch": np.int64(3), "note": "best", "loss": 0.25}
    torch.save({"state_dict": state} | beside, tmp_path / "in.pth")
    found = load_official(tmp_path / "in.pth")
    assert torch.equal(found.backbone.conv1.weight, network.backbone.conv1.weight)
    save_official(found, tmp_path / "out.pth")
    assert_same_file(tmp_path / "in.pth", tmp_path / "out.pth")


def test_a_c2d_by_the_name_of_a_3d_kernel_is_a_c2d(tmp_path):
    network = wake(strfnet.create_model("c2d_resnet8", num_classes=3))
    save_official(network, tmp_path / "plain.pth")
    state = torch.load(tmp_path / "plain.pth")["state_dict"]
    state["layer2.0.conv2.conv3d.weight"] = state.pop("layer2.0.conv2.weight")
    torch.save({"state_dict": state}, tmp_path / "named.pth")
    found = load_official(tmp_path / "named.pth")
    assert torch.equal(found.backbone.layer2[0].conv2.weight, network.backbone.layer2[0].conv2.weight)


@pytest.mark.parametrize(
    ("name", "ending"),
    sweep([(None, "pth"), ("strf_p3dc_resnet18", "pth"), (None, "safetensors"), ("i3d_resnet18", "pth"),
           ("nvan_resnet18", "pth")], quick=2),
)  # fmt: skip
def test_an_image_resnet_fills_the_image_network(name, ending, tmp_path):
    image = wake(torchvision.models.resnet18(num_classes=5)).eval()
    path = tmp_path / f"image.{ending}"
    if ending == "pth":
        torch.save(image.state_dict(), path)
    else:
        save_file(image.state_dict(), path)
    network = load_official(path, name).eval()
    fresh = strfnet.create_model(network.name, num_classes=5)
    clip = normal(1, 3, 2, 64, 32, dtype=torch.float32)
    image.layer4[0].conv1.stride = image.layer4[0].downsample[0].stride = (1, 1)
    if "nvan" in network.name:
        image.relu = torch.nn.Identity()
        image.layer1[0].relu = torch.nn.ReLU()  # the first block's own, which wrote over its input
    layers = list(image.children())[:-2]
    with torch.no_grad():
        expected = torch.nn.Sequential(*layers)(clip[0].transpose(0, 1))
        torch.testing.assert_close(network.backbone(clip)[0].transpose(0, 1), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(network.head.neck.weight, fresh.head.neck.weight)
    if "nvan" not in network.name:
        assert torch.equal(network.head.classifier.weight, image.fc.weight)
    if name is None:
        save_official(network, tmp_path / "again.pth")
        torch.save(image.state_dict(), tmp_path / "image.pth")
        assert_same_file(tmp_path / "image.pth", tmp_path / "again.pth")


def test_an_image_file_of_old_has_no_counts(tmp_path):
    state = wake(torchvision.models.resnet18(num_classes=5)).state_dict()
    torch.save({k: v for k, v in state.items() if "tracked" not in k}, tmp_path / "old.pth")
    network = load_official(tmp_path / "old.pth")
    assert network.backbone.bn1.num_batches_tracked == 0
    assert torch.equal(network.backbone.bn1.running_var, state["bn1.running_var"])


def test_timms_resnet_has_torchvisions_names(tmp_path):
    import timm

    state = wake(timm.create_model("resnet18", num_classes=5)).state_dict()
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    network = load_official(tmp_path / "model.safetensors")
    assert network.name == "c2d_resnet18"
    assert torch.equal(network.backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


def test_all_that_does_not_fit_is_listed_at_once(tmp_path, published_file):
    path = published_file("p3dc_resnet8")
    state = torch.load(path)["state_dict"]
    state["layer1.0.bn1.weight"] = torch.ones(9)
    state["layer9.weight"] = state.pop("bn.bias")
    torch.save({"state_dict": state}, path)
    for name in ("p3dc_resnet8", None):
        with pytest.raises(ValueError) as caught:
            load_official(path, name)
        for part in (str(path), "bn.bias is missing", "layer9.weight is not in the network",
                     "layer1.0.bn1.weight is float32 (9,), wanted float32 (16,)"):  # fmt: skip
            assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("p3da_resnet18", "does not fit p3da_resnet18: .*is missing"),
        ("nvan_resnet8", "pools by 'mean', which the code of AP3D does not have"),
        ("strf_p3dc_resnet8", r"holds backbone.layer2.0.conv2.after\S+, which the code of AP3D does not have"),
        ("p3dd_resnet8", "no network 'p3dd_resnet8'; did you mean"),
    ],
)
def test_another_architecture_is_refused(name, message, published_file):
    path = published_file("p3dc_resnet8")
    with pytest.raises(ValueError, match=message) as caught:
        load_official(path, name)
    assert str(path) in str(caught.value) or "did you mean" in str(caught.value)


def test_weights_that_are_not_finite_are_refused(published_file):
    path = published_file("i3d_resnet8")
    content = torch.load(path)
    content["state_dict"]["bn.running_mean"][3] = float("nan")
    torch.save(content, path)
    with pytest.raises(
        ValueError, match=f"{path} has weights that are NaN or infinite: bn.running_mean is not finite"
    ):
        load_official(path)


def test_unknown_names_are_told(tmp_path):
    torch.save({"encoder.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"other.pth holds encoder.weight \.\.\., wanted the names of STE-NVAN, AP3D"
    ):
        load_official(tmp_path / "other.pth")
    state = torchvision.models.resnet18().state_dict()
    torch.save({k: v for k, v in state.items() if not k.startswith("layer4.1")}, tmp_path / "cut.pth")
    with pytest.raises(ValueError, match=r"cut.pth \(image\) has the blocks of a resnet16, wanted"):
        load_official(tmp_path / "cut.pth")


def test_an_image_file_is_written_only_of_what_it_can_hold(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "image.pth")
    network = load_official(tmp_path / "image.pth")
    network.head.neck.running_mean.fill_(1)
    with pytest.raises(ValueError, match="the BN neck was trained"):
        save_official(network, tmp_path / "no.pth")
    save_official(network, tmp_path / "yes.pth", family=AP3D)
    assert torch.equal(load_official(tmp_path / "yes.pth").head.neck.running_mean, torch.ones(512))
    with pytest.raises(ValueError, match="p3dc_resnet18 holds more than an image ResNet"):
        save_official(load_official(tmp_path / "image.pth", "p3dc_resnet18"), tmp_path / "no.pth", family="image")
    with pytest.raises(ValueError, match=re.escape("family must be one of STE-NVAN, AP3D, image, got 'ap3d'")):
        save_official(network, tmp_path / "no.pth", family="ap3d")
    assert not (tmp_path / "no.pth").exists()
