"""The processes that training/test_distributed.py starts on two ranks: `on_two_ranks.py TASK FOLDER`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from tiny_runs import network_for, network_with_dropout, objective_for, ragged_walkers, tiny_recipe, walkers

from strfnet.data import loader
from strfnet.data.frames import read_pixels
from strfnet.layers.head import Head, ReIDOutput
from strfnet.training.distributed import gather_bytes, gather_rows, join, share_buffers, synchronize_batchnorm
from strfnet.training.trainer import train

# In batches of 9 clips, one rank has 4 and the other 5.
RAGGED = {"batch": 9, "identities": 3, "tracklets": 3, "batches": "every_identity", "sync_batchnorm": True}
LONG = {"epochs": 20, "steps_per_epoch": 1, "milestones": (10,), "evaluate_every": 10}
EQUAL = {
    "strf": {**RAGGED, **LONG},
    "nvan": {
        **RAGGED,
        **LONG,
        "loss": "nvan",
        "model": "nvan_temporal_resnet8",
        "frames": 4,
        "identities": 4,
        "batch": 12,
        "schedule": "cosine",
        "warmup": 3,
        "clip_gradients": 1.0,
        "erasing": 0.5,
    },
    "ragged": {
        **RAGGED,
        "epochs": 3,
        "model": "strf_p3dc_resnet8",
        "frames": 6,
        "sampling": "strided_ragged",
        "erasing": 0.5,
    },
    "accumulated": {**RAGGED, "epochs": 3, "batches": "groups", "accumulate": 2, "workers": 1, "optimizer": "sgd"},
}
RESUMED = {**RAGGED, "batches": "groups", "save_every": 2, "evaluate_every": 1}


def example():
    """Returns feature maps, labels and a head, equal on every rank."""
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(7, 6, 2, 3, 1, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    torch.manual_seed(6)
    head = Head(6, 3, pooling="mean", stripes=3).double()
    return maps, labels, head


def arithmetic(folder, rank):
    """Saves loss, outputs and gradients of seven rows, of which rank 0 has two."""
    maps, labels, head = example()
    mine = slice(0, 2) if rank == 0 else slice(2, 7)
    head = synchronize_batchnorm(nn.Sequential(head), torch.device("cpu"))
    answering = nn.parallel.DistributedDataParallel(head)
    rows = maps[mine].clone().requires_grad_()
    joined = join(answering(rows), labels[mine], signal=rank * 15)
    loss = objective_for(tiny_recipe(smoothing=0.1))(joined.output, joined.labels)
    loss.total.backward()
    assert joined.labels.tolist() == labels.tolist() and joined.signal == 15
    torch.save(
        {
            "loss": loss.total.detach(),
            "embedding": joined.output.embedding.detach(),
            "rows": gather_rows(rows.grad) / 2,  # the ranks' losses are added
            **{name: parameter.grad for name, parameter in head[0].named_parameters()},
            **{f"buffer.{name}": buffer for name, buffer in head[0].named_buffers()},
        },
        folder / f"arithmetic{rank}.pt",
    )
    assert gather_bytes(b"abc"[: rank + 1], torch.device("cpu")) == [b"a", b"ab"]
    assert gather_bytes(b"" if rank else b"x", torch.device("cpu")) == [b"x", b""]
    assert gather_rows(torch.full((2 * rank, 1), rank)).tolist() == [[1], [1]]
    plain = nn.BatchNorm1d(2)
    plain.running_mean += rank
    share_buffers(plain)
    assert plain.running_mean.tolist() == [0, 0]
    try:
        join(ReIDOutput(rows, rows, None), labels[mine])
    except ValueError as error:
        assert "no logits" in str(error)


def equal(folder, ranks):
    for name, changes in EQUAL.items():
        recipe = tiny_recipe(**changes)
        network = network_for(recipe).double()
        data = ragged_walkers() if recipe.ragged else walkers()
        train(network, objective_for(recipe), data, recipe, folder / name, evaluate=figure, progress=False)


def figure(network):
    """Returns a metric that depends on the running statistics of batch norms."""
    assert not any(module.training for module in network.eval().modules())
    torch.manual_seed(torch.initial_seed() + 7)  # evaluation may reseed
    with torch.no_grad():
        return {"figure": float(network(torch.ones(1, 3, 4, 64, 32, dtype=torch.float64)).embedding.square().mean())}


def resumed(folder, attempt):
    """Trains; attempt 1 kills rank 1 in step 4, attempt 2 sends SIGTERM to rank 0 in step 7.

    In attempt 3 rank 1 waits for a frame of step 8 that never comes, and receives SIGTERM. An epoch has five steps;
    every second step is saved.
    """
    recipe, calls = tiny_recipe(model=network_with_dropout, **RESUMED), 0
    network = network_for(recipe).double()
    objective = objective_for(recipe)

    def interrupted(output, labels):
        nonlocal calls
        calls += 1
        if (attempt, rank, calls) == (1, 1, 4):
            os.kill(os.getpid(), signal.SIGKILL)
        if (attempt, rank, calls) == (2, 0, 5):  # it resumes after step 2
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(output, labels)

    frames = 0

    def stalled(*args, **settings):
        nonlocal frames
        frames += 1
        if (attempt, rank, frames) == (3, 1, 4):  # the first call checks the settings
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
            raise AssertionError("the frame came")
        return read_pixels(*args, **settings)

    loader.read_pixels = stalled
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it when the other rank has left
    try:
        train(network, interrupted, walkers(tracklets=6), recipe, folder, evaluate=figure, progress=False)
    except SystemExit as stopped:
        (folder / f"stopped{rank}.json").write_text(json.dumps([stopped.code, stopped.name]))
        raise


if __name__ == "__main__":
    task, folder = sys.argv[1], Path(sys.argv[2])
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if task == "once":
        arithmetic(folder, rank)
        equal(folder, 2)
        resumed(folder / "unbroken", attempt=0)
    else:
        resumed(folder / "broken", attempt=int(task))
    dist.destroy_process_group()
