"""What a step asks of the machine: its flags, its threads, its reads, and the compiler."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from host_reads import HostReads
from tiny_runs import checkpoints, metadata_of, network_for, objective_for, tiny_recipe, walkers
from torch import nn
from torch.backends import cudnn
from torch.utils import deterministic

from strfnet.training import accelerator, loop
from strfnet.training.accelerator import deterministic_kernels, flushed_denormals, make_engine
from strfnet.training.log import read_log
from strfnet.training.optimization import make_optimizer
from strfnet.training.recipe import Recipe
from strfnet.training.trainer import train
from strfnet.weights.file import read_weights

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def run(folder, watch=None, **changes):
    recipe = tiny_recipe(**changes)
    network, objective = network_for(recipe), objective_for(recipe)

    def watched(output, labels):
        if watch is not None:
            watch()
        return objective(output, labels)

    train(network, watched, walkers(), recipe, folder, progress=False)
    return network


def flags():
    return {
        "strict": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": deterministic.fill_uninitialized_memory,
        "benchmark": cudnn.benchmark,
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
        "workspace": os.environ.get(CUBLAS),
    }


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_deterministic_runs_repeat_bit_for_bit_and_restore_every_flag(tmp_path, monkeypatch, workspace):
    if workspace is None:
        monkeypatch.delenv(CUBLAS, raising=False)
    else:
        monkeypatch.setenv(CUBLAS, workspace)
    monkeypatch.setattr(cudnn, "benchmark", True)
    before, inside = flags(), []
    changes = {"model": "nvan_resnet8", "frames": 4, "epochs": 1, "steps_per_epoch": 2}
    for name in "ab":
        run(tmp_path / name, watch=lambda: inside.append(flags()), **changes)
    wanted = {"strict": True, "fill": False, "benchmark": False, "cudnn attention": False}
    assert inside == [{**wanted, "workspace": workspace or ":4096:8"}] * 4
    assert flags() == before and before["benchmark"] and before["fill"] and not before["strict"]
    one, other = (metadata_of(checkpoints(tmp_path / name / "checkpoints")[-1])["sha256"] for name in "ab")
    assert one == other
    run(tmp_path / "c", watch=lambda: inside.append(flags()), **changes, deterministic=False)
    assert inside[-1] == before


def test_an_operation_without_a_deterministic_kernel_is_refused_and_flags_are_restored():
    before = flags()
    wanted = r"put_.*does not have a deterministic .*; set deterministic to false, or CUBLAS"
    with pytest.raises(ValueError, match=wanted), deterministic_kernels(tiny_recipe()):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
    assert flags() == before
    with pytest.raises(RuntimeError, match="other"), deterministic_kernels(tiny_recipe()):
        raise RuntimeError("other")


@pytest.mark.parametrize(("device", "said"), [("cpu", False), (None, True)])
def test_an_unset_setting_of_cublas_is_reported_for_gpus(monkeypatch, capsys, device, said):
    monkeypatch.delenv(CUBLAS, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with deterministic_kernels(tiny_recipe(device=device)):
        pass
    assert (f"{CUBLAS} is unset; deterministic training sets it to :4096:8" in capsys.readouterr().err) == said


class ScalingOnCpu(Accelerator):
    """Scales losses as under fp16, which Accelerate does on GPUs alone."""

    def __init__(self, **settings):
        super().__init__(**settings | {"mixed_precision": "bf16"})
        self.state._mixed_precision, self.scaler = "fp16", torch.amp.GradScaler("cpu", init_scale=2.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2, "clip_gradients": 1.0, "erasing": 0.5},
        {"optimizer": "sgd"},
        {"precision": "fp16", "clip_gradients": 1.0},
    ],
    ids=str,
)
def test_a_step_reads_one_vector_on_the_host_and_does_so_a_step_late(tmp_path, monkeypatch, changes):
    if changes.get("precision") == "fp16":
        monkeypatch.setattr(accelerator, "Accelerator", ScalingOnCpu)
        monkeypatch.setattr(Recipe, "check_device", lambda self: None)
    order, reads = [], HostReads()

    def quiet(*arguments, **options):  # decoding is the work of other processes
        batches = iter(load(*arguments, **options))
        while True:
            reads.paused = True
            batch = next(batches, None)
            reads.paused = False
            if batch is None:
                return
            order.append(len(reads.found))
            yield batch

    load = loop.load
    monkeypatch.setattr(loop, "load", quiet)

    def unread(method):
        def run(*arguments):
            reads.paused = True
            method(*arguments)
            reads.paused = False

        return run

    monkeypatch.setattr(loop.RunDirectory, "save", unread(loop.RunDirectory.save))
    checked = loop.TrainingLoop._check_weights  # before a checkpoint
    monkeypatch.setattr(loop.TrainingLoop, "_check_weights", unread(checked))
    recipe = tiny_recipe(epochs=1, steps_per_epoch=3, **changes)
    network = network_for(recipe)
    make = loop.TrainingLoop._epoch
    monkeypatch.setattr(loop.TrainingLoop, "_epoch", lambda self, line: _within(reads, make, self, line))
    train(network, objective_for(recipe), walkers(tracklets=6), recipe, tmp_path, progress=False)
    steps = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    assert reads.found == ["tolist"] * 3 and len(steps) == 3
    late = [max(batch // recipe.accumulate - 1, 0) for batch in range(len(order))]
    assert order == late, "a step was read before the next was computed"


def _within(reads, call, *arguments):
    with reads:
        return call(*arguments)


def test_no_step_changes_weights_after_one_that_is_not_finite(tmp_path):
    """The loss of a step is read after the next step, which is finite again."""
    recipe = tiny_recipe(save_every=2, optimizer="sgd")
    network, objective, calls = network_for(recipe), objective_for(recipe), []

    def once(output, labels):
        loss = objective(output, labels)
        calls.append(loss)
        return loss if len(calls) != 3 else loss._replace(total=loss.total * float("inf"))

    with pytest.raises(loop.Diverged, match="the loss is inf in step 3"):
        train(network, once, walkers(tracklets=6), recipe, tmp_path, progress=False)
    kept = read_weights(tmp_path / "checkpoints" / "00000002").tensors
    assert len(calls) == 4 and all(torch.equal(value, kept[name]) for name, value in network.named_parameters())


def test_an_optimizer_without_a_fused_kernel_skips_such_a_step_too(tmp_path, monkeypatch):
    monkeypatch.setattr("strfnet.training.optimization.FUSED", ())
    assert not make_optimizer(tiny_recipe(), nn.Linear(1, 1)).defaults["fused"]
    test_no_step_changes_weights_after_one_that_is_not_finite(tmp_path)


@pytest.mark.parametrize(("precision", "mixed"), [("fp32", "no"), ("bf16", "bf16")])
def test_no_loss_is_scaled_unless_the_recipe_says_fp16(monkeypatch, precision, mixed):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    engine = make_engine(nn.Linear(1, 1), tiny_recipe(precision=precision))
    assert engine.accelerator.mixed_precision == mixed and engine.accelerator.scaler is None


FLUSHED = """
import torch
from strfnet.training.accelerator import flushed_denormals

def kept():  # the share of numbers below the smallest normal one that two threads keep
    return ((torch.full((1 << 20,), 1.5e-38) * 0.5) != 0).double().mean().item()

torch.set_num_threads(2)
before = kept()
with flushed_denormals(torch.device("cuda")) as flushed:
    assert not flushed and kept() == before
with flushed_denormals(torch.device("cpu")) as flushed:
    assert flushed == (kept() == 0)
    print(flushed)
assert kept() == before == 1
"""


def test_every_thread_flushes_denormals_on_a_cpu_and_stops_afterwards():
    done = subprocess.run([sys.executable, "-c", FLUSHED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if torch.set_flush_denormal(False) and sys.platform == "linux":
        assert done.stdout == "True\n"


def test_a_run_says_whether_it_flushes_denormals(tmp_path):
    half = functools.partial(torch.mul, torch.tensor(1.5e-38), 0.5)
    inside = []
    run(tmp_path, watch=lambda: inside.append(half().item() == 0), epochs=1, steps_per_epoch=1)
    (line,) = (line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "start")
    assert inside == [line["denormals_flushed"]] and half() > 0
    with flushed_denormals(torch.device("cpu")) as flushed:
        assert flushed == line["denormals_flushed"]


def compiled_run(tmp_path, **changes):
    changes = {"epochs": 2, "steps_per_epoch": 1, "compile": True, **changes}
    whole = run(tmp_path / "whole", **changes)
    keys = list(network_for(tiny_recipe()).state_dict())
    assert sorted(read_weights(tmp_path / "whole").tensors) == sorted(keys) and list(whole.state_dict()) == keys
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", watch=stop, **changes)
    resumed = run(tmp_path / "resumed", **changes)
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)
    plain = run(tmp_path / "plain", **{**changes, "compile": False})
    torch.testing.assert_close(dict(plain.named_parameters()), dict(whole.named_parameters()), rtol=1e-2, atol=2e-3)


@pytest.mark.slow
def test_a_compiled_run_keeps_its_keys_and_resumes(tmp_path, monkeypatch):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph

    monkeypatch.setattr("strfnet.training.accelerator.lookup_inductor", lambda: backend)
    compiled_run(tmp_path)
    assert compiled


@pytest.mark.slow
def test_a_run_compiled_by_inductor_keeps_its_keys_and_resumes(tmp_path):
    compiled_run(tmp_path)
