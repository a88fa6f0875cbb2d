"""All nine kinds of state, there and back; runs that are killed end bit for bit as if they had not been."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from tiny_runs import checkpoints, metadata_of, network_for, network_with_dropout, objective_for, tiny_recipe, walkers

from strfnet import create_model
from strfnet.losses import strf_loss
from strfnet.models import find_network
from strfnet.system.signals import Stopped
from strfnet.training.log import Log, read_log
from strfnet.training.optimization import make_optimizer
from strfnet.training.state import (
    OPTIMIZER,
    WEIGHTS,
    random_states,
    restore,
    restore_random_states,
    training_state,
)
from strfnet.training.trainer import train
from strfnet.weights.file import read_weights
from strfnet.weights.store import DESCRIPTION, pack

CPU = torch.device("cpu")


def stepped(recipe, steps, seed=0):
    """A network and its optimizer after some steps on noise."""
    network = network_for(recipe)
    optimizer = make_optimizer(recipe, network)
    step(recipe, network, optimizer, steps, seed)
    return network, optimizer


def step(recipe, network, optimizer, steps, seed):
    torch.manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        objective_for(recipe)(network(torch.rand(4, 3, 2, 64, 32)), torch.tensor([0, 0, 1, 1])).total.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_weights_buffers_and_optimizer_go_on_bit_for_bit(name):
    recipe = tiny_recipe(optimizer=name, lr=1e-3)
    network, optimizer = stepped(recipe, 2)
    files = training_state(network, optimizer)
    other, its_optimizer = stepped(recipe, 3, seed=9)
    restore(other, its_optimizer, files, "a test")
    assert training_state(other, its_optimizer) == files
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[one].items():
            twin = its_optimizer.state[another][key]
            assert twin.dtype == value.dtype and twin.stride() == value.stride() and twin.device == value.device
    fresh = stepped(recipe, 0)
    twin = stepped(recipe, 1)
    restore(*twin, training_state(*fresh), "a test")
    assert not twin[1].state and training_state(*twin) == training_state(*fresh)
    step(recipe, network, optimizer, 2, 5)
    step(recipe, other, its_optimizer, 2, 5)
    assert training_state(other, its_optimizer) == training_state(network, optimizer)


def test_nothing_is_changed_by_what_does_not_fit():
    recipe = tiny_recipe()
    network, optimizer = stepped(recipe, 1)
    before, good = training_state(network, optimizer), training_state(*stepped(recipe, 2, seed=4))
    wrong = load(good[WEIGHTS])
    del wrong["head.neck.bias"]
    wrong["extra"], wrong["head.neck.weight"] = torch.ones(1), wrong["head.neck.weight"].double()
    remembered = load(good[OPTIMIZER])
    for files, message in (
        (
            {**good, WEIGHTS: save(wrong)},
            "head.neck.bias is missing, extra is not in the network, head.neck.weight is",
        ),
        ({**good, OPTIMIZER: save({**remembered, "nobody|exp_avg": torch.ones(2)})}, "nobody.* fits no parameter"),
        ({**good, OPTIMIZER: save({**remembered, "head.neck.bias|exp_avg": torch.ones(2)})}, "head.neck.bias.*2,"),
    ):
        with pytest.raises(ValueError, match=message):
            restore(network, optimizer, files, "a test")
        assert training_state(network, optimizer) == before


def test_random_states_go_on():
    random.gauss(0, 1), np.random.standard_normal(1)  # both keep a second number for the next call
    states = random_states(CPU)

    def drawn():
        return random.random(), random.gauss(0, 1), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()

    first, second = drawn(), drawn()
    assert first != second
    restore_random_states(states, CPU)
    assert random_states(CPU) == states and drawn() == first


def test_weights_are_found_in_files_checkpoints_and_runs(tmp_path):
    recipe = tiny_recipe(epochs=1)
    network = network_for(recipe)
    train(network, objective_for(recipe), walkers(), recipe, tmp_path, progress=False)
    (checkpoint,) = checkpoints(tmp_path / "checkpoints")
    for place in (tmp_path, checkpoint, str(checkpoint / WEIGHTS)):
        other = find_network(recipe.model, weights=place, num_classes=4).network
        torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
        other = create_model(recipe.model, num_classes=4, pretrained=place)
        torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
    with pytest.warns(UserWarning, match="is for 4 classes, wanted 5: it is left out"):
        other = find_network(recipe.model, weights=tmp_path, num_classes=5).network
    assert torch.equal(other.head.neck.weight, network.head.neck.weight)
    for wrong in (tmp_path / "best", tmp_path / "log.jsonl", tmp_path / "nothing"):
        with pytest.raises(ValueError, match=wrong.name):
            read_weights(wrong)
    (checkpoint / WEIGHTS).write_bytes((checkpoint / WEIGHTS).read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"is damaged: weights.safetensors is not what was written"):
        find_network(recipe.model, weights=tmp_path, num_classes=4)


def test_ste_nvan_starts_from_nvan(tmp_path):
    nvan = create_model("nvan_resnet8", num_classes=4)
    (tmp_path / "nvan.safetensors").write_bytes(pack(nvan.state_dict()))
    found = find_network("ste_nvan_resnet8", weights=tmp_path / "nvan.safetensors", num_classes=4)
    torch.testing.assert_close(found.network.state_dict(), nvan.state_dict(), rtol=0, atol=0)


def dropout_run(folder, fatal=0):
    """A run in which workers read and random numbers are drawn; it kills its process in a step."""
    recipe, calls = tiny_recipe(model=network_with_dropout, save_every=2, workers=2, epochs=3, evaluate_every=1), 0
    network, objective = network_for(recipe), objective_for(recipe)

    def asked(output, labels):
        nonlocal calls
        calls += 1
        if calls == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return objective(output, labels)

    train(network, asked, walkers(), recipe, folder, evaluate=lambda network: {"one": 1.0}, progress=False)


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1], "training"))]
import test_resume
test_resume.dropout_run(sys.argv[2], int(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_with_workers_and_started_again_a_run_ends_bit_for_bit_alike(tmp_path):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path / "b"), "6"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in checkpoints(tmp_path / "b" / "checkpoints")][-1] == "00000004"
    for name in "ab":
        dropout_run(tmp_path / name)
    a, b = (metadata_of(checkpoints(tmp_path / name / "checkpoints")[-1]) for name in "ab")
    assert a["sha256"] == b["sha256"] and a["position"] == b["position"]
    told = [
        [
            (line["step"], line.get("loss"))
            for line in read_log(tmp_path / name / "log.jsonl")
            if line["kind"] == "step"
        ]
        for name in "ab"
    ]
    assert told[0] == told[1] and [number for number, _ in told[0]] == list(range(1, len(told[0]) + 1))


def run(folder, data=None, classes=4, data_changed=False, **changes):
    recipe = tiny_recipe(**{"save_every": 1, "epochs": 1, **changes})
    network, objective, data = network_for(recipe, classes), objective_for(recipe), data or walkers()
    return network, train(network, objective, data, recipe, folder, progress=False, data_changed=data_changed)


def test_another_recipe_or_other_data_is_refused_and_nothing_touched(tmp_path):
    run(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for changes, message in (
        ({"lr": 0.5, "seed": 4}, "lr was 0.0003 and is 0.5, seed was 3 and is 4; use another folder"),
        ({"data": walkers(tracklets=3)}, "tracklets was .* and is"),
        ({"data": walkers(identities=5), "classes": 5}, "identities was 4 and is 5"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, **changes)
        assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_run_goes_on_with_other_data_if_its_owner_says_so(tmp_path):
    objective, calls = strf_loss(), []

    def stopped(output, labels):
        calls.append(labels)
        if len(calls) == 5:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(output, labels)

    recipe, fewer = tiny_recipe(milestones=()), walkers()[:-1]
    with pytest.raises(Stopped):
        train(network_for(recipe), stopped, walkers(), recipe, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"tracklets was .* and is .*; .* or set data_changed"):
        run(tmp_path, fewer, epochs=2, milestones=(), save_every=None)
    again = {"epochs": 2, "milestones": (), "save_every": None, "data_changed": True}
    with pytest.raises(ValueError, match="identities was 4 and is 3"):
        run(tmp_path, walkers(identities=3), classes=4, **again)
    run(tmp_path, fewer, **again)
    starts = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "start"]
    assert starts[-1]["data_before"] == starts[0]["data"] and starts[-1]["data"]["tracklets"] == 15
    steps = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    places = [(line["step"], line["epoch"], line["batch"]) for line in steps]
    assert places[3:6] == [(4, 1, 1), (5, 1, 2), (6, 1, 1)]  # the epoch is repeated from its beginning
    run(tmp_path, fewer, **again | {"data_changed": False})  # these are the data of the run now


def test_two_processes_do_not_share_a_folder(tmp_path):
    holder = (
        f"from pathlib import Path; from strfnet.system.files import lock; lock(Path({str(tmp_path / '.lock')!r}))"
    )
    waiting = "print('held', flush=True); input()"
    command = [sys.executable, "-c", f"{holder}; {waiting}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"another process works in {tmp_path}"):
            run(tmp_path)
        process.kill()
    run(tmp_path)
    run(tmp_path)


def test_a_finished_run_says_so_and_may_be_given_more_epochs(tmp_path):
    network, outcome = run(tmp_path)
    log = (tmp_path / "log.jsonl").read_bytes()
    other, again = run(tmp_path, workers=1, keep=3)
    assert again == outcome and (tmp_path / "log.jsonl").read_bytes() == log
    torch.testing.assert_close(other.state_dict(), network.state_dict(), rtol=0, atol=0)
    more = run(tmp_path, epochs=2)[0]
    whole = run(tmp_path / "whole", epochs=2)[0]
    torch.testing.assert_close(more.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_damaged_checkpoint_is_refused_with_its_name_and_the_one_before_it(tmp_path):
    _, outcome = run(tmp_path)
    before, last = checkpoints(tmp_path / "checkpoints")
    content = bytearray((last / OPTIMIZER).read_bytes())
    content[len(content) // 2] ^= 1
    (last / OPTIMIZER).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{last} is damaged: optimizer.*; {before} is undamaged: remove {last.name}"
    ):
        run(tmp_path)
    last.rename(tmp_path / "aside")
    assert run(tmp_path)[1] == outcome
    (*_, again) = checkpoints(tmp_path / "checkpoints")
    before = json.loads((tmp_path / "aside" / DESCRIPTION).read_text())["description"]
    assert metadata_of(again)["sha256"] == before["sha256"]


def test_a_log_is_cut_back_to_the_checkpoint_and_never_torn(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write("step", 1, {"loss": 0.5, "bad": float("nan"), "name": "日本"})
    size = log.sync()
    log.write("step", 2, {"loss": 0.25})
    log.close()
    assert read_log(path)[0] == {"kind": "step", "step": 1, "loss": 0.5, "bad": None, "name": "日本"}
    path.write_bytes(path.read_bytes() + b'{"kind": "st')
    Log(path, size=size, step=1).write("step", 2, {"loss": 0.125})
    assert [line["loss"] for line in read_log(path)] == [0.5, 0.125]
    nothing = Log(None)
    nothing.write("step", 1, {})
    assert nothing.sync() == 0
