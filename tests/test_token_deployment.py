"""Token networks with units are optimized, compiled in one graph, and streamed by a clip."""

import pytest
import timm
import torch
from strategies import normal, wake

import strfnet
from strfnet.data import read_clip
from strfnet.inference import StreamPool
from strfnet.layers.head import Head
from strfnet.models import ReIDNetwork

UNITS = ("strf", "non_local", "temporal_attention")
SWIN = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4, "patch_size": 4}


def clip(b, t):
    return normal(b, 3, t, 32, 32, seed=b * t, dtype=torch.float32)


def vit(unit):
    image = timm.create_model("vit_tiny_patch16_224", img_size=32, embed_dim=32, depth=2, num_heads=2, num_classes=4)
    return wake(strfnet.inflate(image, unit=unit, places=["blocks.0"])).eval().requires_grad_(False)


def swin(unit):
    """A re-identification network on channels-last maps."""
    image = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, global_pool="", **SWIN)
    backbone = strfnet.inflate(image, unit=unit, places=["layers.0.blocks.0"])
    return wake(ReIDNetwork(backbone, Head(32, None))).eval().requires_grad_(False)


def close(output, expected):
    assert (output - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("unit", [pytest.param(unit, marks=pytest.mark.slow) for unit in UNITS[:2]] + [UNITS[2]])
def test_a_token_network_is_compiled_in_one_graph_for_any_batch_and_frames(unit):
    network = vit(unit)
    compiled = torch.compile(network, fullgraph=True, dynamic=True, backend="eager")
    for b, t in ((2, 4), (3, 5), (2, 7)):
        close(compiled(clip(b, t)), network(clip(b, t)))


@pytest.mark.parametrize("unit", UNITS)
def test_an_optimized_token_network_computes_the_same_for_any_shape(unit):
    network = vit(unit)
    deployed = strfnet.optimize(network, (2, 3, 4, 32, 32), compiled=False)
    assert deployed.error <= 1e-4
    for b, t in ((2, 4), (1, 3)):
        close(deployed(clip(b, t)), network(clip(b, t)))


@pytest.mark.slow
def test_an_optimized_token_network_is_compiled():
    network = vit("strf")
    deployed = strfnet.optimize(network, (2, 3, 4, 32, 32))
    assert "compiled" in deployed.forms
    close(deployed.run("compiled", clip(2, 4)), network(clip(2, 4)))


@pytest.mark.parametrize("unit", UNITS)
def test_a_token_network_streams_by_a_clip_and_is_refused_exactly(unit):
    network, frames = swin(unit), clip(1, 9)
    with pytest.raises(ValueError, match=r"backbone\.layers.*Stream\(network, frames=8\)"):
        strfnet.Stream(network)
    stream = strfnet.Stream(network, frames=4)
    stream.push(frames)
    close(stream.embedding(), network(frames[:, :, [0, 3, 6, 8]]).embedding)
    pool = StreamPool(network, colors="rgb", size=(32, 32), frames=4, sampling="all_frames")
    images = (255 * torch.rand(5, 32, 32, 3, generator=torch.Generator().manual_seed(0))).byte().numpy()
    for track, length in ((1, 2), (2, 5)):  # clips of two frames and, after one of four, of one: padded
        for image in images[:length]:
            pool.push(track, image)
    together = pool.embeddings()
    for track, length in ((1, 2), (2, 5)):
        starts = range(0, length, 4)
        clips = [read_clip(list(images), range(start, min(start + 4, length)), (32, 32))[None] for start in starts]
        expected = sum(each.shape[2] * network(each).embedding for each in clips) / length
        close(together[track - 1], expected[0])
