"""Weights of torchvision are named; anything else is refused before a download, with what would be right."""

import pytest
from torch import nn

from strfnet import create_model

VALUES = ["r18.pth", "IMAGENET1K_V9", "", 3, True, b"IMAGENET1K_V1", ["IMAGENET1K_V1"], {}, nn.Identity()]


@pytest.mark.parametrize("weights", VALUES, ids=repr)
def test_weights_that_torchvision_lacks_are_refused(weights, monkeypatch):
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *args, **kwargs: pytest.fail("a download"))
    with pytest.raises(
        ValueError, match=r"^weights are .*, wanted IMAGENET1K_V1, DEFAULT or None for a resnet18; a file"
    ):
        create_model("c2d_resnet18", weights=weights)


@pytest.mark.parametrize("weights", ["IMAGENET1K_V1", "DEFAULT", "ResNet18_Weights.IMAGENET1K_V1"])
def test_names_of_torchvision_are_passed_on(weights, monkeypatch):
    def got(self, **options):
        raise InterruptedError(self.name)

    monkeypatch.setattr("torchvision.models.ResNet18_Weights.get_state_dict", got)
    with pytest.raises(InterruptedError, match="IMAGENET1K_V1"):
        create_model("c2d_resnet18", weights=weights)
