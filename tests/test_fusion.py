"""Each pass alone computes what the plain network computes, for every kind of convolution and named network."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, wake
from sweeps import sweep
from torch import nn
from torchvision.models import resnet18

import strfnet
from strfnet import C2D, NonLocalBlock
from strfnet.deployment import (
    add_in_place,
    chunk_attention,
    fuse,
    fuse_batch_norms,
    merge_projections,
    merge_shortcuts,
    norms_in_place,
    use_winograd,
)
from strfnet.deployment.fusion import CONVOLUTIONS, fuse_norm, inference_copy
from strfnet.layers import attention as attention_forms
from strfnet.models.registry import ARCHITECTURES

SHAPE = (2, 3, 4, 64, 32)
PASSES = (merge_shortcuts, fuse_batch_norms, merge_projections, norms_in_place, add_in_place, use_winograd)


def woken(name):
    return wake(strfnet.create_model(name, num_classes=3)).eval()


def norms(network):
    return [path for path, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def frames_of(maps):
    return maps if maps.ndim == 4 else maps.transpose(1, 2).flatten(0, 1)


def agree(output, expected, bound=1e-9):
    assert (output - expected).abs().max() <= bound * expected.abs().max()


@given(
    kind=st.sampled_from(CONVOLUTIONS),
    groups=st.sampled_from([1, 2]),
    biased=st.booleans(),
    affine=st.booleans(),
    time=st.sampled_from([{}, {"time_kernel": 5}, {"time_stride": 2}, {"time_kernel": 1, "time_dilation": 2}]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_convolution_with_its_norm_fused_computes_both(kind, groups, biased, affine, time, seed):
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=biased)
    time = {} if kind is C2D else time
    network = nn.Sequential(plain if kind is nn.Conv2d else kind(plain, **time))
    wake(network.double(), seed).eval()
    norm = wake(nn.BatchNorm2d(6, affine=affine), seed).double().eval()
    clip = normal(2, 4, 3, 7, 5, seed=seed)
    clip = clip.transpose(1, 2).flatten(0, 1) if kind is nn.Conv2d else clip
    expected = norm(frames_of(network(clip)))
    merge_shortcuts(network, SHAPE)
    fuse_norm(network[0], norm)
    agree(frames_of(network(clip)), expected)


@pytest.mark.parametrize("form", sweep(ARCHITECTURES, quick=11))
def test_a_fused_network_computes_the_same_and_has_no_norm_left_behind_a_convolution(form):
    network = woken(form.format("resnet8")).double()
    state = copy.deepcopy(network.state_dict())
    fused = fuse(network, SHAPE)
    with torch.inference_mode():
        agree(fused(normal(*SHAPE)).embedding, network(normal(*SHAPE)).embedding)
    # A norm stays behind an STRF unit, in a non-local block on stripes, and as the neck.
    left = [path for path in norms(fused) if not path.startswith("head.") and ".after." not in path]
    followed = [path for path, module in network.named_modules() if hasattr(module, "after")]
    assert left == [path.replace("conv", "bn") for path in followed if "conv" in path]
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    assert not any(p.requires_grad for p in fused.parameters()) and not fused.training


# What each pass changes in these networks, alone.
CHANGED = {
    "strf_p3dc_resnet8": {merge_shortcuts: 2, fuse_batch_norms: 8, norms_in_place: 14, add_in_place: 2},
    "nvan_resnet8": {merge_projections: 2},
    "strf_p3da_resnet18": {use_winograd: 11},
}


@pytest.mark.parametrize("change", PASSES, ids=lambda change: change.__name__)
def test_each_pass_alone_computes_what_the_network_computes(change):
    for name, changed in CHANGED.items():
        if change not in changed:
            continue
        network = woken(name)
        copied = inference_copy(network)
        assert change(copied, SHAPE) > 0, "the pass finds something to change"
        with torch.inference_mode():
            clip = normal(*SHAPE, dtype=torch.float32)
            expected = network.double()(clip.double()).embedding
            agree(copied(clip).embedding.double(), expected, 2e-5)
            agree(copy.deepcopy(copied)(clip).embedding.double(), expected, 2e-5)


@given(
    pairing=st.sampled_from(["softmax", "dot"]),
    subsample=st.booleans(),
    norm=st.booleans(),
    window=st.sampled_from([None, 2]),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_a_non_local_block_of_convolutions_computes_the_same(pairing, subsample, norm, window, seed):
    block = NonLocalBlock(4, subsample=subsample, norm=norm, window=window, pairing=pairing)
    wake(block.double(), seed).eval()
    clip = normal(2, 4, 3, 5, 3, seed=seed)
    expected = block(clip)
    assert merge_projections(block, tuple(clip.shape)) == 1
    assert isinstance(block.query, nn.Conv2d) and block.norm is None
    agree(block(clip), expected)


def test_blocks_on_stripes_without_statistics_or_with_other_layers_stay():
    momentary, other = NonLocalBlock(4), NonLocalBlock(4)
    momentary.norm = nn.BatchNorm1d(4, track_running_stats=False)
    other.key = nn.Sequential(nn.Linear(4, 2))
    for block in (NonLocalBlock(4, stripes=2), momentary, other):
        assert merge_projections(block, SHAPE) == 0 and isinstance(block.query, nn.Linear)


@given(seed=st.integers(0, 99), affine=st.booleans())
@settings(max_examples=10)
def test_a_norm_in_place_writes_the_plain_output_over_its_input(seed, affine):
    norm = wake(nn.BatchNorm2d(5, affine=affine).double(), seed).eval()
    x = normal(3, 5, 4, 3, seed=seed).contiguous(memory_format=torch.channels_last)
    expected = norm(x)
    assert norms_in_place(norm, SHAPE) == 1
    with torch.inference_mode():
        output = norm(x)
    torch.testing.assert_close(output, expected.detach(), rtol=1e-12, atol=1e-12)
    assert output.data_ptr() == x.data_ptr()


def test_only_plain_norms_with_statistics_write_in_place():
    class Other(nn.BatchNorm2d):
        pass

    kinds = (Other(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2), nn.BatchNorm2d(2, track_running_stats=False))
    assert norms_in_place(nn.Sequential(*kinds), SHAPE) == 0


@pytest.mark.parametrize("window", [None, 2])
def test_queries_in_chunks_gather_what_the_fused_attention_gathers(monkeypatch, window):
    monkeypatch.setattr(attention_forms, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(attention_forms, "CHUNK", 5)
    block = wake(NonLocalBlock(6, window=window)).eval().requires_grad_(False)
    clip = normal(2, 6, 3, 4, 2)
    expected = copy.deepcopy(block).double()(clip)
    assert chunk_attention(copy.deepcopy(block), SHAPE) == 0, "only in bfloat16"
    block.bfloat16()
    assert chunk_attention(block, SHAPE) == 1
    sizes = []
    monkeypatch.setattr(torch.Tensor, "softmax", lambda x, dim: sizes.append(x.shape[2]) or torch.softmax(x, dim))
    output = block(clip.bfloat16())
    assert max(sizes) == 5, "memory grows linearly with the number of queries"
    agree(output.double(), expected, 0.04)


def test_hooks_are_left_out_and_stay_on_the_network():
    seen = []
    network = wake(strfnet.inflate(resnet18(num_classes=4))).eval()
    network.layer1.register_forward_hook(lambda *_: seen.append(1))
    clip = torch.zeros(1, 3, 2, 64, 32)
    fuse(network, (1, 3, 2, 64, 32))(clip)
    assert not seen
    network(clip)
    assert seen


class Twice(nn.Module):
    """One norm behind two convolutions, one convolution called twice, one norm without statistics."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.shared, self.usual = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.momentary = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        x = self.shared(self.a(x)) + self.shared(self.b(x))
        x = self.usual(self.c(x)) + self.c(x)
        return self.momentary(self.d(x))


def test_what_is_called_twice_or_has_no_statistics_stays():
    network = strfnet.inflate(wake(Twice()).double().eval(), places=[], unit=None)
    fused = fuse(network, (1, 3, 2, 4, 4))
    assert norms(fused) == norms(network)
    torch.testing.assert_close(fused(normal(1, 3, 2, 4, 4)), network(normal(1, 3, 2, 4, 4)))


def test_a_norm_that_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match="norm has no running statistics"):
        fuse_norm(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    with pytest.raises(ValueError, match="call merge_shortcuts first"):
        fuse_norm(strfnet.P3DC(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3))
