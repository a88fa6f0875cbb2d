"""Softmax attention in each of its forms, and which form a device gets."""

import pytest
import torch
from strategies import normal, wake
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from strfnet import AppearancePreserving, NonLocalBlock
from strfnet.layers import attention as forms
from strfnet.layers import attention_form, choose_attention, set_attention

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
LAYERS = {
    "pixels": lambda: NonLocalBlock(4),
    "windows": lambda: NonLocalBlock(4, window=2),
    "subsampled": lambda: NonLocalBlock(4, subsample=True),
    "registered": lambda: AppearancePreserving(16),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(forms, "CHUNK", 5)


def gradients(layer, clip, cotangent):
    clip = clip.detach().requires_grad_()
    output = layer(clip)
    return [output.detach(), *torch.autograd.grad((output * cotangent).sum(), [clip, *layer.parameters()])]


@pytest.mark.parametrize("form", ["chunked", "recomputed", "rounded", "plain"])
@pytest.mark.parametrize("name", LAYERS)
def test_all_forms_have_one_output_and_one_gradient(name, form):
    layer = wake(LAYERS[name]().double()).eval()
    clip = normal(2, 16 if name == "registered" else 4, 3, 4, 2)
    cotangent = torch.randn_like(layer(clip))
    expected = gradients(layer, clip, cotangent)
    assert set_attention(nn.Sequential(layer), form) == 1
    for value, other in zip(gradients(layer, clip, cotangent), expected, strict=True):
        torch.testing.assert_close(value, other)


class Largest(TorchDispatchMode):
    numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        output = operator(*args, **(kwargs or {}))
        if isinstance(output, torch.Tensor):
            self.numbers = max(self.numbers, output.numel())
        return output


@pytest.mark.parametrize(("form", "linear"), [("chunked", True), ("recomputed", True), ("plain", False)])
def test_chunks_hold_few_logits_in_the_backward_pass_too(form, linear):
    block, clip = NonLocalBlock(4, attention=form), normal(1, 4, 8, 12, 4, dtype=torch.float32)
    saved = []
    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x),
    ):
        block(clip.requires_grad_()).sum().backward()
    tokens = 8 * 12 * 4
    assert (largest.numbers < tokens**2) == linear
    assert (sum(saved) < tokens**2) == linear


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("form", ["chunked", "plain"])
def test_logits_are_computed_in_float32(form, autocast, dtype):
    query, key, value = (normal(1, 1, 24, 8, seed=seed).to(dtype) for seed in range(3))
    query, key = 400 * query, 400 * key  # products of 1e6, beyond float16
    expected = forms.plain(query.double(), key.double(), value.double(), None)
    with torch.autocast("cpu", dtype, enabled=autocast):
        output = forms.FORMS[form](query, key, value, None)
    assert output.dtype == dtype
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=0.02)


def test_rounded_logits_cost_accuracy():
    query, key, value = (normal(1, 1, 256, 64, seed=seed) for seed in range(3))
    half = [x.bfloat16() for x in (query, key, value)]
    expected = forms.plain(*(x.double() for x in half), None)
    errors = {
        form: (forms.FORMS[form](*half, None) - expected).norm() for form in ("chunked", "rounded", "recomputed")
    }
    assert 3 * errors["chunked"] < errors["rounded"] == errors["recomputed"]


def test_dot_pairs_do_not_overflow_in_float16():
    block = wake(NonLocalBlock(8, pairing="dot")).eval()
    clip = normal(1, 8, 8, 32, 16, dtype=torch.float32) + 20
    with torch.no_grad():
        block.query.weight.mul_(1e-3)
    expected = block(clip)
    output = block.half()(clip.half())
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=0.02 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["pixels", "windows"])
def test_the_plain_form_supports_function_transforms_and_gradients_of_gradients(name):
    block = set_plain(LAYERS[name]())
    clip, tangent = normal(1, 4, 3, 2, 2), normal(1, 4, 3, 2, 2, seed=1)
    output, slope = torch.func.jvp(block, (clip,), (tangent,))
    torch.testing.assert_close(slope, (block(clip + 1e-6 * tangent) - output) / 1e-6, rtol=1e-4, atol=1e-4)
    apart = torch.func.vmap(block)(torch.stack([clip, tangent]))
    torch.testing.assert_close(apart, torch.stack([output, block(tangent)]))
    assert torch.autograd.gradgradcheck(lambda x: block(x).square().sum(), clip.requires_grad_())


def set_plain(block):
    block = wake(block.double()).eval()
    set_attention(block, "plain")
    return block


@pytest.mark.parametrize(
    ("device", "dtype", "sizes", "options", "form"),
    [
        (CUDA, torch.float32, (256, 256), {}, "chunked"),
        (CUDA, torch.bfloat16, (256, 256), {}, "fused"),
        (CUDA, torch.float16, (256, 256), {"training": True}, "fused"),
        (CUDA, torch.bfloat16, (512, 512), {}, "chunked"),
        (CUDA, torch.bfloat16, (28, 28), {}, "chunked"),
        (CUDA, torch.bfloat16, (8, 128), {}, "chunked"),
        (CUDA, torch.bfloat16, (256, 256), {"masked": True}, "chunked"),
        (CUDA, torch.bfloat16, (256, 256), {"training": True, "deterministic": True}, "chunked"),
        (CPU, torch.bfloat16, (512, 512), {}, "rounded"),
        (CPU, torch.bfloat16, (512, 512), {"training": True}, "recomputed"),
        (CPU, torch.float32, (512, 512), {"training": True, "deterministic": True}, "fused"),
        (torch.device("mps"), torch.float32, (512, 512), {}, "fused"),
    ],
)
def test_the_form_follows_device_type_and_size(monkeypatch, device, dtype, sizes, options, form):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(forms, "multiplies_bfloat16", lambda: True)
    assert attention_form(device, dtype, *sizes, **options) == form
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(forms, "multiplies_bfloat16", lambda: False)
    older = attention_form(device, dtype, *sizes, **options)
    assert older == ("chunked" if device.type == "cuda" else "fused")


def test_one_function_sets_the_form_of_a_network(monkeypatch):
    network = nn.Sequential(NonLocalBlock(6), NonLocalBlock(4, pairing="dot"), AppearancePreserving(32), nn.ReLU())
    asked = []

    def chosen(*arguments, **options):
        asked.append((*arguments, options))
        return "chunked"

    monkeypatch.setattr(forms, "attention_form", chosen)
    assert choose_attention(network, dtype=torch.bfloat16, training=True) == 2
    given = {"training": True, "deterministic": False}
    assert asked == [
        (CPU, torch.bfloat16, 3, 3, {"masked": False} | given),
        (CPU, torch.bfloat16, 2, 32, {"masked": False} | given),
    ]
    assert [layer.attention_form for layer in (network[0], network[1], network[2])] == ["chunked", "fused", "chunked"]
    assert choose_attention(network) == 0 and asked[-1][1] == torch.float32


def test_an_unknown_form_is_refused():
    block = NonLocalBlock(4)
    for call in (lambda: set_attention(block, "flash"), lambda: NonLocalBlock(4, attention="flash")):
        with pytest.raises(
            ValueError, match="must be one of fused, chunked, recomputed, rounded, plain, got 'flash'"
        ):
            call()
    assert block.attention_form == "fused"


@pytest.mark.parametrize("form", list(forms.FORMS))
def test_every_form_has_an_output_on_the_meta_device(form):
    """There networks are probed, by their profile and before norms are fused."""
    block = NonLocalBlock(4, attention=form).to("meta")
    assert block(torch.empty(1, 4, 3, 4, 2, device="meta")).shape == (1, 4, 3, 4, 2)
