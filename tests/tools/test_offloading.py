"""Accelerate keeps weights elsewhere until their layer runs."""

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from strategies import normal, wake
from torchvision.models import resnet18

import strfnet

CLIP = normal(2, 3, 3, 64, 32).float()
BUILDERS = {
    name: lambda name=name: strfnet.create_model(f"{name}_resnet8", num_classes=3)
    for name in ("strf_p3dc", "strf_i3d", "ap3d_nl", "ste_nvan")
} | {"inflated": lambda: strfnet.inflate(resnet18)}


def embedding(network):
    with torch.no_grad():
        output = network(CLIP)
    return output if isinstance(output, torch.Tensor) else output.embedding


@pytest.mark.parametrize("name", BUILDERS)
def test_offloaded_weights_give_the_same_output(name):
    torch.manual_seed(0)
    network = wake(BUILDERS[name]()).eval()
    expected = embedding(network)
    offloaded = cpu_offload(network, execution_device=torch.device("cpu"))
    assert all(parameter.is_meta for parameter in offloaded.parameters())
    assert torch.equal(embedding(offloaded), expected)


def test_a_device_map_with_the_disk_gives_the_same_output(tmp_path):
    torch.manual_seed(0)
    network = wake(BUILDERS["strf_p3dc"]()).eval()
    expected = embedding(network)
    network = dispatch_model(network, {"backbone": "disk", "head": "cpu"}, main_device="cpu", offload_dir=tmp_path)
    assert next(network.backbone.parameters()).is_meta
    assert torch.equal(embedding(network), expected)
