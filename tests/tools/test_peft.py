"""LoRA of peft on inflated networks: it starts as nothing, trains alone, and merges without changing the output."""

import re

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from strategies import normal, wake
from torch import nn

import strfnet
from strfnet.training import adapt_inflated

CLIP = normal(2, 3, 3, 64, 32).float()
KERNELS, INNER = r".*conv\d", r".*(temporal|query|value|squeeze|layer1.0.conv2)"


def config(targets=KERNELS, **settings):
    return adapt_inflated(LoraConfig(target_modules=targets, r=2, **settings))


def embedding(network):
    with torch.no_grad():
        return network.eval()(CLIP).embedding


@pytest.mark.parametrize(
    ("name", "targets"),
    [(name, KERNELS) for name in ("strf_p3dc", "strf_c2d", "strf_i3d", "p3da", "p3db", "ap3d_nl")]
    + [("strf_p3da", INNER), ("ap3d_nl", INNER)],
)
def test_adapters_train_alone_and_merge(name, targets):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(f"{name}_resnet8", num_classes=3))
    before = embedding(network)
    places = [path for path, m in network.named_modules() if re.fullmatch(targets, path)]
    adapted = get_peft_model(network, config(targets))
    assert all(hasattr(network.get_submodule(place), "lora_A") for place in places)
    torch.testing.assert_close(embedding(adapted), before)
    trained = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in key for key in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.05)
    for _ in range(2):
        optimizer.zero_grad()
        adapted.train()(CLIP).feature.square().mean().backward()
        assert all(adapted.get_parameter(key).grad.abs().max() > 0 for key in trained if "lora_B" in key)
        optimizer.step()
    after = embedding(adapted)
    assert not torch.allclose(after, before, rtol=1e-2)
    with adapted.disable_adapter():
        assert not torch.allclose(embedding(adapted), after, rtol=1e-2)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(embedding(merged), after, rtol=1e-3, atol=1e-4)
    assert merged.state_dict().keys() == strfnet.create_model(f"{name}_resnet8", num_classes=3).state_dict().keys()


def test_saved_adapters_are_loaded(tmp_path):
    torch.manual_seed(0)
    network = strfnet.create_model("strf_p3dc_resnet8", num_classes=3)
    wake(network)
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    adapted = get_peft_model(network, config())
    for key, parameter in adapted.named_parameters():
        if "lora_" in key:
            nn.init.normal_(parameter, std=0.1)
    expected = embedding(adapted)
    adapted.save_pretrained(tmp_path)
    again = strfnet.create_model("strf_p3dc_resnet8", num_classes=3)
    again.load_state_dict(weights)
    torch.testing.assert_close(embedding(PeftModel.from_pretrained(again, tmp_path, config=config())), expected)


@pytest.mark.parametrize("setting", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_settings_that_do_not_apply_to_kernels_are_refused(setting):
    network = strfnet.create_model("strf_p3dc_resnet8", num_classes=3)
    with pytest.raises(ValueError, match=f"{next(iter(setting))} is .* does not apply to kernels"):
        get_peft_model(network, config(**setting))
