"""Weights, paths and numbers are what they look like, or refused with the value."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_runs import network_for, objective_for, tiny_recipe, walkers
from torch import nn

from strfnet import create_model, load
from strfnet.cli.arguments import parse
from strfnet.inference import embed
from strfnet.models import find_network, load_official
from strfnet.training import train
from strfnet.weights.file import read_weights

MODEL = "c2d_resnet8"


@pytest.fixture
def state():
    torch.manual_seed(0)
    return create_model(MODEL, num_classes=4).state_dict()


KEY = "backbone.layer2.0.conv1.weight"


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("value", [1e300, -1e39, 3.5e38])
def test_a_number_too_large_for_the_network_is_named(state, tmp_path, value, kind):
    path = tmp_path / f"w.{kind}"
    state[KEY] = state[KEY].double()
    state[KEY][0, 0, 0, 0] = value
    torch.save(state, path) if kind == "pth" else save_file(state, path)
    wanted = rf"w\.{kind} does not fit .*: {KEY} has values up to {abs(value):.1e}".replace("+", r"\+")
    with pytest.raises(ValueError, match=wanted + ", too large for float32"):
        create_model(MODEL, num_classes=4, pretrained=path)
    with pytest.raises(ValueError, match=r"too large for float32|wanted float32"):
        find_network(MODEL, weights=path)


def test_weights_in_float64_that_fit_are_read(state, tmp_path):
    torch.save(
        {name: value.double() if value.is_floating_point() else value for name, value in state.items()},
        tmp_path / "w.pth",
    )
    network = create_model(MODEL, num_classes=4, pretrained=tmp_path / "w.pth")
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_weights_of_a_type_without_arithmetic_are_named(state, tmp_path, dtype, kind):
    state[KEY] = state[KEY].to(dtype)
    path = tmp_path / f"w.{kind}"
    torch.save(state, path) if kind == "pth" else save_file(state, path)
    wanted = rf"{KEY} is {str(dtype)[6:]} \(.*\); wanted float32, float16 or bfloat16"
    with pytest.raises(ValueError, match=wanted):
        read_weights(path)


def test_tied_tensors_of_a_file_are_apart_in_the_network(state, tmp_path):
    twin = "backbone.layer2.0.bn2.weight"
    state["backbone.layer2.0.bn1.weight"] = state[twin]
    torch.save(state, tmp_path / "w.pth")
    tensors = read_weights(tmp_path / "w.pth").tensors
    tensors[twin].add_(1)
    assert not torch.equal(tensors["backbone.layer2.0.bn1.weight"], tensors[twin])


def test_expanded_tensors_of_a_file_can_be_trained(state, tmp_path):
    state[KEY] = torch.full((1, 1, 1, 1), 0.01).expand(state[KEY].shape)
    torch.save(state, tmp_path / "w.pth")
    kernel = nn.Parameter(read_weights(tmp_path / "w.pth").tensors[KEY])
    kernel.square().sum().backward()
    torch.optim.SGD([kernel], 0.5, momentum=0.9).step()
    torch.testing.assert_close(kernel.detach(), torch.zeros_like(kernel))


def test_tied_weights_of_a_published_file_move_apart(tmp_path):
    torch.manual_seed(0)
    network = create_model("c2d_resnet18", num_classes=4)
    image = {
        name.removeprefix("backbone."): value for name, value in network.state_dict().items() if "head" not in name
    }
    image["layer1.0.bn1.weight"] = image["layer1.0.bn2.weight"]
    image["fc.weight"], image["fc.bias"] = torch.zeros(1, 1).expand(10, 512), torch.zeros(10)
    torch.save(image, tmp_path / "w.pth")
    block = load_official(tmp_path / "w.pth", "c2d_resnet18").backbone.layer1[0]
    with torch.no_grad():
        block.bn1.weight.add_(1)
    assert not torch.equal(block.bn1.weight, block.bn2.weight)


def test_a_small_file_does_not_stand_for_much_memory(tmp_path):
    torch.save({"weight": torch.zeros(1).expand(2**34)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="expand to tensors of 68719476736, more than"):
        read_weights(tmp_path / "w.pth")


EMPTY = ["", " "]


@pytest.mark.parametrize("value", EMPTY)
@pytest.mark.parametrize("option", ["data", "start-from", "out", "config"])
@pytest.mark.parametrize("form", ["apart", "joined"])
def test_an_empty_value_is_no_path(capsys, option, value, form):
    words = [f"--{option}", value] if form == "apart" else [f"--{option}={value}"]
    with pytest.raises(SystemExit) as left:
        parse(["train", "--out", "run", *words] if option != "out" else ["train", *words])
    assert left.value.code == 2 and f"{option} is {value!r}, wanted a value" in capsys.readouterr().err


@pytest.mark.parametrize("value", EMPTY)
@pytest.mark.parametrize(
    "call",
    [
        read_weights,
        find_network,
        lambda value: find_network(MODEL, weights=value),
        lambda value: create_model(MODEL, pretrained=value),
        lambda value: train(
            network_for(tiny_recipe()), objective_for(tiny_recipe()), walkers(), tiny_recipe(), value
        ),
    ],
)
def test_an_empty_path_is_not_the_working_directory(tmp_path, monkeypatch, call, value):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is '[ ]*', wanted a path"):
        call(value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [read_weights, load, find_network, load_official])
@pytest.mark.parametrize("value", [None, 7, b"weights.pth", ["weights.pth"]])
def test_what_is_no_path_is_refused_by_its_value(call, value):
    with pytest.raises(ValueError, match=rf"(path|source) is {re.escape(repr(value))}, wanted a path"):
        call(value)


@pytest.mark.parametrize("network", [None, "c2d_resnet8", nn.Linear])
def test_what_is_no_network_is_not_embedded_with(network):
    with pytest.raises(ValueError, match=r"network is \w+, wanted a module"):
        embed(network, walkers(), frames=2, size=(64, 32))


MISREAD = ["1:30", "-1:30:00", "1:30.5"]


@pytest.mark.parametrize("value", MISREAD)
def test_a_time_on_the_command_line_is_no_number(capsys, value):
    with pytest.raises(SystemExit) as left:
        parse(["train", "--out", "run", f"--lr={value}"])
    assert left.value.code == 2 and f"lr is {value}, which YAML reads as another number" in capsys.readouterr().err


def configured(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    return parse(["train", "--out", "run", "--config", str(file)])[1].recipe


@pytest.mark.parametrize("value", [*MISREAD, "010", "-010", "00", "0_7", "08"])
@pytest.mark.parametrize("form", ["epochs: {}\n", "milestones: [{}]\n"])
def test_a_number_that_yaml_reads_as_another_is_refused(tmp_path, capsys, value, form):
    with pytest.raises(SystemExit) as left:
        configured(tmp_path, form.format(value))
    error = capsys.readouterr().err
    assert left.value.code == 2
    assert f"{'epochs' if 'epochs' in form else 'milestones'} in {tmp_path}/run.yaml is {value}, which YAML" in error


def test_an_alias_is_refused_before_it_is_followed(tmp_path, capsys):
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    with pytest.raises(SystemExit):
        configured(tmp_path, "\n".join(lines))
    assert f"{tmp_path}/run.yaml has the alias *a0, wanted the value itself" in capsys.readouterr().err


def test_an_empty_text_in_a_file_is_no_path(tmp_path, capsys):
    with pytest.raises(SystemExit):
        configured(tmp_path, 'data: ""\n')
    assert "data in" in capsys.readouterr().err


def test_plain_values_are_read(tmp_path):
    recipe = configured(tmp_path, "epochs: 10\nlr: 0.01\nseed: 0\ndata: '010'\nformat: folder\nmilestones: [5, 8]\n")
    assert (recipe.epochs, recipe.lr, recipe.seed, recipe.data) == (10, 0.01, 0, Path("010"))
