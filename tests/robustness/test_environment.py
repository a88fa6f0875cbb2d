"""The environment decides nothing unseen: what is not a complete set of torchrun's variables is ignored and named."""

import os

import pytest
import torch
from tiny_runs import network_for, objective_for, tiny_recipe, walkers

from strfnet.cli.commands.output import note, say
from strfnet.cli.parser import main
from strfnet.data.synthetic import write_walkers
from strfnet.training import train
from strfnet.training.environment import TORCHRUN
from strfnet.training.log import read_log

RANKS = [
    {"RANK": "1"},
    {"RANK": "0"},
    {"LOCAL_RANK": "1"},
    {"WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"},
    {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    {"PMI_SIZE": "2"},
    {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"},
    {"MV2_COMM_WORLD_SIZE": "2"},
    {"ACCELERATE_USE_SAGEMAKER": "true"},
    {"ACCELERATE_TORCH_DEVICE": "meta"},
]
SETTINGS = [
    {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
    {"ACCELERATE_MIXED_PRECISION": "bf16"},
    {"ACCELERATE_DYNAMO_BACKEND": "eager"},
    {"ACCELERATE_USE_FSDP": "true"},
    {"ACCELERATE_USE_DEEPSPEED": "true"},
    {"ACCELERATE_USE_MEGATRON_LM": "true"},
    {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"},
    {"RANK": "1", "WORLD_SIZE": "2"},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "walkers"
    write_walkers(folder, identities=2, cameras=2, frames=2, height=32)
    return folder


@pytest.fixture
def environment(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)

    def settle(variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return settle


def check(variables, error):
    (line,) = (line for line in error.splitlines() if line.startswith("strfnet: ignored in the environment: "))
    assert {name for name in variables if not name.startswith(("MASTER", "OMPI_COMM_WORLD_RANK"))} <= {
        *line.rpartition(": ")[2].split(", ")
    }
    assert all(os.environ[name] == value for name, value in variables.items())


@pytest.mark.parametrize(
    ("command", "variables"),
    [*(("embed", each) for each in RANKS), ("evaluate", RANKS[0]), ("show --masks", RANKS[0])],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_command_writes_its_output(data, tmp_path, capsys, environment, variables, command):
    environment(variables)
    out = tmp_path / "out.png"
    network = "--model strf_c2d_resnet8 --height 32 --width 16 --device cpu --workers 0"
    assert main(f"{command} {network} --data {data} --out {out}".split()) == 0
    said = capsys.readouterr()
    assert out.stat().st_size and str(out) in said.out
    check(variables, said.err)


def trained(folder):
    recipe = tiny_recipe(steps_per_epoch=1, height=32, width=16)
    network = network_for(recipe)
    train(network, objective_for(recipe), walkers(), recipe, folder, progress=False)
    return network.state_dict()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "plain")


@pytest.mark.parametrize("variables", SETTINGS, ids=" ".join)
def test_training_does_what_the_recipe_says(tmp_path, capsys, environment, expected, variables):
    environment(variables)
    state = trained(tmp_path)
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    check(variables, capsys.readouterr().err)
    start = read_log(tmp_path / "log.jsonl")[0]
    assert set(start["ignored_environment"]) >= variables.keys()


def test_a_clean_environment_is_not_mentioned(tmp_path, capsys, environment):
    environment({"MASTER_ADDR": "127.0.0.1", "RANKING": "1"})
    trained(tmp_path)
    assert "ignored" not in capsys.readouterr().err
    assert "ignored_environment" not in read_log(tmp_path / "log.jsonl")[0]


def test_only_a_complete_set_of_variables_makes_another_process_silent(monkeypatch, capsys):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name in TORCHRUN:
        monkeypatch.setenv(name, "1")
        note("a note")
        say("a line")
        written = capsys.readouterr()
        assert (written.err, written.out) == (("", "") if name == TORCHRUN[-1] else ("a note\n", "a line\n"))
    monkeypatch.setenv("RANK", "0")
    say("a line")
    assert capsys.readouterr().out == "a line\n"
