"""Named networks are compiled in one graph and exported, for any batch and any number of frames."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from strategies import wake
from sweeps import sweep
from torch.export import Dim

import strfnet
from strfnet.models.registry import ARCHITECTURES

NAMES = ["ste_nvan_resnet8", "ap3d_nl_resnet8"]  # with strf_p3dc_resnet8 they hold every kind of unit
NAMES = sweep([*NAMES, *(form.format("resnet18") for form in ARCHITECTURES)], quick=1)


def woken(name):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(name, num_classes=3)).eval()
    return network.requires_grad_(False)


def clip(b, t, name):
    size = (64, 32) if "resnet8" in name else (256, 16)
    return torch.randn(b, 3, t, *size, generator=torch.Generator().manual_seed(b * t))


def assert_equal(output, expected):
    assert (output.embedding - expected.embedding).abs().max() <= 1e-4 * expected.embedding.abs().max()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_is_compiled_in_one_graph_for_any_batch_and_frames(name):
    network = woken(name)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
    for b, t in ((2, 8), (3, 6)):
        assert_equal(compiled(clip(b, t, name)), network(clip(b, t, name)))


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", *NAMES])
def test_a_network_is_exported_for_any_batch_and_frames(name):
    network = woken(name)
    # Merging pairs twice leaves (t + 3) // 4 frames, and an exported axis must be longer than one.
    frames = Dim("frames", min=5 if "nvan_temporal" in name or "ste_nvan" in name else 2)
    shapes = ({0: Dim("batch"), 2: frames},)
    program = torch.export.export(network, (clip(2, 8, name),), dynamic_shapes=shapes).module()
    for b, t in ((2, 8), (3, 5), (1, 7)):
        assert_equal(program(clip(b, t, name)), network(clip(b, t, name)))


FRESH = f"""
import sys

sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from strategies import wake
import torch, strfnet

torch.manual_seed(0)
network = wake(strfnet.create_model("strf_p3dc_resnet8", num_classes=None)).eval().requires_grad_(False)
compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
for b, t in ((2, 4), (3, 6)):
    clip = torch.randn(b, 3, t, 64, 32)
    torch.testing.assert_close(compiled(clip).embedding, network(clip).embedding, rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_a_network_is_compiled_before_anything_else_has_run():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
