"""Memory of activations from shapes alone, beside what a pass on values keeps and allocates."""

import gc
import re

import pytest
import torch
from sweeps import sweep
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

import strfnet
from strfnet.profiler import activation_memory, profile
from strfnet.profiler.memory import LiveBytes


def measured(network, *inputs, **keywords):
    """Bytes kept for the backward pass, and the most bytes at one time without gradients, of a pass on values."""
    own = {t.untyped_storage().data_ptr() for t in [*network.parameters(), *network.buffers(), *inputs]}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.train()(*inputs, **keywords)
    del output
    gc.collect()
    known = {t.untyped_storage()._cdata for t in [*network.parameters(), *network.buffers(), *inputs]}
    with torch.no_grad(), LiveBytes(known) as live:
        network.eval()(*inputs, **keywords)
    return sum(kept.values()), live.peak


@pytest.mark.parametrize(
    "name", sweep(["strf_p3dc_resnet8", "ste_nvan_resnet8", "nvan_resnet8", "ap3d_nl_resnet8"], quick=1)
)
def test_memory_is_that_of_a_pass_on_values(name):
    torch.manual_seed(0)
    network = strfnet.create_model(name, num_classes=5)
    predicted = activation_memory(network, (2, 3, 3, 64, 32))
    training, inference = measured(network, torch.randn(2, 3, 3, 64, 32))
    assert abs(predicted.training / training - 1) < 0.05 and abs(predicted.inference / inference - 1) < 0.05
    with torch.device("meta"):
        assert activation_memory(strfnet.create_model(name, num_classes=5), (2, 3, 3, 64, 32)) == predicted


def test_memory_written_by_hand():
    network = nn.Sequential(nn.Linear(4, 100), nn.Sigmoid(), nn.Linear(100, 2), nn.ReLU())
    found = activation_memory(network, (3, 4))
    assert found.training == 4 * (300 + 6)  # the sigmoid, which the next layer keeps too, and the ReLU
    assert found.inference == 4 * 600  # the first layer's output and its sigmoid
    assert re.match(r"activations: 0\.0 MiB in training, 0\.0 MiB in inference", str(found))


class Cameras(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.camera = nn.Linear(4, 8, bias=False), nn.Embedding(3, 8)

    def forward(self, x, camera, *, scale=None, factor=1):
        out = factor * (self.linear(x) + self.camera(camera))
        return out if scale is None else out @ scale


def test_second_and_keyword_inputs_are_passed_on():
    camera, scale = torch.tensor([0, 2]), torch.ones(8, 5)
    plain = profile(Cameras(), (2, 4), camera)
    assert plain.macs == 2 * 4 * 8
    assert profile(Cameras(), (2, 4), camera, scale=scale, factor=2).macs == 2 * 4 * 8 + 2 * 8 * 5
    by_name = profile(Cameras(), None, x=torch.zeros(2, 4), camera=camera)
    assert by_name.macs == plain.macs and by_name.clip_shape == (2, 4)
    memory = activation_memory(Cameras(), (2, 4), camera, scale=scale)
    assert memory == activation_memory(Cameras(), None, x=torch.zeros(2, 4), camera=camera, scale=scale)
    lengths = torch.tensor([3, 1])
    network = strfnet.create_model("ste_nvan_resnet8", num_classes=None)
    assert profile(network, (2, 3, 4, 64, 32), lengths=lengths).macs == profile(network, (2, 3, 4, 64, 32)).macs
    assert not profile(network, (2, 3, 4, 64, 32), lengths).uncounted
