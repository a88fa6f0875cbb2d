"""The loop: what a run leaves behind, how it stops, and what it refuses."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sweeps import sweep
from tiny_runs import (
    TINY,
    checkpoints,
    metadata_of,
    network_for,
    network_with_dropout,
    network_with_stripes,
    objective_for,
    tiny_recipe,
    walkers,
)

from strfnet import create_model, list_models
from strfnet.data.identities import identity_batches
from strfnet.data.loader import TrainingClips, draws, load
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation
from strfnet.losses import CenterLoss, ReIDLoss
from strfnet.losses.objective import Objective, strf_loss
from strfnet.system.signals import Stopped
from strfnet.training.log import read_log
from strfnet.training.loop import Diverged
from strfnet.training.trainer import identity_labels, train
from strfnet.weights.file import read_weights


def run(folder, network=None, objective=None, evaluate=None, data=None, progress=False, **changes):
    recipe = tiny_recipe(**changes)
    network = network or network_for(recipe)
    objective = objective or objective_for(recipe)
    return train(network, objective, data or walkers(), recipe, folder, evaluate=evaluate, progress=progress)


def lines(folder, kind):
    return [line for line in read_log(folder / "log.jsonl") if line["kind"] == kind]


@pytest.mark.parametrize("loss", ["strf", "nvan"])
def test_the_run_is_the_loop_written_by_hand(tmp_path, loss):
    changes = {"accumulate": 2, "clip_gradients": 1.0, "loss": loss, "erasing": 1.0, "batches": "every_identity"}
    recipe = tiny_recipe(**changes, schedule="cosine")
    network, tracklets = network_for(recipe), walkers()
    labels = [int(item.identity[-1]) for item in tracklets]
    optimizer = torch.optim.Adam(network.parameters(), lr=1, weight_decay=recipe.weight_decay, fused=True)
    form = {"frames": 2, "sampling": "strided", "stride": 2, "size": (64, 32)}
    clips = TrainingClips(tracklets, labels, seed=3, augmentation=Augmentation(flip=0.5, erasing=1.0), **form)
    told = []
    for epoch in range(2):
        batches = identity_batches(labels, identities=2, tracklets=2, form="every_identity", seed=3, epoch=epoch)
        assert len(batches) == 2  # one step of two batches
        loader = iter(load(clips, draws(batches, epoch)))
        optimizer.param_groups[0]["lr"] = recipe.lr * (1 + math.cos(math.pi * epoch / 2)) / 2
        optimizer.zero_grad()
        losses = []
        for batch in loader:
            losses.append(objective_for(recipe)(network(batch.clips), batch.labels).total)
            (losses[-1] / 2).backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        told.append((sum(losses).item() / 2, norm.item()))
    run(tmp_path, schedule="cosine", **changes)
    steps = lines(tmp_path, "step")
    assert [(line["loss"], line["gradient_norm"]) for line in steps] == [pytest.approx(pair) for pair in told]
    torch.testing.assert_close(read_weights(tmp_path).tensors, dict(network.state_dict()), rtol=0, atol=1e-7)


def test_what_a_run_leaves(tmp_path):
    figures = iter([0.25, 0.75, 0.5])
    changes = {"epochs": 5, "evaluate_every": 2, "batches": "every_identity"}
    outcome = run(tmp_path, evaluate=lambda network: {"mAP": next(figures), "rank 1": 1}, **changes)
    steps = lines(tmp_path, "step")
    assert [line["step"] for line in steps] == list(range(1, outcome.step + 1))
    assert [line["epoch"] for line in steps] == sorted(line["epoch"] for line in steps)
    assert all(
        set(line) >= {"loss", "identity_loss", "triplet_loss", "learning_rate", "images_per_second"} for line in steps
    )
    evaluated = [(line["epoch"], line["mAP"]) for line in lines(tmp_path, "evaluation")]
    assert evaluated == [(2, 0.25), (4, 0.75), (5, 0.5)]
    assert (outcome.epoch, outcome.metrics, outcome.best) == (5, {"mAP": 0.5, "rank 1": 1.0}, 0.75)
    assert outcome.best_step == max(line["step"] for line in steps if line["epoch"] == 3)
    text = str(outcome)
    assert f"result, after the last epoch (5, step {outcome.step}): mAP 0.5, rank 1 1" in text
    assert f"the best mAP was 0.75 after step {outcome.best_step}; selected on the test data" in text
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["figures"] == outcome.metrics and written["step"] == outcome.step
    # The older of the two checkpoints still knows the first of the best.
    assert [path.name for path in checkpoints(tmp_path / "best")] == ["00000004", f"{outcome.best_step:08d}"]
    best = metadata_of(checkpoints(tmp_path / "best")[-1])
    assert best["figures"] == {"mAP": 0.75, "rank 1": 1.0} and best["classes"] == 4
    assert best["recipe"]["model"] == "strf_c2d_resnet8"
    assert len(checkpoints(tmp_path / "checkpoints")) == 2 and not list(tmp_path.rglob("*.part"))


def test_evaluating_changes_no_weight_and_may_do_as_it_likes(tmp_path):
    def evaluate(network):
        torch.rand(3), np.random.rand(3), network.eval()
        return {"figure": math.nan}

    def model():
        torch.manual_seed(tiny_recipe().seed)
        return network_with_dropout(4)

    named = {"model": network_with_dropout, "epochs": 3}
    outcome = run(tmp_path / "a", network=model(), evaluate=evaluate, evaluate_every=1, **named)
    assert outcome.best is None and not checkpoints(tmp_path / "a" / "best")
    assert run(tmp_path / "b", network=model(), **named).metrics == {}
    assert (
        metadata_of(checkpoints(tmp_path / "a" / "checkpoints")[-1])["sha256"]
        == (metadata_of(checkpoints(tmp_path / "b" / "checkpoints")[-1])["sha256"])
    )


def test_a_steps_limit_makes_short_epochs(tmp_path):
    assert run(tmp_path, steps_per_epoch=1, epochs=3, accumulate=2, batches="every_identity").step == 3
    assert [line["batch"] for line in lines(tmp_path, "step")] == [2, 2, 2]


def test_progress_has_a_total_a_speed_the_time_left_and_the_loss(tmp_path, capfd):
    steps = run(tmp_path, progress=True, batches="every_identity").step
    *_, last = capfd.readouterr().err.splitlines()
    number = r"[\d.]+"
    assert re.fullmatch(
        rf"{steps} of {steps} batches trained, {number} batches/s, {number} images/s, 0 s left, loss {number}", last
    )


def test_tensorboard_files_by_option(tmp_path):
    run(tmp_path, tensorboard=True, epochs=1, steps_per_epoch=1)
    assert list((tmp_path / "tensorboard").glob("events.*"))


@pytest.mark.parametrize("wrong", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_with_step_and_tracklets(tmp_path, wrong):
    calls, objective = 0, strf_loss()

    def failing(output, labels):
        nonlocal calls
        calls += 1
        loss = objective(output, labels)
        if calls < 3:
            return loss
        if wrong == "loss":
            return Objective(loss.total * math.nan, loss.identity, loss.triplet)
        return Objective(loss.total + (output.feature.sum() * 0).sqrt(), loss.identity, loss.triplet)

    network = network_for(tiny_recipe())
    with pytest.raises(Diverged) as error:
        run(tmp_path, network=network, objective=failing, save_every=2)
    labels = identity_labels(walkers())
    rows = identity_batches(labels, identities=2, tracklets=2, form="groups", seed=3, epoch=0)[2]
    last = tmp_path / "checkpoints" / "00000002"
    assert f"the {wrong} is nan in step 3, of the rows {rows} (memory, identity walker{labels[rows[0]]}" in str(
        error.value
    )
    assert f"the last checkpoint is {last}" in str(error.value)
    (told,) = lines(tmp_path, "stop")
    assert told["rows"] == rows and len(told["tracklets"]) == 4 and told["step"] == 3
    kept = read_weights(last).tensors
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, kept[name]), name
    assert all(tensor.isfinite().all() for tensor in read_weights(last).tensors.values())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_lets_the_step_finish_saves_and_leaves_with_its_code(tmp_path, capsys, number, code):
    calls, objective, handler = 0, strf_loss(), signal.getsignal(number)

    def asked(output, labels):
        nonlocal calls
        calls += 1
        if calls == 2:
            os.kill(os.getpid(), number)
        return objective(output, labels)

    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, objective=asked)
    assert isinstance(stopped.value, Stopped) and stopped.value.code == code
    assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["00000002"]
    first, last = capsys.readouterr().err.splitlines()
    assert first == "strfnet: stopping after this step"
    assert f"stopped by {number.name} after step 2, saved in {tmp_path}" in last
    assert lines(tmp_path, "stop")[0]["signal"] == number.name
    assert signal.getsignal(number) == handler
    whole = run(tmp_path / "whole")
    assert run(tmp_path).step == whole.step
    assert (
        metadata_of(checkpoints(tmp_path / "checkpoints")[-1])["sha256"]
        == (metadata_of(checkpoints(tmp_path / "whole" / "checkpoints")[-1])["sha256"])
    )


def test_a_signal_in_an_evaluation_leaves_at_once_and_is_evaluated_again(tmp_path):
    def evaluate(network):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        raise AssertionError("still here")

    with pytest.raises(Stopped):
        run(tmp_path, evaluate=evaluate)
    assert run(tmp_path, evaluate=lambda network: {"mAP": 1.0}).metrics == {"mAP": 1.0}


SECOND = """
import signal, sys, time
sys.path.insert(0, sys.argv[1])
import tiny_runs
from strfnet.training.trainer import train

def slow(output, labels):
    print("in a step", flush=True)
    for _ in range(1200):  # in naps, as a signal that comes just before one is heard after it
        if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
            print("heard the first", flush=True)
        time.sleep(0.05)

recipe = tiny_runs.tiny_recipe(workers=1)
train(tiny_runs.network_for(recipe), slow, tiny_runs.walkers(), recipe, sys.argv[2], progress=False)
"""


def test_a_second_sigint_ends_the_process_at_once(tmp_path):
    place = os.path.dirname(os.path.dirname(__file__))
    command = [sys.executable, "-c", SECOND, place, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "in a step\n"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it, to workers too
        for _ in range(3):
            assert process.stdout.readline() == "heard the first\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    finally:
        process.kill()


NOTEBOOK = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
sys.ps1 = "In : "  # as IPython does in its kernel, which has no terminal
import tiny_runs
from strfnet.training.trainer import train

def interrupted(output, labels):
    os.kill(os.getpid(), signal.SIGINT)  # the handler prints
    print("the step goes on", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGINT)
    raise AssertionError("the second was not heard")

recipe = tiny_runs.tiny_recipe()
try:
    train(tiny_runs.network_for(recipe), interrupted, tiny_runs.walkers(), recipe, sys.argv[2], progress=False)
except KeyboardInterrupt:
    print("the kernel lives", file=sys.stderr)
assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
"""


def test_in_a_notebook_the_first_interrupt_says_so_at_once_and_the_second_leaves_the_kernel_alive(tmp_path):
    place = os.path.dirname(os.path.dirname(__file__))
    done = subprocess.run([sys.executable, "-c", NOTEBOOK, place, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == ["strfnet: stopping after this step", "the step goes on", "the kernel lives"]


def test_bfloat16_trains_and_leaves_float32_weights(tmp_path):
    network = network_for(tiny_recipe())
    seen = []
    network.backbone.register_forward_hook(lambda module, clips, maps: seen.append(maps.dtype))
    forward = network.forward
    run(tmp_path, network=network, precision="bf16")
    assert set(seen) == {torch.bfloat16}
    assert {tensor.dtype for tensor in read_weights(tmp_path).tensors.values()} == {torch.float32, torch.int64}
    assert network.forward == forward and network.eval()(torch.rand(1, 3, 2, 64, 32)).embedding.dtype == torch.float32
    assert all(math.isfinite(line["loss"]) for line in lines(tmp_path, "step"))


def test_fp16_on_the_cpu_is_refused_before_anything_is_there(tmp_path):
    with pytest.raises(ValueError, match="fp16 needs a GPU"):
        run(tmp_path / "run", precision="fp16")
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the network has logits of 3 identities, wanted at least 4"):
        run(tmp_path, network=create_model(TINY["model"], num_classes=3))
    with pytest.raises(ValueError, match="no tracklets to train on"):
        train(network_for(tiny_recipe()), strf_loss(), [], tiny_recipe(), tmp_path)
    few = [*walkers(identities=1, cameras=4), *walkers(identities=2, cameras=1)[2:]]
    labels, form = identity_labels(few), {"identities": 2, "tracklets": 2, "form": "groups", "epoch": 0}
    seed = next(seed for seed in range(99) if not identity_batches(labels, seed=seed, **form))
    with pytest.raises(ValueError, match="10 tracklets make no batch of 4, wanted fewer"):
        run(tmp_path, data=few, epochs=1, seed=seed)
    alone = [Tracklet(item.frames, "one") for item in walkers()]
    with pytest.raises(ValueError, match="identities is 2, wanted 1 to 1"):
        run(tmp_path, data=alone)


def test_labels_are_places_in_sorted_order_numbers_first():
    def of(*identities):
        frames = (np.zeros((2, 2, 3), np.uint8),)
        return identity_labels([Tracklet(frames, identity) for identity in identities])

    assert of(7, 1, 7, 10) == [1, 0, 1, 2] and of("b", "a", "b") == [1, 0, 1] and of("a", 3) == [1, 0]


@pytest.mark.parametrize("name", sweep([name for name in list_models() if name.endswith("resnet8")], quick=8))
def test_every_parameter_of_every_network_has_a_gradient(name):
    """Else DistributedDataParallel would wait for it."""
    network = create_model(name, num_classes=2)
    for loss in ("strf", "nvan"):
        output = network(torch.rand(4, 3, 4, 64, 32))
        objective_for(tiny_recipe(loss=loss))(output, torch.tensor([0, 0, 1, 1])).total.backward()
        missing = [name for name, one in network.named_parameters() if one.requires_grad and one.grad is None]
        assert not missing
        network.zero_grad()


def test_one_gpu_is_not_given_to_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("strfnet.training.recipe.Recipe.check_device", lambda self: None)
    with pytest.raises(ValueError, match="device 'cuda:1' is one GPU for several processes, wanted cuda"):
        run(tmp_path, device="cuda:1")


def test_a_head_of_four_stripes_trains_by_a_recipe(tmp_path):
    network = network_for(tiny_recipe(model=network_with_stripes))
    before = {key: value.clone() for key, value in network.head.state_dict().items()}
    clip = torch.zeros(2, 3, 2, 64, 32)
    width = {"evaluate": lambda net: {"width": net(clip).embedding.shape[1]}}
    outcome = run(tmp_path, network=network, model=network_with_stripes, **width)
    assert outcome.metrics == {"width": 256}
    after = read_weights(tmp_path).tensors
    changed = [key for key, value in before.items() if not torch.equal(after[f"head.{key}"], value)]
    assert {"pooler.p", "neck.weight", *(f"classifier.{part}.weight" for part in range(4))} <= set(changed)


def test_an_objective_with_weights_is_refused(tmp_path):
    objective = ReIDLoss(CenterLoss(4, 64), mined_on="feature")
    with pytest.raises(ValueError, match="the objective has weights, and the optimizer trains those of the network"):
        run(tmp_path, objective=objective)
