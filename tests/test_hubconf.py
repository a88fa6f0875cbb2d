"""The repository as torch.hub sees it."""

from pathlib import Path

import torch

import strfnet
from strfnet.models.checkpoints import save

ROOT = str(Path(__file__).parents[1])


def test_the_hub_makes_networks_by_name(tmp_path):
    network = torch.hub.load(ROOT, "strfnet", source="local", name="nvan_resnet8", num_classes=3)
    assert network.name == "nvan_resnet8" and network.head.classifier.out_features == 3
    save(network, tmp_path / "network.safetensors")
    again = torch.hub.load(
        ROOT, "strfnet", "nvan_resnet8", source="local", num_classes=3, pretrained=tmp_path / "network.safetensors"
    )
    assert torch.equal(again.backbone.conv1.weight, network.backbone.conv1.weight)


def test_the_hub_lists_what_there_is():
    assert torch.hub.load(ROOT, "list_models", source="local") == strfnet.list_models()
