"""Norms inside convolutions: every kind of convolution, every named network, and what must stay apart."""

import copy

import pytest
import torch
from strategies import wake
from torch import nn
from torchvision.models import resnet18

import strfnet
from strfnet import NonLocalBlock
from strfnet.deployment.fusion import (
    CONVOLUTIONS,
    ConvolvedNonLocalBlock,
    absorb_norm,
    absorb_shortcut,
    convolve_projections,
    fold_norms,
)
from strfnet.models.registry import ARCHITECTURES

SHAPE = (2, 3, 4, 64, 32)


def random_clip(shape=SHAPE, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norms(network):
    return [path for path, module in network.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_convolution_that_took_in_its_norm_answers_as_both_did(kind, groups, biased, affine):
    plain = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=groups, bias=biased)
    conv = wake(plain if kind is nn.Conv2d else kind(plain)).double().eval()
    norm = wake(nn.BatchNorm2d(6, affine=affine)).double().eval()
    clip = random_clip((2, 4, 3, 7, 5))
    x = clip.transpose(1, 2).flatten(0, 1) if kind is nn.Conv2d else clip

    def normed(y):
        frames = y if y.ndim == 4 else y.transpose(1, 2).flatten(0, 1)
        return norm(frames) if y.ndim == 4 else norm(frames).unflatten(0, (2, 3)).transpose(1, 2)

    expected = normed(conv(x))
    absorb_shortcut(conv)
    absorb_norm(conv, norm)
    torch.testing.assert_close(conv(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ARCHITECTURES)
def test_a_folded_network_answers_as_before_and_has_no_norm_left_behind_a_convolution(form):
    network = wake(strfnet.create_model(form.format("resnet8"), num_classes=3)).double().eval()
    state = copy.deepcopy(network.state_dict())
    folded = fold_norms(network, SHAPE)
    clip = random_clip()
    with torch.inference_mode():
        expected, answer = network(clip), folded(clip)
    torch.testing.assert_close(answer.embedding, expected.embedding, rtol=1e-9, atol=1e-9)
    # Behind an STRF unit after the convolution, in the non-local block and as the neck a norm stays one.
    left = [p for p in norms(folded) if not p.startswith("head.") and ".after." not in p]
    followed = [path for path, module in network.named_modules() if hasattr(module, "after")]
    assert left == [path.replace("conv", "bn") for path in followed if "conv" in path]
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in state.items())
    assert not any(p.requires_grad for p in folded.parameters()) and not folded.training


@pytest.mark.parametrize("subsample", [True, False])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("pairing", ["softmax", "dot"])
def test_a_non_local_block_of_convolutions_answers_as_the_block(subsample, norm, window, pairing):
    block = wake(NonLocalBlock(4, subsample=subsample, norm=norm, window=window, pairing=pairing)).double().eval()
    clip = random_clip((2, 4, 3, 5, 3))
    expected = block(clip)
    convolve_projections(block)
    assert type(block) is ConvolvedNonLocalBlock and block.norm is None
    torch.testing.assert_close(block(clip), expected, rtol=1e-10, atol=1e-10)


def test_a_striped_block_and_one_without_statistics_stay():
    momentary = NonLocalBlock(4)
    momentary.norm = nn.BatchNorm1d(4, track_running_stats=False)
    for block in (NonLocalBlock(4, stripes=2), momentary):
        convolve_projections(block)
        assert type(block) is NonLocalBlock and isinstance(block.query, nn.Linear)


def test_hooks_are_left_out_and_stay_on_the_network_itself():
    seen = []
    network = wake(strfnet.inflate(resnet18(num_classes=4))).double().eval()
    network.layer1.register_forward_hook(lambda *_: seen.append(1))
    folded = fold_norms(network, (1, 3, 2, 64, 32))
    folded(random_clip((1, 3, 2, 64, 32)))
    assert not seen
    network(random_clip((1, 3, 2, 64, 32)))
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


def test_what_is_used_twice_or_has_no_statistics_stays():
    network = strfnet.inflate(wake(Twice()).double().eval(), places=[], unit=None)
    folded = fold_norms(network, (1, 3, 2, 4, 4))
    assert norms(folded) == norms(network)
    clip = random_clip((1, 3, 2, 4, 4))
    torch.testing.assert_close(folded(clip), network(clip))


def test_a_norm_without_statistics_is_refused():
    with pytest.raises(ValueError, match="norm has no running statistics"):
        absorb_norm(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
