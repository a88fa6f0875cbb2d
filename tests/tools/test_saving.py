"""State dicts are contiguous, so savers take them; kernels take any memory order at run time."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from strategies import normal, wake
from sweeps import sweep
from torch import nn

import strfnet

NAMES = [name for name in strfnet.list_models() if "resnet8" in name]
CLIP = normal(2, 3, 3, 64, 32, dtype=torch.float32)


def woken(name):
    torch.manual_seed(0)
    return wake(strfnet.create_model(name, num_classes=3)).eval()


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "i3d_resnet8", "ste_nvan_resnet8"])
def test_safetensors_saves_and_returns_a_state_dict(name, tmp_path):
    network = woken(name)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    again = strfnet.create_model(name, num_classes=3).eval()
    again.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    with torch.no_grad():
        assert torch.equal(again(CLIP).embedding, network(CLIP).embedding)


@pytest.mark.parametrize("name", sweep(NAMES, quick=6))
def test_a_state_dict_is_contiguous_and_shares_memory_with_the_network(name, tmp_path):
    network = woken(name)
    strfnet.save(network, tmp_path / "network.safetensors")
    for each in (network, strfnet.load(tmp_path / "network.safetensors")):
        own = dict(each.named_parameters())
        for key, value in each.state_dict().items():
            assert value.is_contiguous(), key
            assert key not in own or value.data_ptr() == own[key].data_ptr(), key


class WithLoss(nn.Module):
    """A network as the Trainer of transformers calls it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, clip, labels):
        logits = self.network(clip).logits
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_of_transformers_trains_and_saves(tmp_path):
    from transformers import Trainer, TrainingArguments

    network = strfnet.create_model("strf_p3dc_resnet8", num_classes=3)
    before = network.backbone.conv1.weight.clone()
    examples = [{"clip": clip, "labels": label} for label, clip in enumerate(normal(4, 3, 2, 32, 16).float())][:3]
    settings = TrainingArguments(str(tmp_path), max_steps=2, per_device_train_batch_size=3, save_steps=2,
                                 report_to=[], use_cpu=True, disable_tqdm=True)  # fmt: skip
    Trainer(WithLoss(network), settings, train_dataset=examples).train()
    assert not torch.equal(network.backbone.conv1.weight, before)
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    assert saved.keys() == {f"network.{key}" for key in network.state_dict()}
    assert all(torch.equal(saved[f"network.{key}"], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["i3d_resnet8", "strf_i3d_resnet8", "strf_p3dc_resnet8", "nvan_resnet8"])
def test_kernels_are_converted_to_channels_last(name):
    network = woken(name)
    with torch.no_grad():
        expected = network(CLIP).embedding
        network.to(memory_format=torch.channels_last)
        torch.testing.assert_close(network(CLIP).embedding, expected, rtol=1e-5, atol=1e-5)
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    kernels = [p for p in network.parameters() if p.ndim in orders]
    assert all(kernel.is_contiguous(memory_format=orders[kernel.ndim]) for kernel in kernels)
    assert {kernel.ndim for kernel in kernels} == ({4, 5} if "i3d" in name else {4})
    network.train()(CLIP).logits.sum().backward()
    network.to(torch.float64, memory_format=torch.channels_last)  # gradients are converted too
    assert all(p.grad is None or p.grad.dtype == torch.float64 for p in network.parameters())


def test_other_conversions_of_5_d_kernels_stay():
    conv = strfnet.layers.I3D(nn.Conv2d(4, 8, 3))
    kernel = conv.weight.detach().clone()
    assert conv.to(memory_format=torch.channels_last_3d).weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert conv.half().weight.shape == kernel.shape and conv.to("meta").weight.is_meta
    conv = strfnet.layers.I3D(nn.Conv2d(4, 8, 3)).share_memory()
    assert conv.weight.is_shared()
    with pytest.raises(NotImplementedError, match="meta"):
        strfnet.layers.I3D(nn.Conv2d(4, 8, 3, device="meta")).to("cpu")
