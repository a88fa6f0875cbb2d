"""A LightningModule may be or hold a network; copies of it leave its trainer."""

import lightning
import pytest
import torch
from strategies import normal, wake
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

import strfnet
from strfnet.deployment import fuse, optimize
from strfnet.inflation import deflate

CLIPS = normal(4, 3, 2, 32, 16).float()


class Lit(lightning.LightningModule):
    """Trains a network for a step."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, index):
        output = self(batch[0])
        return (output if isinstance(output, torch.Tensor) else output.logits).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Dataset(TensorDataset):
    """A data set that must not be copied."""

    def __deepcopy__(self, memo):
        raise AssertionError("the trainer was copied")


def fitted(network, x):
    lit = Lit(wake(network))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(max_steps=2, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(lit, DataLoader(Dataset(x), batch_size=2))
    assert lit.trainer is trainer
    return lit.eval()


COPIES = {
    "inflate": lambda lit: strfnet.inflate(lit, places=["network.layer2.0.conv2"]),
    "splice": lambda lit: strfnet.splice(lit, {"network.layer2.0": nn.Identity()}),
    "deflate": lambda lit: deflate(strfnet.inflate(lit, places=["network.layer2.0.conv2"])),
}


@pytest.mark.filterwarnings("ignore")
def test_an_inflated_module_has_no_trainer():
    lit = fitted(resnet18(num_classes=4), CLIPS[:, :, 0])
    for name, copied in COPIES.items():
        result = copied(lit)
        assert isinstance(result, Lit) and result._trainer is None, name
    with torch.no_grad():
        frames = lit(CLIPS.transpose(1, 2).flatten(0, 1)).unflatten(0, (4, 2)).mean(dim=1)
        torch.testing.assert_close(COPIES["inflate"](lit)(CLIPS), frames, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_deployed_module_has_no_trainer():
    lit = fitted(strfnet.create_model("strf_p3dc_resnet8", num_classes=3), CLIPS)
    assert fuse(lit, tuple(CLIPS.shape))._trainer is None
    deployed = optimize(lit, tuple(CLIPS.shape), compiled=False)
    assert all(module._trainer is None for module in deployed.modules() if isinstance(module, Lit))
    with torch.no_grad():
        expected = lit(CLIPS).embedding
    torch.testing.assert_close(deployed(CLIPS).embedding, expected, rtol=1e-3, atol=1e-3)
