"""Networks built on the meta device; ``to_empty`` gives them memory, and a checkpoint of the 2-D network the rest."""

import pytest
import torch
from strategies import normal, wake
from sweeps import sweep
from torchvision.models import resnet18

import strfnet

CLIP = normal(2, 3, 3, 64, 32).float()
POISON = torch.tensor(float("nan"))


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """``to_empty`` fills with NaN, which real memory holds by chance."""
    monkeypatch.setattr(torch, "empty_like", lambda t, **settings: torch.zeros_like(t, **settings).copy_(
        torch.zeros((), dtype=t.dtype) if not t.is_floating_point() else POISON))  # fmt: skip


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize(
    ("temporal", "unit"),
    sweep(
        [("p3d_c", "strf"), ("p3d_a", "non_local"), ("c2d", "strf"), ("ap3d_p3d_a", None), ("ap3d_i3d", "strf")],
        quick=2,
    ),
)
def test_what_the_2_d_checkpoint_lacks_is_initialised(temporal, unit, assign):
    torch.manual_seed(0)
    image = wake(resnet18()).eval()
    with torch.device("meta"):
        network = strfnet.inflate(resnet18, temporal=temporal, unit=unit)
    if not assign:
        network.to_empty(device="cpu")
    network.load_state_dict(image.state_dict(), strict=True, assign=assign)
    assert not any(value.is_meta or value.isnan().any() for value in network.state_dict().values())
    with torch.no_grad():
        expected = image(CLIP.transpose(1, 2).flatten(0, 1)).unflatten(0, (2, 3)).mean(dim=1)
        torch.testing.assert_close(network.eval()(CLIP), expected, rtol=1e-4, atol=1e-4)


def test_a_fresh_network_and_an_emptied_one_start_alike():
    fresh = strfnet.inflate(resnet18, temporal="p3d_a")
    with torch.device("meta"):
        emptied = strfnet.inflate(resnet18, temporal="p3d_a")
    emptied.to_empty(device="cpu").load_state_dict(resnet18().state_dict())
    added = [key for key in fresh.state_dict() if ".after." in key or ".temporal." in key]
    assert len(added) > 50
    for key in added:
        one, two = fresh.state_dict()[key].double(), emptied.state_dict()[key].double()
        if one.numel() > 1:
            assert torch.equal(one, two) if one.min() == one.max() else two.min() < two.max(), key


def test_values_that_were_trained_survive_a_2_d_checkpoint():
    network = wake(strfnet.inflate(resnet18))
    before = {key: value.clone() for key, value in network.state_dict().items() if ".after." in key}
    network.half().float().load_state_dict(resnet18().state_dict())
    for key, value in before.items():
        torch.testing.assert_close(network.state_dict()[key], value, rtol=1e-3, atol=1e-3)
