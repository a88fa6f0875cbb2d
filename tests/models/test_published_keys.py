"""Our parameters under their published names are the tables of the authors' code, name by name and shape by shape."""

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision
from sweeps import sweep

import strfnet
from strfnet.weights.published import AP3D, IMAGE, PREFIX, STE_NVAN, published_state

GOLDEN = Path(__file__).parents[1] / "golden"
TABLES = {
    "ap3d_c2d": (AP3D, "c2d_resnet50"),
    "ap3d_c2d_nl": (AP3D, "c2d_nl_resnet50"),
    "ap3d_i3d": (AP3D, "i3d_resnet50"),
    "ap3d_p3da": (AP3D, "p3da_resnet50"),
    "ap3d_p3db": (AP3D, "p3db_resnet50"),
    "ap3d_p3dc": (AP3D, "p3dc_resnet50"),
    "ap3d_ap3dres50": (AP3D, "ap3d_resnet50"),
    "ap3d_ap3dnlres50": (AP3D, "ap3d_nl_resnet50"),
    "ste_resnet50_s1": (STE_NVAN, "resnet50_fpl"),
    "ste_resnet50_NL": (STE_NVAN, "nvan_resnet50"),
    "ste_resnet50_NL_stripe": (STE_NVAN, "nvan_spatial_resnet50"),
    "ste_resnet50_NL_hr": (STE_NVAN, "nvan_temporal_resnet50"),
    "ste_resnet50_NL_stripe_hr": (STE_NVAN, "ste_nvan_resnet50"),
}
OTHERS = {
    "ste_resnet50_NL_wide": (
        STE_NVAN,
        "nvan_resnet50",
        {"non_local": ["layer1.2", "layer2.3", "layer3.4", "layer3.5", "layer4.2"]},
    ),
    "ap3d_p3db_others": (
        AP3D,
        "p3db_resnet50",
        {"places": ["layer2.1", "layer2.2", "layer3.3", "layer3.4", "layer3.5"]},
    ),
    "ap3d_p3da_nl": (AP3D, "p3da_nl_resnet50", {"non_local": ["layer2.1", "layer3.2", "layer3.5"]}),
}


def table(file):
    content = json.loads((GOLDEN / f"keys_{file}.json").read_text())
    return content["keys"], content["parameters"]


def shapes(state):
    return {name: list(value.shape) for name, value in state.items()}


@pytest.mark.parametrize("file", sweep(TABLES, quick=6))
def test_a_network_has_the_published_parameters(file):
    family, name = TABLES[file]
    with torch.device("meta"):
        network = strfnet.create_model(name)
    state = published_state(network, family)
    theirs, parameters = table(file)
    assert shapes({PREFIX[family] + key: value for key, value in state.items()}) == theirs
    assert len(state) == len(network.state_dict())
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.slow
@pytest.mark.parametrize("file", OTHERS)
def test_published_tables_of_other_settings_are_built_and_read_off_the_file(file, tmp_path):
    family, name, options = OTHERS[file]
    with torch.device("meta"):
        network = strfnet.create_model(name, **options)
    assert network.options == options
    state = published_state(network, family)
    theirs, parameters = table(file)
    assert shapes({PREFIX[family] + key: value for key, value in state.items()}) == theirs
    assert sum(p.numel() for p in network.parameters()) == parameters
    tensors = {
        key: torch.zeros(shape, dtype=torch.float32 if shape else torch.int64) for key, shape in theirs.items()
    }
    torch.save(tensors if family == STE_NVAN else {"state_dict": tensors, "epoch": 1}, tmp_path / "file.pth")
    found = strfnet.load_official(tmp_path / "file.pth", name)
    assert found.options == options and str(found) == str(network)


@pytest.mark.parametrize("name", ["c2d_resnet50", "i3d_resnet50", "strf_p3dc_resnet50", "ap3d_nl_resnet50"])
def test_the_image_network_in_a_network_has_torchvisions_parameters(name):
    with torch.device("meta"):
        network = strfnet.create_model(name, num_classes=1000)
    theirs, _ = table("torchvision_resnet50")
    assert shapes(published_state(network, IMAGE)) == theirs


def test_an_inflated_resnet_has_torchvisions_names_and_shapes_beside_its_own():
    theirs, _ = table("torchvision_resnet50")
    with torch.device("meta"):
        state = strfnet.inflate(torchvision.models.resnet50).state_dict()
    kept = {k: list(v.shape) for k, v in state.items() if not re.search(r"\.(after|temporal)\.", k)}
    assert kept == theirs
