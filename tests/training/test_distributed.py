"""Training on two ranks equals training in one process with the batches of both."""

import json
import subprocess
import sys

import on_two_ranks
import pytest
import torch
import two_ranks
from tiny_runs import checkpoints, metadata_of, network_for, objective_for, tiny_recipe
from torch import nn

from strfnet import STRF, splice
from strfnet.system.compat import BatchNorm
from strfnet.training.distributed import HostSyncBatchNorm, gather_bytes, gather_rows, join, synchronize_batchnorm
from strfnet.training.log import read_log
from strfnet.weights.file import read_weights


def on_both_ranks(task, folder):
    command = [sys.executable, two_ranks.__file__, on_two_ranks.__file__, task, folder]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files that both ranks write in their tasks; tests only read them."""
    folder = tmp_path_factory.mktemp("ranks")
    done = on_both_ranks("once", folder)
    assert done.returncode == 0, done.stderr
    assert "Grad strides" not in done.stderr
    return folder


def test_ragged_batches_give_loss_and_gradient_of_the_joined_batch(folder):
    maps, labels, head = on_two_ranks.example()
    maps.requires_grad_()
    output = head(maps)
    loss = objective_for(tiny_recipe(smoothing=0.1))(output, labels)
    loss.total.backward()
    expected = {
        "loss": loss.total.detach(),
        "embedding": output.embedding.detach(),
        "rows": maps.grad,
        **{name: parameter.grad for name, parameter in head.named_parameters()},
        **{f"buffer.{name}": buffer for name, buffer in head.named_buffers()},
    }
    for rank in range(2):
        torch.testing.assert_close(torch.load(folder / f"arithmetic{rank}.pt"), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", on_two_ranks.EQUAL)
def test_losses_weights_and_metrics_of_every_step_are_those_of_one_process(tmp_path, folder, name, monkeypatch):
    monkeypatch.setattr(on_two_ranks, "EQUAL", {name: on_two_ranks.EQUAL[name]})
    on_two_ranks.equal(tmp_path, 1)
    one, two = (read_log(place / name / "log.jsonl") for place in (tmp_path, folder))
    assert [(line["kind"], line["step"]) for line in one] == [(line["kind"], line["step"]) for line in two]
    assert [line["step"] for line in two if line["kind"] == "step"] == list(range(1, two[-1]["step"] + 1))
    for mine, theirs in zip(one, two, strict=True):
        for fact in ("loss", "identity_loss", "triplet_loss", "gradient_norm", "learning_rate", "figure"):
            assert mine.get(fact, 0) == pytest.approx(theirs.get(fact, 0), rel=0, abs=1e-9), mine["step"]
    torch.testing.assert_close(
        read_weights(tmp_path / name).tensors, read_weights(folder / name).tensors, rtol=0, atol=1e-9
    )


@pytest.mark.slow
def test_killed_stopped_and_started_again_two_ranks_end_bit_for_bit_alike(folder):
    broken = folder / "broken"
    killed = on_both_ranks("1", folder)
    assert killed.returncode == 1
    for attempt in ("2", "3"):  # the signal comes to one of them only; in attempt 3 it waits for a frame
        stopped = on_both_ranks(attempt, folder)
        assert stopped.returncode == 1
        for rank in range(2):
            file = broken / f"stopped{rank}.json"
            assert json.loads(file.read_text()) == [143, "SIGTERM"], stopped.stderr
            file.unlink()
        saved = broken / "checkpoints" / "00000007"
        assert f"stopped by SIGTERM after step 7, saved in {saved}" in stopped.stderr
    done = on_both_ranks("4", folder)
    assert done.returncode == 0, done.stderr
    digests = [
        metadata_of(checkpoints(place / "checkpoints")[-1])["sha256"] for place in (broken, folder / "unbroken")
    ]
    assert digests[0] == digests[1]
    assert set(digests[0]) >= {"random0.safetensors", "random1.safetensors"}
    (first, second) = (
        [(line["kind"], line["step"], line.get("loss"), line.get("figure")) for line in read_log(place / "log.jsonl")]
        for place in (broken, folder / "unbroken")
    )
    told = [line for line in first if line[0] not in ("start", "stop") and line[:2] != ("save", 7)]
    assert told == [line for line in second if line[0] != "start"]


def test_one_process_says_nothing_to_anybody():
    rows = torch.ones(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows and gather_bytes(b"x", torch.device("cpu")) == [b"x"]
    output = network_for(tiny_recipe())(torch.rand(2, 3, 2, 64, 32))
    labels = torch.tensor([0, 1])
    joined = join(output, labels, signal=2)
    assert joined.output is output and joined.labels is labels and joined.signal == 2


def test_synchronised_norms_keep_weights_keys_and_answers():
    recipe = tiny_recipe(model="strf_p3dc_resnet8")
    network, clip = network_for(recipe), torch.rand(3, 3, 4, 64, 32)
    network.head.neck.bias.requires_grad_(False)
    keys, same = list(network.state_dict()), network_for(recipe)
    converted = synchronize_batchnorm(network, torch.device("cpu"))
    assert converted is network and list(converted.state_dict()) == keys
    norms = [module for module in converted.modules() if isinstance(module, BatchNorm)]
    assert norms and all(type(norm) is HostSyncBatchNorm for norm in norms)
    assert not converted.head.neck.bias.requires_grad and converted.head.neck.weight.requires_grad
    for train in (True, False):
        ours, theirs = converted.train(train)(clip), same.train(train)(clip)
        torch.testing.assert_close(ours.embedding, theirs.embedding, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(converted.state_dict(), same.state_dict())


def test_on_a_gpu_the_norms_are_torchs():
    norm = synchronize_batchnorm(nn.BatchNorm2d(3), torch.device("cuda"))
    assert type(norm) is nn.SyncBatchNorm
    with pytest.raises(ValueError, match=r"input must be \(n, c, ...\), got \(3,\)"):
        synchronize_batchnorm(nn.BatchNorm1d(3), torch.device("cpu"))(torch.ones(3))


def test_a_norm_with_a_unit_behind_it_is_refused():
    network = splice(network_for(tiny_recipe(model="c2d_resnet8")), {"backbone.layer2.0.bn2": STRF(32, reduction=4)})
    with pytest.raises(
        ValueError,
        match=r"batch norm backbone.layer2.0.bn2 has a unit behind it: call synchronize_batchnorm before splice",
    ):
        synchronize_batchnorm(network, torch.device("cpu"))
