"""Every named network is compiled in one graph and exported, with the batch and the frames left open."""

import subprocess
import sys

import pytest
import torch
from strategies import wake
from torch.export import Dim

import strfnet
from strfnet.models.registry import FORMS

QUICK = ("strf_p3dc_{}", "ste_nvan_{}", "ap3d_nl_{}")  # every kind of unit
every_form = pytest.mark.parametrize(
    "form", [form if form in QUICK else pytest.param(form, marks=pytest.mark.slow) for form in FORMS]
)


def woken(form):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(form.format("resnet8"), num_classes=3)).eval()
    return network.requires_grad_(False)


def clip(b, t):
    return torch.randn(b, 3, t, 64, 16, generator=torch.Generator().manual_seed(b * t))


def agree(answer, expected):
    assert (answer.embedding - expected.embedding).abs().max() <= 1e-4 * expected.embedding.abs().max()


@every_form
def test_a_network_is_compiled_in_one_graph_for_any_batch_and_frames(form):
    network = woken(form)
    torch._dynamo.reset()
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
    for b, t in ((2, 8), (3, 6)):
        agree(compiled(clip(b, t)), network(clip(b, t)))


@every_form
def test_a_network_is_exported_for_any_batch_and_frames(form):
    network = woken(form)
    # Merging pairs twice leaves (t + 3) // 4 frames, and an exported axis must be longer than one.
    frames = Dim("frames", min=5 if form in ("nvan_temporal_{}", "ste_nvan_{}") else 2)
    shapes = ({0: Dim("batch"), 2: frames},)
    program = torch.export.export(network, (clip(2, 8),), dynamic_shapes=shapes).module()
    for b, t in ((2, 8), (3, 5), (1, 7)):
        agree(program(clip(b, t)), network(clip(b, t)))


FRESH = """
import torch, strfnet
network = strfnet.create_model("strf_p3dc_resnet8", num_classes=None).eval().requires_grad_(False)
compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
for b, t in ((2, 4), (3, 6)):
    compiled(torch.randn(b, 3, t, 64, 32))
"""


def test_a_network_is_compiled_before_anything_else_has_run():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
