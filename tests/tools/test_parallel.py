"""Named networks as several devices run them: under DataParallel's replicas, and under FSDP2 on two processes."""

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_ranks
from strategies import normal, wake
from sweeps import sweep
from torch.nn.parallel import replicate

import strfnet

NAMES = ("strf_p3dc_resnet8", "i3d_resnet8", "ste_nvan_resnet8")


@pytest.mark.slow
def test_a_step_of_fsdp2_on_two_ranks_equals_that_of_one_process():
    script = Path(__file__).with_name("fsdp_on_two_ranks.py")
    run = subprocess.run([sys.executable, two_ranks.__file__, str(script), *NAMES], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    parts = re.findall(r"holds parts of (\d+) tensors", run.stdout)
    assert len(parts) == 2 * len(NAMES)
    assert min(map(int, parts)) > 20  # the ranks hold parts, not copies


@pytest.fixture
def copied(monkeypatch):
    """``replicate`` on the CPU: its copies are made by PyTorch's CUDA library alone."""

    def copies(tensors, devices, detach=False):
        return [[tensor.clone() for tensor in tensors] for _ in devices]

    monkeypatch.setattr(sys.modules["torch.nn.parallel.replicate"], "_broadcast_coalesced_reshape", copies)


@pytest.mark.parametrize(
    "name", sweep([*NAMES, *(n for n in strfnet.list_models() if "resnet8" in n and n not in NAMES)], quick=3)
)
def test_replicas_without_parameters_of_their_own_give_one_output_and_one_gradient(copied, name):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(name, num_classes=3)).eval().double()
    alone, clips = copy.deepcopy(network), normal(2, 3, 4, 64, 32)
    replicas = replicate(network, [0, 1])
    assert not any(list(replica.parameters()) for replica in replicas)
    features = torch.cat([replica(clip[None]).feature for replica, clip in zip(replicas, clips, strict=True)])
    expected = alone(clips).feature
    torch.testing.assert_close(features, expected)
    features.square().sum().backward(), expected.square().sum().backward()
    for (key, weight), other in zip(network.named_parameters(), alone.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), key
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad)
