"""A network from a user's file is trained, evaluated, embedded, exported, converted and loaded as a named one is."""

import sys

import pytest
import torch
from safetensors.torch import load_file
from strategies import normal
from tiny_runs import objective_for, tiny_recipe, walkers

import strfnet
from strfnet.cli import main
from strfnet.data.synthetic import draw_set, write_mars
from strfnet.models import ReIDNetwork, convert, create_model, find_network, load, save
from strfnet.training import Recipe, read_run, train

FILE = """
from functools import partial

import torch
from timm.models.convnext import ConvNeXt

import strfnet
from strfnet.layers import Head
from strfnet.models import ReIDNetwork


def build(num_classes, width=8, reduction=4):
    image = ConvNeXt(num_classes=0, global_pool="", depths=(1, 1, 1, 1), dims=[width * 2**n for n in range(4)])
    unit = partial(strfnet.STRF, reduction=reduction)
    backbone = strfnet.inflate(image, temporal="c2d", unit=unit, places=["stages.1.blocks.0.conv_dw"])
    return ReIDNetwork(backbone, Head(8 * width, num_classes))


def plain():
    return build(4)


def nested(num_classes, sizes=None):
    return build(num_classes, **(sizes or {}))


def maps(num_classes):
    return build(num_classes).backbone


class Own(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layer, self.head = torch.nn.Conv3d(3, 4, 1), Head(4, classes)

    def forward(self, clip):
        return self.head(self.layer(clip))


def of_own_class(num_classes):
    return Own(num_classes + 0)
"""
SIZE = ["--height", "64", "--width", "32"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the user's module, which can be imported."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_convnext.py").write_text(FILE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("own_convnext", None)


@pytest.fixture(scope="module")
def run(own):
    """A finished run of it, and the data."""
    write_mars(own / "data", draw_set(train=4, test=3, cameras=2, frames=4, height=32))
    data = ["--data", str(own / "data"), "--format", "mars", "--complete", "false"]
    words = ["--frames", "2", "--sampling", "consecutive", "--batches", "every_identity", "--batch", "4"]
    words += ["--identities", "2", "--tracklets", "2", "--epochs", "1", "--milestones", "[]", "--workers", "0"]
    words += [*SIZE, "--device", "cpu", "--protocol", "nvan", "--options", '{"width": 4}']
    assert main(["train", "--model", "own_convnext:build", "--out", str(own / "run"), *words, *data]) == 0
    return own / "run", data


@pytest.mark.slow
def test_every_command_takes_it_and_gives_the_same_embeddings(own, run, tmp_path, capsys):
    run, data = run
    recipe, tensors = read_run(run)
    assert (recipe.model, recipe.options) == ("own_convnext:build", {"width": 4})
    assert main(["convert", str(run), str(tmp_path / "own.safetensors")]) == 0
    assert "own_convnext:build (own), no classes" in capsys.readouterr().out
    file = ["--model", "own_convnext:build", "--weights", str(tmp_path / "own.safetensors")]
    assert main(["evaluate", "--trained", str(run), *data, "--protocol", "nvan", "--device", "cpu"]) == 0
    with pytest.raises(
        ValueError, match=r"own.safetensors holds a network that own_convnext:build builds, .* --model"
    ):
        load(tmp_path / "own.safetensors")
    network = load(tmp_path / "own.safetensors", model="own_convnext:build").eval()
    again = find_network(run).network.eval()
    clip = normal(1, 3, 3, 64, 32, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(network(clip).embedding, again(clip).embedding)
    assert all(torch.equal(value, tensors[key]) for key, value in network.state_dict().items())
    assert main(["embed", "--trained", str(run), "--out", str(tmp_path / "a.safetensors"), *data]) == 0
    assert main(["embed", *file, "--out", str(tmp_path / "b.safetensors"), *data]) == 0
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    assert main(["export", "--trained", str(run), "--out", str(tmp_path / "own.pt2"), "--format", "pt2"]) == 0
    exported = torch.export.load(tmp_path / "own.pt2").module()
    with torch.no_grad():
        torch.testing.assert_close(exported(clip), network(clip).embedding, rtol=1e-4, atol=1e-4)


def test_a_function_itself_is_a_model(own, tmp_path):
    from own_convnext import build, plain

    recipe = tiny_recipe(model=build, options={"width": 4})
    assert recipe.model == "own_convnext:build" and Recipe.from_json(recipe.to_json()) == recipe
    network = create_model(build, num_classes=4, width=4)
    assert (network.name, network.options) == ("own_convnext:build", {"width": 4})
    train(network, objective_for(recipe), walkers(), recipe, tmp_path / "run", progress=False)
    save(network, tmp_path / "file.safetensors")
    found = load(tmp_path / "file.safetensors", model=build)
    for key, value in network.state_dict().items():
        assert torch.equal(value, found.state_dict()[key])
    assert create_model(plain, num_classes=None).num_classes == 4
    print(convert(tmp_path / "run", tmp_path / "converted.safetensors"))


def test_an_option_may_hold_options(own, tmp_path):
    from own_convnext import nested

    network = create_model(nested, num_classes=4, sizes={"width": 4, "reduction": 2})
    assert network.head.channels == 32 and network.options == {"sizes": {"width": 4, "reduction": 2}}
    save(network, tmp_path / "file.safetensors")
    found = load(tmp_path / "file.safetensors", model=nested)
    assert not found.differences() and found.options == network.options


def test_what_the_recipe_does_not_name_is_refused_before_the_first_step(own, tmp_path):
    from own_convnext import build

    spliced = create_model("p3dc_resnet8", num_classes=4)
    spliced.backbone = strfnet.splice(spliced.backbone, {"layer2.0": strfnet.STRF(32)})
    for model, network, message in (
        ("strf_c2d_resnet8", create_model("c2d_resnet8", num_classes=4), "builds: it is c2d_resnet8"),
        ("strf_c2d_resnet8", build(4), "builds: it is ReIDNetwork"),
        ("p3dc_resnet8", spliced, r"model 'p3dc_resnet8' of the recipe builds: backbone.layer2.0.after is new"),
        ("p3dc_resnet8", create_model("p3dc_resnet8", num_classes=4, time_kernel=5), "options are .*5.*, not {}"),
        (build, build(4, width=4), "own_convnext:build' of the recipe builds: .*is 32, not 64"),
        (build, build(4, reduction=2), "own_convnext:build' of the recipe builds: .*is 8, not 4"),
        ("own_convnext:none", build(4), "'none' in 'own_convnext' is NoneType, wanted a function"),
    ):
        recipe = tiny_recipe(model=model)
        with pytest.raises(ValueError, match=message):
            train(network, objective_for(recipe), walkers(), recipe, tmp_path / "run", progress=False)
        assert not (tmp_path / "run").exists()


def test_functions_that_cannot_be_found_again_are_refused(own, tmp_path):
    from own_convnext import build, maps

    for function in (lambda: build(4), type("Local", (), {"method": lambda self: None}).method):
        with pytest.raises(ValueError, match="wanted a function at the top of a module that can be imported"):
            Recipe(model=function)
    with pytest.raises(ValueError, match=r"returned InflatedConvNeXt, wanted a strfnet.models.ReIDNetwork"):
        create_model(maps, num_classes=3)
    with pytest.raises(ValueError, match="no option of own_convnext:build 'widths', the nearest is 'width'"):
        create_model(build, widths=3)
    with pytest.raises(ValueError, match="weights are 'DEFAULT', but own_convnext:build builds its backbone itself"):
        create_model(build, weights="DEFAULT")
    network: ReIDNetwork = build(4)
    with pytest.raises(ValueError, match=r"network is ReIDNetwork, wanted one that strfnet.create_model has built"):
        save(network, tmp_path / "file.safetensors")


def test_the_run_of_a_network_of_ones_own_class_is_read_and_no_file_is_written_of_it(own, tmp_path):
    from own_convnext import of_own_class

    recipe, run = tiny_recipe(model=of_own_class), tmp_path / "run"
    network = of_own_class(4)
    train(network, objective_for(recipe), walkers(), recipe, run, progress=False)
    for key, value in find_network(run).network.state_dict().items():
        assert torch.equal(value, network.state_dict()[key])
    with pytest.raises(ValueError, match="run is the run of a network of the class Own, wanted a ReIDNetwork"):
        convert(run, tmp_path / "file.safetensors")
    assert not (tmp_path / "file.safetensors").exists()
