"""Explainers on inflated networks, by the adapter of docs/figures.md."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam
from pytorch_grad_cam import GradCAM, ScoreCAM
from strategies import normal, wake

import strfnet

PAGE = (Path(__file__).parents[2] / "docs/figures.md").read_text()
(CODE,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.S) if "class Strips" in block)
CLIPS = normal(2, 3, 4, 64, 32).float()


@pytest.fixture
def documented():
    """The names of the page's block."""
    names = {"torch": torch, "strfnet": strfnet, "clip": CLIPS[:1]}
    exec(compile(CODE, "figures.md", "exec"), names)
    return names


@pytest.fixture(params=["strf_p3dc_resnet8", "i3d_resnet8", "nvan_resnet8"])
def network(request):
    torch.manual_seed(0)
    return wake(strfnet.create_model(request.param, num_classes=None)).eval()


QUERY = normal(64).float()


def similarity(network, clip):
    return network(clip).embedding @ QUERY


def maps_of(network, clips):
    """Maps of layer3, (b, c, t, h, w), and the similarities."""
    seen = []
    handle = network.backbone.layer3.register_forward_hook(lambda _m, _a, output: seen.append(output))
    scores = similarity(network, clips)
    handle.remove()
    return seen[0], scores


def assert_heat(heat, weights, maps):
    """Heat of clips is the weighted sum of maps, without what is negative, from 0 to 1 over a clip."""
    for clip in range(len(CLIPS)):
        summed = sum(weight * channel for weight, channel in zip(weights[clip], maps[clip], strict=True)).relu()
        summed = (summed - summed.min()) / (summed.max() - summed.min() + 1e-7)
        assert heat[clip].shape == (256, 32) and heat[clip].max() <= 1
        if summed.max() == 0:
            assert heat[clip].max() == 0
            continue
        frames = heat[clip].unflatten(0, (4, 64))
        coarse = F.avg_pool2d(frames[:, None], 8)[:, 0]  # bilinear enlargement keeps most of a cell's mean
        assert torch.corrcoef(torch.stack([coarse.flatten(), summed.flatten()]))[0, 1] > 0.95


def test_grad_cam_weighs_maps_by_their_mean_gradient(documented, network):
    frames, scores = maps_of(network, CLIPS)
    (gradient,) = torch.autograd.grad(scores.sum(), frames)
    weights = gradient.unflatten(0, (2, 4)).mean(dim=(1, 3, 4))
    explain = GradCAM(documented["Strips"](network), [network.backbone.layer3], reshape_transform=documented["below"])
    heat = torch.from_numpy(explain(CLIPS.flatten(2, 3), [lambda embedding: embedding @ QUERY] * 2))
    assert_heat(heat, weights, frames.detach().unflatten(0, (2, 4)).transpose(1, 2))


def test_score_cam_weighs_maps_by_the_score_of_the_clip_they_mask(documented, network):
    with torch.no_grad():
        frames, _ = maps_of(network, CLIPS)
        maps = frames.unflatten(0, (2, 4)).transpose(1, 2)
        scores = torch.zeros(2, maps.shape[1])
        for clip, of_clip in enumerate(maps):
            for channel, map_ in enumerate(of_clip):
                strip = map_.flatten(0, 1)[None, None]
                mask = F.interpolate(strip, (256, 32), mode="bilinear", align_corners=True)
                mask = (mask - mask.min()) / (mask.max() - mask.min() + 1e-8)
                scores[clip, channel] = similarity(network, CLIPS[clip : clip + 1] * mask[0].unflatten(1, (4, 64)))
    explain = ScoreCAM(
        documented["Strips"](network), [network.backbone.layer3], reshape_transform=documented["below"]
    )
    heat = torch.from_numpy(explain(CLIPS.flatten(2, 3), [lambda embedding: embedding @ QUERY] * 2))
    assert_heat(heat, scores.softmax(dim=1), maps)


def test_captum_explains_clips_and_layers(network):
    def explained(clip):
        return similarity(network, clip)

    attribution = IntegratedGradients(explained).attribute(CLIPS, n_steps=16, method="riemann_trapezoid")
    assert attribution.shape == CLIPS.shape and attribution.abs().max() > 0
    frames, scores = maps_of(network, CLIPS)
    (gradient,) = torch.autograd.grad(scores.sum(), frames)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * frames).sum(dim=1, keepdim=True)
    torch.testing.assert_close(LayerGradCam(explained, network.backbone.layer3).attribute(CLIPS), expected)
