"""The restated networks compute what our networks compute, in the published shapes and under the published names."""

import json
from pathlib import Path

import pytest
import torch
from strategies import normal, wake
from sweeps import sweep

import strfnet
from strfnet.layers.non_local import NonLocalBlock

ROOT = Path(__file__).parents[2]
FAMILIES = {
    "resnet50_fpl": "ste_resnet50_s1",
    "nvan_resnet50": "ste_resnet50_NL",
    "nvan_spatial_resnet50": "ste_resnet50_NL_stripe",
    "nvan_temporal_resnet50": "ste_resnet50_NL_hr",
    "ste_nvan_resnet50": "ste_resnet50_NL_stripe_hr",
    "c2d_resnet50": "ap3d_c2d",
    "i3d_resnet50": "ap3d_i3d",
    "p3da_resnet50": "ap3d_p3da",
    "p3db_resnet50": "ap3d_p3db",
    "p3dc_resnet50": "ap3d_p3dc",
}


@pytest.fixture
def restate(load):
    return load("restatements").restate


def relative_difference(one, other):
    """Returns the largest difference over the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


@pytest.mark.parametrize("name", sweep(FAMILIES, quick=2))
def test_a_restated_network_gives_our_embeddings(restate, name):
    network = wake(strfnet.create_model(name.replace("50", "18"), num_classes=3)).eval()
    clip = normal(2, 3, 4, 256, 16)
    for dtype, bound in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        network.to(dtype)
        with torch.no_grad():
            restated, ours = restate(network)(clip.to(dtype)), network(clip.to(dtype))
        assert relative_difference(restated.embedding, ours.embedding) <= bound
        assert relative_difference(restated.feature, ours.feature) <= bound


@pytest.mark.parametrize("name", sweep(FAMILIES, quick=2))
def test_a_restated_network_has_the_published_parameters(restate, name):
    content = json.loads((ROOT / "tests" / "golden" / f"keys_{FAMILIES[name]}.json").read_text())["keys"]
    theirs = {key.removeprefix("module."): shape for key, shape in content.items()}
    with torch.device("meta"):
        state = restate(strfnet.create_model(name)).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {
        key: shape for key, shape in theirs.items() if not key.startswith("classifier.")
    }


@pytest.mark.parametrize("options", [{}, {"pairing": "dot"}, {"stripes": 4}, {"stripes": 4, "pairing": "dot"}])
def test_a_restated_block_gives_our_output(restate, options):
    block = wake(NonLocalBlock(8, **options)).double().eval()
    clip = normal(2, 8, 3, 8, 5)
    torch.testing.assert_close(restate(block)(clip), block(clip), rtol=1e-10, atol=1e-10)


def test_a_height_that_published_stripes_do_not_divide_is_refused(restate):
    block = wake(NonLocalBlock(8, stripes=4)).eval()
    with pytest.raises(ValueError, match="height of 6, wanted a multiple of the 4 stripes"):
        restate(block)(torch.randn(1, 8, 2, 6, 4))


@pytest.mark.parametrize("name", ["strf_p3dc_resnet8", "ap3d_resnet8", "c2d_nl_resnet8", "resnet8_maxfpl"])
def test_a_network_that_no_published_code_computes_is_refused(restate, name):
    with pytest.raises(ValueError, match=r"network (holds|pools)"):
        restate(strfnet.create_model(name))


def test_a_restated_network_keeps_its_own_weights_and_the_mode(restate):
    ours = strfnet.create_model("c2d_resnet8").train()
    restated = restate(ours)
    assert restated.training
    before = restated.conv1.weight.clone()
    with torch.no_grad():
        ours.backbone.conv1.weight.zero_()
    torch.testing.assert_close(restated.conv1.weight, before)
