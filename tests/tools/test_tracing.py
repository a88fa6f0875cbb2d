"""torch.fx traces inflated networks; units on clips are leaves of the trace."""

import pytest
import torch
from strategies import normal, wake
from sweeps import sweep
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import strfnet
from strfnet.layers import STRF, AppearancePreserving, NonLocalBlock, TemporalReduction

LEAVES = {"leaf_modules": [STRF, NonLocalBlock, TemporalReduction, AppearancePreserving]}
NODES = {"layer2": "middle", "layer3": "last"}


def clip(b, t):
    return normal(b, 3, t, 64, 32, seed=t).float()


def outputs_of(network, paths, x):
    """Outputs of modules by a forward hook."""
    seen = {}
    for path in paths:
        module = network.get_submodule(path)
        module.register_forward_hook(lambda _m, _a, output, path=path: seen.update({path: output}))
    with torch.no_grad():
        network(x)
    return seen


@pytest.mark.parametrize(("temporal", "unit"), [("p3d_c", "strf"), ("i3d", None), ("ap3d_p3d_b", "non_local")])
def test_torchvision_extracts_features_of_an_inflated_network(temporal, unit):
    torch.manual_seed(0)
    network = wake(strfnet.inflate(resnet18, temporal=temporal, unit=unit)).eval()
    extractor = create_feature_extractor(network, NODES, tracer_kwargs=LEAVES)
    for b, t in ((2, 3), (1, 4)):  # the trace holds for any number of clips and frames
        expected = outputs_of(network, NODES, clip(b, t))
        with torch.no_grad():
            features = extractor(clip(b, t))
        for path, name in NODES.items():
            torch.testing.assert_close(features[name], expected[path])


@pytest.mark.parametrize("name", sweep([name for name in strfnet.list_models() if "resnet8" in name], quick=8))
def test_a_named_network_is_traced_by_torchvision_s_tracer(name):
    network = wake(strfnet.create_model(name, num_classes=3)).eval()
    extractor = create_feature_extractor(network.backbone, ["layer3"], tracer_kwargs=LEAVES)
    with torch.no_grad():
        torch.testing.assert_close(
            extractor(clip(2, 3))["layer3"], outputs_of(network.backbone, ["layer3"], clip(2, 3))["layer3"]
        )


def test_a_traced_network_returns_its_embeddings():
    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, module, path):
            return isinstance(module, tuple(LEAVES["leaf_modules"])) or super().is_leaf_module(module, path)

    network = wake(strfnet.create_model("strf_p3dc_resnet8", num_classes=3)).eval()
    traced = torch.fx.GraphModule(network, Tracer().trace(network))
    with torch.no_grad():
        for b, t in ((2, 3), (1, 4)):
            torch.testing.assert_close(traced(clip(b, t)).embedding, network(clip(b, t)).embedding)
    with pytest.raises(ValueError, match=r"a network traced by torch\.fx takes whole clips only"):
        traced(clip(2, 3), torch.tensor([3, 1]))
