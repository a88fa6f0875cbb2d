"""Our parameters and the published ones are the same, name by name, in the tables that the authors' code gives."""

import json
import re
from pathlib import Path

import pytest
import torch
import torchvision

import strfnet

GOLDEN = Path(__file__).parents[1] / "golden"
NON_LOCAL = {"query": "theta", "key": "phi", "value": "g", "out": "W.0", "norm": "W.1"}
AP3D = {
    "c2d": "c2d_resnet50",
    "c2d_nl": "c2d_nl_resnet50",
    "i3d": "i3d_resnet50",
    "p3da": "p3da_resnet50",
    "p3db": "p3db_resnet50",
    "p3dc": "p3dc_resnet50",
    "ap3dres50": "ap3d_resnet50",
    "ap3dnlres50": "ap3d_nl_resnet50",
}
STE = {
    "resnet50_s1": "resnet50_fpl",
    "resnet50_NL": "nvan_resnet50",
    "resnet50_NL_stripe": "nvan_spatial_resnet50",
    "resnet50_NL_hr": "nvan_temporal_resnet50",
    "resnet50_NL_stripe_hr": "ste_nvan_resnet50",
}


def table(file):
    content = json.loads((GOLDEN / f"keys_{file}.json").read_text())
    return content["keys"], content["parameters"]


def state_of(name):
    with torch.device("meta"):
        network = strfnet.create_model(name)
    return network, {key: list(value.shape) for key, value in network.state_dict().items()}


def non_local_name(rest, *, pooled=False):
    part, _, field = rest.partition(".")
    inner = ".0" if pooled and part in ("key", "value") else ""
    return f"{NON_LOCAL[part]}{inner}.{field}"


def ap3d_name(key, temporal, non_local_blocks):
    """The published name of one of our parameters; non-local blocks are items of the stage there."""
    key = key.removeprefix("backbone.").replace("head.neck", "bn").replace("head.classifier", "classifier")
    found = re.fullmatch(r"(layer\d)\.(\d+)\.(.+)", key)
    if not found:
        return key
    stage, block, rest = found[1], int(found[2]), found[3]
    shift = sum(1 for s, b in non_local_blocks if s == stage and b < block)
    if rest.startswith("after.0."):
        return f"{stage}.{block + shift + 1}.{non_local_name(rest.removeprefix('after.0.'), pooled=True)}"
    if temporal and (stage, block % 2) in (("layer2", 0), ("layer3", 0)):
        spatial = "conv3d" if temporal == "i3d" else "spatial_conv3d"
        rest = re.sub(r"^conv2\.weight", f"conv2.{spatial}.weight", rest)
        rest = rest.replace("conv2.temporal.", "conv2.temporal_conv3d.")
        for ours, theirs in (("semantic", "semantic_mapping"), ("frame_map", "x_mapping"),
                             ("neighbour_map", "n_mapping"), ("gate", "contrastive_att_net.0")):  # fmt: skip
            rest = rest.replace(f"conv2.appearance.{ours}.", f"conv2.APM.{theirs}.")
    return f"{stage}.{block + shift}.{rest}"


def ste_name(key):
    """The published name of one of our parameters; non-local blocks stand beside the stages there."""
    found = re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.after\.0\.(.+)", key)
    if found:
        stage, block, rest = int(found[1]), int(found[2]), found[3]
        first = {2: 4 - 2, 3: 6 - 3}[stage]
        return f"module.features.backbone.NL_{stage}.{block - first}.{non_local_name(rest)}"
    key = key.replace("head.neck", "module.bottleneck").replace("head.classifier", "module.classifier")
    return key.replace("backbone.", "module.features.backbone.", 1)


def check(ours, theirs):
    """The same names, and shapes that differ by axes of length one only."""
    assert set(ours) == set(theirs)
    for name, shape in ours.items():
        assert [n for n in shape if n > 1] == [n for n in theirs[name] if n > 1], name


@pytest.mark.parametrize("file", AP3D)
def test_the_ap3d_family_has_the_published_parameters(file):
    network, state = state_of(AP3D[file])
    theirs, parameters = table(f"ap3d_{file}")
    places = ("layer2", "layer3") if "nl" in file else ()
    blocks = [(stage, b) for stage in places for b in range(1, len(network.backbone.get_submodule(stage)), 2)]
    temporal = None if file.startswith("c2d") else file
    ours = {ap3d_name(key, temporal, blocks): shape for key, shape in state.items()}
    assert len(ours) == len(state)
    check(ours, theirs)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("file", STE)
def test_the_nvan_family_has_the_published_parameters(file):
    network, state = state_of(STE[file])
    theirs, parameters = table(f"ste_{file}")
    ours = {ste_name(key): shape for key, shape in state.items()}
    assert len(ours) == len(state)
    check(ours, theirs)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_an_inflated_resnet_has_torchvisions_names_and_shapes_beside_its_own():
    theirs, _ = table("torchvision_resnet50")
    with torch.device("meta"):
        state = strfnet.inflate(torchvision.models.resnet50).state_dict()
    kept = {k: list(v.shape) for k, v in state.items() if not re.search(r"\.(after|temporal)\.", k)}
    assert kept == theirs
