"""Layers know how many clips their network runs on: in threads, replicas, nested networks, and in recomputation."""

import copy
import gc
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from strategies import normal, wake
from sweeps import sweep
from torch import nn
from torch.utils.checkpoint import checkpoint

import strfnet
from strfnet.layers.clip import flatten_time, unflatten_time
from strfnet.models.registry import ARCHITECTURES

TEMPORAL_CONV = "backbone.layer2.0.conv2"


def network(name="strf_p3dc_resnet8"):
    torch.manual_seed(0)
    return wake(strfnet.create_model(name, num_classes=None)).double().train()


def clip(b, t):
    return normal(b, 3, t, 64, 16, seed=10 * b + t).requires_grad_()


def in_threads(*functions):
    """The results of functions that run at once, each in its own thread."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [done.result(timeout=60) for done in [pool.submit(function) for function in functions]]


def gradients(net, clips):
    """Gradients of all parameters and clips, from one backward pass through all forward passes."""
    net.zero_grad(set_to_none=True)
    loss = sum((number + 1) * net(x).embedding.square().sum() for number, x in enumerate(clips))
    in_threads(loss.backward)  # as on a GPU, backward runs in a thread that has not seen the forward pass
    return [x.grad for x in (*net.parameters(), *clips) if x.requires_grad]


@pytest.mark.parametrize("use_reentrant", [False, True])
@pytest.mark.parametrize("path", ["backbone.layer2.0", "backbone.layer3", "backbone"])
@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "ste_nvan_resnet8"])
def test_checkpointing_changes_no_gradient(name, path, use_reentrant):
    net = network(name)
    expected = gradients(net, [clip(2, 4), clip(3, 3)])
    module = net.get_submodule(path)
    forward = module.forward
    module.forward = lambda x: checkpoint(forward, x, use_reentrant=use_reentrant)
    runs = []
    net.get_submodule(TEMPORAL_CONV).register_forward_hook(lambda *_: runs.append(0))
    net.backbone.layer3[0].conv2.register_forward_hook(lambda *_: runs.append(0))
    torch.testing.assert_close(gradients(net, [clip(2, 4), clip(3, 3)]), expected, rtol=1e-9, atol=1e-12)
    assert len(runs) > 4  # some layer did run again


def test_checkpointing_by_timm_changes_no_gradient():
    torch.manual_seed(0)
    net = wake(strfnet.inflate(timm.create_model("resnet18", num_classes=3))).double().train()
    x = normal(2, 3, 3, 32, 32).requires_grad_()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    found = []
    for enable in (False, True):
        net.set_grad_checkpointing(enable)
        net(x).square().sum().backward()  # not torch.autograd.grad, which timm's older checkpointing refuses
        found.append([leaf.grad for leaf in (x, *net.parameters())])
        net.zero_grad()
        x.grad = None
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_a_graph_remembers_its_clips_as_long_as_it_lives_and_no_longer():
    net = network().backbone
    layer, frames = net.get_submodule("layer2.0.conv2"), normal(6, 32, 4, 2)
    two, three = net(clip(2, 3)), net(clip(3, 2))
    with pytest.raises(ValueError, match="of 2 or 3 clips: graphs of several forward passes are alive"):
        layer(frames)
    loss = three.relu_().sum()
    del two, three
    gc.collect()
    assert torch.equal(
        layer(frames), layer(frames.unflatten(0, (3, 2)).transpose(1, 2)).transpose(1, 2).flatten(0, 1)
    )
    with pytest.raises(ValueError, match="only while the inflated network"):
        layer(frames[:4])
    del loss
    with torch.no_grad():
        kept = net(clip(2, 3))
    with pytest.raises(ValueError, match="only while the inflated network"):
        layer(frames)
    assert not kept.requires_grad


def test_a_layer_of_a_copy_asks_its_own_network():
    net = network()
    twin = copy.deepcopy(net)
    net.backbone.layer3.register_forward_pre_hook(lambda *_: twin.get_submodule(TEMPORAL_CONV)(normal(6, 32, 4, 2)))
    with pytest.raises(ValueError, match="only while the inflated network"):
        net(clip(2, 3))
    assert twin(clip(2, 3)).embedding.shape == (2, 64)


@pytest.fixture
def replicate(monkeypatch):
    """``torch.nn.parallel.replicate`` on the CPU, for which PyTorch lacks the copies of tensors alone."""
    module = sys.modules["torch.nn.parallel.replicate"]
    views = lambda tensors, devices, detach=False: [[x.view_as(x) for x in tensors] for _ in devices]  # noqa: E731
    monkeypatch.setattr(module, "_broadcast_coalesced_reshape", views)
    monkeypatch.setattr(module, "_get_device_index", lambda device, *_: device)
    return module.replicate


@pytest.mark.parametrize("form", sweep(ARCHITECTURES, quick=8))
def test_replicas_of_data_parallel_run_at_once_on_batches_of_their_own(form, replicate):
    net = network(form.format("resnet8")).eval()
    clips = [clip(1, 4), clip(3, 4)]
    expected = [net(x).embedding for x in clips]
    both_inside = threading.Barrier(2, timeout=30)
    net.backbone.layer2.register_forward_pre_hook(lambda *_: both_inside.wait() * 0 or None)
    net.backbone.layer3.register_forward_pre_hook(lambda *_: both_inside.wait() * 0 or None)
    first, second = replicate(net, [0, 1])
    found = in_threads(lambda: first(clips[0]).embedding, lambda: second(clips[1]).embedding)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
        one.sum().backward()


def test_threads_with_clips_of_different_lengths_do_not_meet():
    net, clips = network("ste_nvan_resnet8").eval(), [clip(2, 6), clip(3, 4)]
    expected = [net(x).embedding for x in clips]
    both_inside = threading.Barrier(2, timeout=30)
    net.backbone.layer3.register_forward_pre_hook(lambda *_: both_inside.wait() * 0 or None)
    found = in_threads(lambda: net(clips[0]).embedding, lambda: net(clips[1]).embedding)
    torch.testing.assert_close(found, expected)


class InHalves(nn.Module):
    """A network on the first and the second half of each clip, as clips of their own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.cat(self.inner(torch.cat(x.chunk(2, dim=2))).chunk(2), dim=2)


def test_a_network_inside_another_has_clips_of_its_own():
    inner = strfnet.inflate(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1)), places=["0"], unit=None)
    wake(inner.double())
    conv = copy.deepcopy(inner[0])
    net = network().eval()
    nested = strfnet.splice(net, {"backbone.layer1.0": InHalves(inner)})
    net.backbone.layer1.register_forward_hook(
        lambda module, inputs, frames: flatten_time(InHalves(conv)(unflatten_time(frames, 4)))
    )
    torch.testing.assert_close(nested(clip(2, 4)).embedding, net(clip(2, 4)).embedding)


def test_a_failure_in_the_middle_leaves_nothing_behind():
    net = network("ste_nvan_resnet8").eval()
    expected = net(clip(3, 2)).embedding.detach()

    def fail(*_):
        raise RuntimeError("stop")

    hook = net.backbone.layer3[0].conv2.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="stop"):
        net(clip(2, 5))
    hook.remove()
    with pytest.raises(ValueError, match="only while the inflated network"):
        net.backbone.layer2[0](normal(10, 16, 4, 2))
    torch.testing.assert_close(net(clip(3, 2)).embedding, expected)
