"""torch.func and gradients of gradients on whole networks; attention takes its plain form for them."""

import pytest
import torch
from strategies import normal, wake
from torch.func import functional_call, grad, jvp, vmap

import strfnet
from strfnet.layers import AppearancePreserving

set_attention = pytest.importorskip("strfnet.layers.attention").set_attention
CLIP = normal(2, 3, 3, 64, 32, seed=0)
NAMES = ["strf_p3dc_resnet8", "i3d_resnet8", "ap3d_nl_resnet8", "nvan_resnet8", "ste_nvan_resnet8"]
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


@pytest.fixture(params=NAMES)
def network(request):
    torch.manual_seed(0)
    network = wake(strfnet.create_model(request.param, num_classes=None)).double().eval()
    set_attention(network, "plain")
    for module in network.modules():
        if isinstance(module, AppearancePreserving):
            module.detach_gate = False  # else the slope that is published is not that of the function
    return network


def test_gradients_of_single_clips_by_vmap(network):
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}

    def loss(parameters, clip):
        return functional_call(network, parameters, (clip[None],)).embedding.square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, CLIP)
    for number, clip in enumerate(CLIP):
        alone = torch.autograd.grad(loss(parameters, clip), list(parameters.values()))
        largest = max(expected.abs().max().item() for expected in alone)
        for (name, batched), expected in zip(gradients.items(), alone, strict=True):
            assert (batched[number] - expected).abs().max() <= 1e-10 * largest, name


def test_jvp_is_the_slope_along_a_direction(network):
    direction, step = normal(*CLIP.shape, seed=1), 1e-6
    output, slope = jvp(lambda clip: network(clip).embedding, (CLIP,), (direction,))
    with torch.no_grad():
        ahead, behind = (network(CLIP + sign * step * direction).embedding for sign in (1, -1))
        torch.testing.assert_close(output, network(CLIP).embedding)
    expected = (ahead - behind) / (2 * step)
    assert (slope - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_a_gradient_penalty_has_a_gradient(network):
    name = "backbone.layer1.0.conv1.weight"
    weight = network.get_parameter(name)

    def embeddings(weight, clip):
        return functional_call(network, {name: weight}, (clip,)).embedding.sum()

    def penalty(weight):
        return grad(embeddings, argnums=1)(weight, CLIP).square().sum()

    clip = CLIP.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(clip).embedding.sum(), clip, create_graph=True)
    (backward,) = torch.autograd.grad(gradient.square().sum(), weight)
    direction = normal(*weight.shape, seed=2)
    _, forward = jvp(penalty, (weight.detach(),), (direction,))  # forward over reverse
    torch.testing.assert_close((backward * direction).sum(), forward, rtol=1e-8, atol=1e-8 * forward.abs().item())
