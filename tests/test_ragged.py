"""Clips of unequal lengths make one batch: networks, training, embedding and export."""

import copy
import math
from functools import partial

import pytest
import torch
from strategies import normal, wake
from sweeps import sweep
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import strfnet
from strfnet.data import Tracklet
from strfnet.deployment import export
from strfnet.inference import Embedder, embed
from strfnet.inflation.ragged import lengths_after
from strfnet.layers.lengths import zero_past_end
from strfnet.models.registry import ARCHITECTURES


def network(form, dtype=torch.float64, depth="resnet8", classes=None):
    torch.manual_seed(0)
    return wake(strfnet.create_model(form.format(depth), num_classes=classes)).to(dtype).eval()


def batch(lengths, t, filling=math.nan, dtype=torch.float64):
    clip = normal(len(lengths), 3, 20, 64, 16)[:, :, :t].to(dtype, copy=True)
    for one, length in zip(clip, lengths, strict=True):
        one[:, length:] = filling
    return clip, torch.tensor(lengths)


def outputs_and_gradients(net, clip, lengths):
    """Of the ragged batch, and of each clip alone."""
    found = []
    for ragged in (True, False):
        net.zero_grad(set_to_none=True)
        if ragged:
            embedding = net(clip, lengths).embedding
        else:
            alone = [net(clip[i : i + 1, :, :length]).embedding for i, length in enumerate(lengths.tolist())]
            embedding = torch.cat(alone)
        (embedding * normal(*embedding.shape).to(embedding.dtype)).sum().backward()
        found.append((embedding.detach(), [p.grad for p in net.parameters() if p.grad is not None]))
    return found


def largest(tensors):
    return max(tensor.abs().max().item() for tensor in tensors)


@pytest.mark.parametrize("form", sweep(ARCHITECTURES, quick=10))
@pytest.mark.parametrize(
    ("lengths", "t", "filling"),
    [
        ([5, 1, 4], 7, math.nan),
        pytest.param(list(range(1, 17)), 16, math.inf, marks=pytest.mark.slow),
        pytest.param([16, 2, 3], 16, -1e9, marks=pytest.mark.slow),
        pytest.param([1], 1, 0.0, marks=pytest.mark.slow),
    ],
)
def test_a_padded_clip_gives_what_the_clip_gives_alone(form, lengths, t, filling):
    ours, theirs = outputs_and_gradients(network(form), *batch(lengths, t, filling))
    assert largest([ours[0] - theirs[0]]) <= 1e-12 * largest([theirs[0]])
    assert largest([a - b for a, b in zip(ours[1], theirs[1], strict=True)]) <= 1e-12 * largest(theirs[1])
    clip, counts = batch(lengths, t, filling, torch.float32)
    with torch.no_grad():
        net = network(form, torch.float32)
        found = net(clip, counts).embedding
        alone = torch.cat([net(clip[i : i + 1, :, :length]).embedding for i, length in enumerate(lengths)])
    rounding = largest([alone - theirs[0]])  # of the clips alone, which random weights make large
    assert largest([found - alone]) <= 1e-6 * largest([alone]) + rounding


@pytest.mark.parametrize("form", ["strf_p3dc_{}", "ap3d_nl_{}", "nvan_{}", "ste_nvan_{}"])
def test_training_does_not_depend_on_the_padding(form):
    found = []
    for t, filling in ((5, 0.0), (9, math.nan)):
        net = network(form, classes=3).train()
        output = net(*batch([5, 2, 4], t, filling))
        output.logits.square().sum().backward()
        found.append((output.embedding, [p.grad for p in net.parameters()], net.state_dict()))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_batch_statistics_in_training_are_those_of_the_frames_that_exist():
    nets = [network("c2d_{}").train() for _ in range(2)]
    clip, lengths = batch([5, 2, 4], 9)
    nets[0].backbone(clip, lengths=lengths)
    frames = torch.cat([clip[i, :, :length] for i, length in enumerate(lengths.tolist())], dim=1)
    nets[1].backbone(frames[None])
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", ["backbone.layer2", "backbone"])
@pytest.mark.parametrize("form", ["strf_p3dc_{}", "ste_nvan_{}"])
def test_checkpointing_changes_no_gradient(form, path):
    found = []
    for checkpointed in (False, True):
        net = network(form)
        module = net.get_submodule(path)
        forward = module.forward
        if checkpointed and path == "backbone":
            module.forward = lambda *args, forward=forward, **kwargs: checkpoint(
                forward, *args, use_reentrant=False, **kwargs
            )
        elif checkpointed:
            module.forward = lambda x, forward=forward: checkpoint(forward, x, use_reentrant=False)
        net(*batch([5, 2, 4], 6)).embedding.sum().backward()
        found.append([p.grad for p in net.parameters()])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)


def test_the_lengths_of_maps_follow_merged_frames():
    net = network("ste_nvan_{}")
    clip, lengths = batch([7, 1, 4], 8)
    maps, lengths = net.backbone(clip, lengths=lengths, return_lengths=True)
    assert maps.shape[2] == 2 and lengths.tolist() == [2, 1, 1]
    assert not maps[1:, :, 1].any()
    whole, none = net.backbone(batch([7, 1, 4], 8, 0.0)[0], return_lengths=True)
    assert whole.shape == maps.shape and none is None


def test_vectors_are_averaged_over_the_frames_that_exist():
    torch.manual_seed(0)
    flat = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    net = strfnet.inflate(flat, temporal="p3d_a", places=["0"], unit=None)
    clip, lengths = batch([3, 1], 4)
    alone = torch.cat([net(clip[:1, :, :3]), net(clip[1:, :, :1])])
    torch.testing.assert_close(net(clip, lengths=lengths), alone, rtol=1e-12, atol=1e-12)


def test_convolutions_that_stride_in_time_and_their_shortcuts_follow_the_lengths():
    torch.manual_seed(0)
    strided = partial(strfnet.AP3DC, time_kernel=5, time_stride=2)
    net = strfnet.inflate(resnet18, temporal=strided, places=["layer2.0", "layer3.0"]).double().eval()
    wake(net)
    clip, lengths = batch([7, 1, 4], 9)
    ours = net(clip, lengths=lengths)
    alone = torch.cat([net(clip[i : i + 1, :, :length]) for i, length in enumerate(lengths.tolist())])
    torch.testing.assert_close(ours, alone, rtol=1e-10, atol=1e-10)


class Halved(nn.Module):
    def forward(self, x, lengths=None):
        return zero_past_end(x, lengths)[:, :, ::2]


@pytest.mark.parametrize(
    ("unit", "kind", "words"),
    [
        (nn.Conv3d(32, 32, 1), TypeError, "Conv3d cannot take ragged clips: its forward has no parameter lengths"),
        (Halved(), ValueError, "Halved cannot take ragged clips: it changes 5 frames to 3 and has no method"),
    ],
)
def test_units_that_cannot_follow_are_refused(unit, kind, words):
    net = strfnet.splice(network("c2d_{}", torch.float32), {"backbone.layer2.0": unit})
    clip, lengths = batch([5, 2], 5, 0.0, torch.float32)
    with pytest.raises(kind, match=words):
        net(clip, lengths)
    assert net(clip).embedding.shape == (2, 64)


def test_a_sequence_of_units_passes_lengths_on():
    units = nn.Sequential(strfnet.STRF(32), strfnet.TemporalReduction(3), strfnet.NonLocalBlock(32))
    net = strfnet.splice(network("p3dc_{}"), {"backbone.layer2": units})
    net = wake(strfnet.splice(net, {"backbone.layer3.0.conv2": strfnet.STRF})).eval()
    assert lengths_after(units, torch.tensor([7])).tolist() == [3]
    ours, theirs = outputs_and_gradients(net, *batch([5, 1, 4], 7))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (torch.tensor([0, 2]), r"lengths must lie in 1..4, the frames of the clips, got \[0, 2\]"),
        (torch.tensor([4, 5]), r"lengths must lie in 1..4, the frames of the clips, got \[4, 5\]"),
        (torch.tensor([4, 4, 4]), "lengths must be 2 integers, one a clip"),
        (torch.tensor([2.0, 2.0]), "lengths must be 2 integers, one a clip, got torch.float32"),
    ],
)
def test_impossible_lengths_are_refused(lengths, words):
    with pytest.raises(ValueError, match=words):
        network("nvan_{}")(batch([4, 4], 4, 0.0)[0], lengths)


@pytest.mark.slow
def test_an_exported_program_takes_lengths(tmp_path):
    net = network("nvan_{}", torch.float32)
    told = export(net, tmp_path / "net.pt2", "pt2", size=(64, 16), lengths=True)
    assert told.description["lengths"] == ["batch"]
    program = torch.export.load(tmp_path / "net.pt2").module()
    for lengths, t in (([5, 1, 4], 7), ([1], 1), ([3, 3], 3)):
        clip, counts = batch(lengths, t, math.nan, torch.float32)
        expected = net(clip, counts).embedding
        assert largest([program(clip, counts) - expected]) <= 1e-5 * largest([expected])


@pytest.mark.parametrize(
    "form", ["ste_nvan_{}", *(pytest.param(form, marks=pytest.mark.slow) for form in ARCHITECTURES)]
)
def test_a_traced_network_computes_the_same_with_masks(form):
    net, (clip, lengths) = network(form), batch([5, 1, 4], 6)
    program = torch.export.export(net, (clip, lengths), strict=False).module()
    torch.testing.assert_close(program(clip, lengths).embedding, net(clip, lengths).embedding, rtol=1e-9, atol=1e-12)


def test_lengths_under_a_tracer_in_training_are_refused():
    with pytest.raises(Exception, match="lengths are traced in training"):
        torch.export.export(network("c2d_{}").train(), batch([5, 1, 4], 6), strict=False)


def test_embedding_fills_batches_with_tracklets_of_any_length():
    frames = (255 * normal(12, 64, 16, 3).abs().clamp(max=1)).byte().numpy()
    tracklets = [Tracklet(tuple(frames[:length]), str(length), 1) for length in (3, 12, 1, 5, 5)]
    net, shapes = network("strf_p3dc_{}", torch.float32), []
    net.register_forward_pre_hook(lambda module, args: shapes.append(tuple(args[0].shape[::2][:2])))
    settings = {"clips": lambda length: [list(range(length))], "size": (64, 16), "batch": 3}
    alone = embed(net, tracklets, **settings)
    assert len(shapes) == 4
    shapes.clear()
    found = embed(net, tracklets, ragged=True, **settings)
    assert shapes == [(3, 12), (2, 5)]
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="an optimized network takes clips of one shape"):
        Embedder(net, "net", ragged=True, optimize=True)


def test_copies_take_lengths_too():
    net = network("ste_nvan_{}")
    clip, lengths = batch([3, 1], 4)
    assert torch.equal(copy.deepcopy(net)(clip, lengths).embedding, net(clip, lengths).embedding)


class Tokens(nn.Module):
    """A network of patches as tokens behind a class token, with the camera of each clip as a further input."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 8, stride=8)
        self.start, self.camera = nn.Parameter(torch.randn(1, 1, 8)), nn.Embedding(3, 8)
        self.block, self.last = nn.Sequential(nn.Linear(8, 8), nn.ReLU()), nn.Linear(8, 5)

    def forward(self, x, camera):
        tokens = self.patch(x).flatten(2).mT
        tokens = torch.cat([self.start.expand(len(x), -1, -1), tokens], dim=1) + self.camera(camera)[:, None]
        return self.last(self.block(tokens).mean(dim=1))


def test_units_on_tokens_and_further_inputs_follow_the_frames_that_exist():
    torch.manual_seed(0)
    cameras = torch.tensor([0, 2, 1])
    example = (torch.zeros(1, 3, 2, 64, 16), cameras[:1])
    net = strfnet.inflate(Tokens(), unit=strfnet.TemporalAttention, places=["block"], example=example)
    net = wake(net).double().eval()
    clip, lengths = batch([5, 1, 4], 7)
    rows = zip(range(3), lengths.tolist(), strict=True)
    alone = torch.cat([net(clip[i : i + 1, :, :length], cameras[i : i + 1]) for i, length in rows])
    torch.testing.assert_close(net(clip, cameras, lengths=lengths), alone, rtol=1e-12, atol=1e-12)
