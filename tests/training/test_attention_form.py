"""A run chooses the form of attention for its precision and its determinism."""

import pytest
import torch

import strfnet
from strfnet.training import Recipe, accelerator


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", None), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("deterministic", [True, False])
def test_a_run_chooses_the_form_of_attention(monkeypatch, precision, dtype, deterministic):
    chosen = []
    monkeypatch.setattr(accelerator, "choose_attention", lambda network, **options: chosen.append(options))
    recipe = Recipe(model="nvan_resnet8", device="cpu", precision=precision, deterministic=deterministic)
    accelerator.make_engine(strfnet.create_model("nvan_resnet8", num_classes=2), recipe)
    assert chosen == [{"dtype": dtype, "training": True, "deterministic": deterministic}]
