"""A network kept in the form of the Hugging Face hub, without a network connection."""

import os

import torch
from strategies import wake

import strfnet


def test_a_network_goes_into_a_folder_and_comes_back(tmp_path):
    from strfnet.models.hub import HubNetwork

    network = wake(strfnet.create_model("ste_nvan_resnet8", num_classes=3))
    HubNetwork(network).save_pretrained(tmp_path / "model")
    assert "network.safetensors" in os.listdir(tmp_path / "model")
    again = HubNetwork.from_pretrained(str(tmp_path / "model")).network
    assert again.name == "ste_nvan_resnet8"
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())
