"""Tools of PyTorch act on layers and networks as on any module, in training and in evaluation."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from strategies import normal, wake
from torch import nn
from torch.nn.utils import prune

import strfnet
from strfnet import STRF, NonLocalBlock
from strfnet.layers import choose_attention

SHAPE = (2, 3, 3, 64, 32)


def woken(name):
    torch.manual_seed(0)
    return wake(strfnet.create_model(name, num_classes=3)).eval()


def clip(*shape, seed=0):
    return normal(*(shape or SHAPE), seed=seed, dtype=torch.float32)


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "ap3d_resnet8", "ste_nvan_resnet8"])
@pytest.mark.parametrize("gradients", [True, False])
def test_a_forward_hook_keeps_the_output_of_each_convolution(name, gradients):
    network, seen = woken(name), {}
    for path, module in network.named_modules():
        if type(module) is nn.Conv2d:
            module.register_forward_hook(
                lambda conv, args, output, path=path: seen.update({path: (conv, args[0].clone(), output)})
            )
    with torch.set_grad_enabled(gradients):
        network(clip())
    assert len(seen) >= 7
    for conv, given, output in seen.values():
        expected = F.conv2d(given, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)
        torch.testing.assert_close(output, expected)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", amount=0.5)


def normalised(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old form is deprecated
        nn.utils.weight_norm(layer)


@pytest.mark.parametrize("change", [pruned, normalised])
@pytest.mark.parametrize("stripes", [None, 2])
def test_pruned_and_weight_normed_projections_train_and_act(change, stripes):
    block, x = wake(NonLocalBlock(4, stripes=stripes)), clip(2, 4, 2, 4, 3)
    for name in ("query", "key", "value", "out"):
        change(block.get_submodule(name))
    trained = [p for name, p in block.named_parameters() if name.endswith(("weight_orig", "weight_g", "weight_v"))]
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    outputs = []
    for _ in range(3):
        optimizer.zero_grad()
        outputs.append(block(x))
        outputs[-1].square().sum().backward()
        assert all(weight.grad.abs().max() > 0 for weight in trained)
        optimizer.step()
    assert not torch.allclose(outputs[0], outputs[1]) and not torch.allclose(outputs[1], outputs[2])
    with torch.no_grad():
        before = block.eval()(x)
        for weight in trained:
            weight.mul_(1.5)
        assert not torch.allclose(block(x), before), "the tool's parameters are those that act in evaluation"


@pytest.mark.parametrize("name", ["nvan_resnet8", "ste_nvan_resnet8", "ap3d_nl_resnet8"])
def test_non_local_networks_run_in_dynamic_int8(name):
    network = woken(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated in favour of torchao
        quantized = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, torch.qint8)
    layers = [module for module in quantized.modules() if "quantized" in type(module).__module__]
    assert len(layers) >= 4
    assert choose_attention(quantized) == 0
    with torch.no_grad():
        output, expected = quantized(clip()).embedding, network(clip()).embedding
    assert 0 < (output - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "nvan_resnet8", "ste_nvan_resnet8"])
def test_bfloat16_weights_run_with_float32_norms(name):
    network, x = woken(name), clip(2, 3, 3, 128, 64)
    with torch.no_grad():
        expected = network(x).feature
    network.bfloat16()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.float()
    with torch.no_grad():
        feature = network(x.bfloat16()).feature.float()
    assert (feature - expected).abs().max() < 0.1 * expected.abs().max()
    network.train()(x.bfloat16()).feature.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.backbone.parameters())


LAYERS = {
    "STRF": lambda: STRF(4, reduction=2),
    "pixels": lambda: NonLocalBlock(4, subsample=True),
    "dot": lambda: NonLocalBlock(4, pairing="dot"),
    "stripes": lambda: NonLocalBlock(4, stripes=2, window=2),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_layers_are_traced_with_the_tracer_s_own_check(name):
    layer = wake(LAYERS[name]()).eval()
    traced = torch.jit.trace(layer, clip(2, 4, 3, 4, 3), check_trace=True)
    torch.testing.assert_close(traced(clip(2, 4, 3, 4, 3, seed=1)), layer(clip(2, 4, 3, 4, 3, seed=1)))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch maps its attention by a loop
def test_layers_are_mapped_over_a_batch_of_clips(name):
    layer = wake(LAYERS[name]()).eval()
    clips = clip(3, 2, 4, 3, 4, 3)
    with torch.no_grad():
        torch.testing.assert_close(torch.vmap(layer)(clips), torch.stack([layer(each) for each in clips]))
