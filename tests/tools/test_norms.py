"""Tools that replace batch norms keep units and outputs, or refuse."""

import copy

import pytest
import torch
from strategies import normal, wake
from timm.layers import convert_sync_batchnorm, freeze_batch_norm_2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

import strfnet
from strfnet.deployment import fuse
from strfnet.deployment.fusion import CONVOLUTIONS
from strfnet.layers.temporal import P3D, P3DC

CLIP = normal(2, 3, 3, 64, 32).float()
TOOLS = {
    "torch": nn.SyncBatchNorm.convert_sync_batchnorm,
    "timm sync": convert_sync_batchnorm,
    "timm freeze": freeze_batch_norm_2d,
}


def woken(name):
    torch.manual_seed(0)
    return wake(strfnet.create_model(f"{name}_resnet8", num_classes=3)).eval()


def embedding(network):
    with torch.no_grad():
        return network.eval()(CLIP).embedding


@pytest.mark.parametrize("name", ["strf_p3dc", "ap3d_nl", "ste_nvan"])
@pytest.mark.parametrize("tool", TOOLS)
def test_other_norms_keep_units_and_outputs(tool, name):
    network = woken(name)
    expected, keys = embedding(network), network.state_dict().keys()
    changed = TOOLS[tool](network)
    norms = [m for m in changed.backbone.modules() if type(m).__name__.startswith(("SyncBatchNorm", "FrozenBatch"))]
    assert len(norms) >= 9
    torch.testing.assert_close(embedding(changed), expected, rtol=1e-4, atol=1e-4)
    left = {key for key in keys if not key.endswith("num_batches_tracked")}
    assert {key for key in changed.state_dict() if not key.endswith("num_batches_tracked")} == left


@pytest.mark.parametrize("tool", TOOLS)
def test_a_norm_with_a_unit_is_not_replaced(tool):
    network = strfnet.splice(strfnet.inflate(resnet18, unit=None), {"layer1.0.bn2": strfnet.STRF})
    with pytest.raises(ValueError, match=r"batch norm is followed by STRF, .* convert before splicing"):
        TOOLS[tool](network)
    converted = TOOLS[tool](strfnet.inflate(resnet18, unit=None))
    converted = strfnet.splice(converted, {"layer1.0.bn2": strfnet.STRF(64)})
    assert sum(isinstance(module, strfnet.STRF) for module in converted.modules()) == 1
    more = strfnet.splice(network, {"layer1.0.bn2": strfnet.NonLocalBlock})
    TOOLS[tool](strfnet.inflation.deflate(more))


@pytest.mark.parametrize("name", ["ste_nvan", "c2d_nl"])
def test_fuse_conv_bn_eval_keeps_the_output_of_plain_convolutions(name):
    network = woken(name)
    expected = embedding(network)
    for block in [m for m in network.backbone.modules() if hasattr(m, "conv2") and type(m.conv2) is nn.Conv2d]:
        for conv, norm in (("conv1", "bn1"), ("conv2", "bn2")):
            block.set_submodule(conv, fuse_conv_bn_eval(block.get_submodule(conv), block.get_submodule(norm)))
            block.set_submodule(norm, nn.Identity())
    torch.testing.assert_close(embedding(network), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["strf_c2d", "i3d"])
def test_fuse_conv_bn_eval_of_an_inflated_convolution_is_refused_when_it_runs(name):
    network = woken(name)
    block = network.backbone.layer2[0]
    block.conv2, block.bn2 = fuse_conv_bn_eval(block.conv2, block.bn2), nn.Identity()
    with pytest.raises(ValueError, match=r"a copy of a layer.*strfnet\.deployment\.fuse fuses batch norms"):
        embedding(network)


@pytest.mark.parametrize("name", ["p3da", "p3dc", "ap3d"])
def test_fuse_conv_bn_eval_of_an_inflated_p3d_convolution_is_refused_at_once(name):
    network = woken(name)
    expected = embedding(network)
    block = network.backbone.layer2[0]
    with pytest.raises(ValueError, match=r"leaves out the temporal convolution; strfnet\.deployment\.fuse fuses"):
        fuse_conv_bn_eval(block.conv2, block.bn2)
    assert torch.equal(embedding(network), expected)


class OnClips(nn.Module):
    """A network of a user's own on clips: a layer and the norm behind it."""

    def __init__(self, layer, bias):
        super().__init__()
        self.conv = wake(layer(nn.Conv2d(3, 4, 3, padding=1, bias=bias)))
        self.norm = wake(nn.BatchNorm3d(4), seed=1)

    def forward(self, clip):
        return self.norm(self.conv(clip))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", [layer for layer in CONVOLUTIONS if layer is not nn.Conv2d])
def test_a_norm_behind_a_layer_on_clips_is_fused_right_or_not_at_all(layer, bias):
    torch.manual_seed(0)
    network = OnClips(layer, bias).eval().requires_grad_(False)
    expected = network(CLIP)
    fused = fuse(network, tuple(CLIP.shape))
    assert type(fused.norm) is nn.Identity
    torch.testing.assert_close(fused(CLIP), expected, rtol=1e-4, atol=1e-4)
    if issubclass(layer, P3D):
        with pytest.raises(ValueError, match="bias is assigned, wanted its values changed in place"):
            fuse_conv_bn_eval(network.conv, network.norm)
    else:
        network.conv, network.norm = fuse_conv_bn_eval(network.conv, network.norm), nn.Identity()
    torch.testing.assert_close(network(CLIP), expected, rtol=1e-4, atol=1e-4)


def test_the_bias_of_a_p3d_layer_is_loaded_by_assignment():
    torch.manual_seed(0)
    wanted, layer = (P3DC(nn.Conv2d(3, 4, 3)) for _ in range(2))
    for made in (layer, copy.deepcopy(layer).to("meta")):
        made.load_state_dict(wanted.state_dict(), assign=True)
        assert torch.equal(made.bias, wanted.bias)
        with pytest.raises(ValueError, match="bias is assigned"):
            made.bias = nn.Parameter(wanted.bias)
    empty = layer.to("meta")
    empty.bias = nn.Parameter(wanted.bias)  # as tools fill a layer that was made without memory
    assert torch.equal(empty.bias, wanted.bias)
