"""The cases of the speed benchmark on small networks: what they compare and judge; speed itself is not judged."""

import dataclasses
import importlib
import sys
import types

import pytest
import torch

import strfnet


@pytest.fixture
def small(rooms, monkeypatch):
    """The probes of the roof are small, and other runtimes run the network itself."""
    runtimes = importlib.import_module("strfnet.deployment.runtimes")

    class Exported:
        def __init__(self, network, clip):
            self.network = network

        def open(self, runtime, dtype):
            return self.network

    monkeypatch.setattr(runtimes, "OnnxNetwork", Exported)
    probes = rooms.roof.probes(channels=8)
    monkeypatch.setattr(rooms.networks, "probes", lambda **_: probes)


def goals_of(rows):
    return {name: row.goal for name, row in rows.items() if row.unit in ("x", "roof") and row.goal is not None}


def test_a_network_is_held_against_the_published_one_and_the_roof(rooms, by_quantity, small):
    rows = by_quantity(rooms.networks.eager("ste_nvan_{}", 1, rooms.settings))
    assert rows["eager: output differs"].reached and goals_of(rows) == {"eager: published takes": 1.1}
    macs = strfnet.profile(strfnet.create_model("ste_nvan_resnet18"), (1, 3, 4, 256, 32)).macs
    share, seconds, roof = (
        rows[name].value for name in ("eager: share of the roof", "eager", "published: best probe")
    )
    assert share == pytest.approx(2 * macs / seconds / roof / 1e9, rel=1e-6)
    assert rows["eager: published takes"].value == pytest.approx(rows["published"].value / seconds, rel=1e-6)


@pytest.mark.parametrize("judged", [True, False])
def test_a_deployed_network_is_judged_in_both_types(rooms, by_quantity, small, monkeypatch, judged):
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: True)
    settings = dataclasses.replace(rooms.settings, judged=judged)
    rows = by_quantity(rooms.networks.deployed("nvan_{}", 1, settings))
    assert rows["deployed: output differs"].reached
    assert 1e-4 < rows["bfloat16: output differs"].value < 0.015
    wanted = {
        "deployed: published takes": 1.3,
        "deployed: the fastest runtime takes": 0.95,
        "deployed: share of the roof": 0.76,
        "bfloat16: published takes": 2.3,
        "bfloat16: the fastest runtime takes": 0.95,
        "bfloat16: share of the roof": 0.80,
    }
    assert goals_of(rows) == (wanted if judged else {})


def test_an_answer_that_differs_misses_its_goal(rooms, by_quantity, monkeypatch):
    def other(network):
        theirs = rooms.restatements.restate(network)
        with torch.no_grad():
            theirs.bn.bias.add_(1e-3)
        return theirs

    monkeypatch.setattr(rooms.networks, "restate", other)
    rows = by_quantity(rooms.networks.eager("c2d_{}", 4, dataclasses.replace(rooms.settings, judged=False)))
    assert rows["eager: output differs"].reached is False and "MISSED" in rows["eager: output differs"].verdict


@pytest.mark.parametrize("form", ["p3dc_{}", "nvan_{}", "ste_nvan_{}"])
def test_gradients_are_those_of_the_published_computation(rooms, form):
    network = rooms.cases.awake(form.format("resnet18"), rooms.settings)
    assert rooms.steps.gradients_differ(network, rooms.settings) < rooms.cases.GRADIENT_ERROR


def test_a_wrong_gradient_shows(rooms, monkeypatch):
    network = rooms.cases.awake("p3dc_resnet18", rooms.settings)

    def other(double):
        theirs = rooms.restatements.restate(double)
        with torch.no_grad():
            theirs.layer2[0].conv2.temporal_conv3d.weight.mul_(1 + 1e-6)
        return theirs

    monkeypatch.setattr(rooms.steps, "restate", other)
    assert rooms.steps.gradients_differ(network, rooms.settings) > rooms.cases.GRADIENT_ERROR


def test_a_training_step_leaves_gradients_and_is_judged_by_its_goals(rooms, by_quantity):
    rows = by_quantity(rooms.steps.training("ste_nvan_{}", rooms.settings))
    assert rows["gradients in float64 differ"].reached
    assert rows["eager: published takes"].goal == 1.2
    assert rows["bfloat16 autocast: published takes"].goal == 2.4
    network = rooms.cases.awake("c2d_resnet18", rooms.settings).train()
    rooms.steps.step(network, rooms.settings)
    missing = {name for name, parameter in network.named_parameters() if parameter.grad is None}
    assert missing == {"head.neck.weight", "head.neck.bias"}  # the loss is taken before the neck


def test_bfloat16_is_tried_on_a_small_clip_where_it_is_emulated(rooms, monkeypatch):
    settings = rooms.cases.Settings()
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: False)
    assert settings.half.clip_shape(1) == (1, 3, 4, 256, 32) and settings.half.rounds == 1
    assert settings.half.judge(2.3) is None, "the speed of an emulation says nothing"
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: True)
    assert settings.half == settings


@pytest.mark.slow
@pytest.mark.parametrize("emulated", [True, False])
def test_bfloat16_that_is_emulated_is_not_compiled(rooms, small, monkeypatch, emulated):
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: not emulated)
    deployment, wanted = sys.modules["strfnet.deployment.optimizer"], {}

    def optimize(network, clip_shape, *, dtype, compiled, backend, rounded=deployment.optimize):
        wanted[dtype] = (compiled, backend)
        return rounded(network, clip_shape, dtype=dtype)

    monkeypatch.setattr(deployment, "optimize", optimize)
    rooms.networks.deployed("p3dc_{}", 1, rooms.settings)
    assert wanted == {
        torch.float32: (True, "auto"),
        torch.bfloat16: (False, "inductor") if emulated else (True, "auto"),
    }


@pytest.mark.slow
def test_strf_has_a_price(rooms, by_quantity):
    rows = by_quantity(rooms.networks.price(2, rooms.settings))
    for name in ("eager", "deployed"):
        price = rows[f"{name}: with STRF takes"]
        assert price.at_most and price.goal == 1.03 and price.case == "STRF, T = 4, batch 2"


def test_one_more_frame_is_held_against_the_clip_both_deployed(rooms, by_quantity, monkeypatch):
    spread = rooms.interleaved.Spread
    ratios = {"eager": spread(7.0, 6.0, 8.0), "deployed": spread(8.5, 8.0, 9.0)}
    row = types.SimpleNamespace(apart=1e-6, ratios=ratios, macs=0.14, seconds={"stream": 0.5})
    monkeypatch.setattr(rooms.networks, "measured", lambda *_: row)
    rows = by_quantity(rooms.networks.one_more_frame(rooms.settings))
    assert goals_of(rows) == {"deployed: the clip anew takes": 8.0} and rows["stream: embedding differs"].reached


@pytest.mark.slow
def test_every_part_of_a_network_matters(rooms):
    for form in rooms.cases.NETWORKS:
        network = rooms.cases.awake(form.format("resnet18"), rooms.settings)
        sleeping = [name for name, p in network.named_parameters() if not p.abs().max() > 1e-3]
        assert not sleeping and not network.training, form


def test_blocks_agree_and_growth_is_shown(rooms, by_quantity):
    settings = dataclasses.replace(rooms.settings, judged=False)
    for case in rooms.blocks.FORMS:
        rows = by_quantity(rooms.blocks.block(case, settings))
        assert rows["eager: output differs"].reached, case
    assert set(by_quantity(rooms.blocks.growth("block", settings))) == {"published, T = 4", "eager, T = 4"}


def test_memory_is_judged_at_every_length(rooms, by_quantity, monkeypatch):
    asked = []

    def afresh(subject, frames):
        asked.append((subject, frames))
        return frames**2 * 10.0 if subject in rooms.memory.OF.values() else float(frames)

    monkeypatch.setattr(rooms.memory, "measured_afresh", afresh)
    rows = by_quantity(rooms.memory.figures())
    assert {subject for subject, frames in asked if frames == 64} == {
        "strfnet", "strfnet, dot", "strfnet, 16 stripes"
    }  # fmt: skip
    assert rows["strfnet, T = 8: of explicit"].value == 8 / 640 and rows["strfnet: growth exponent"].value == 1
    judged = {name: row.goal for name, row in rows.items() if row.goal is not None}
    assert judged == {
        "strfnet, T = 8: of explicit": 0.18,
        "strfnet, T = 32: of explicit": 0.05,
        "nvan, strfnet, T = 8: of nvan, published": 0.35,
        "strfnet, at T = 64": 250,
        "strfnet: growth exponent": 1.0,
        "strfnet, training: growth exponent": 1.05,
    }
    assert all(row.at_most for row in rows.values() if row.goal is not None)


@pytest.mark.parametrize("form", ["compiled", "openvino"])
def test_what_is_chosen_is_held_against_the_fastest_runtime(rooms, by_quantity, small, monkeypatch, form):
    deployment = sys.modules["strfnet.deployment.optimizer"]

    def optimize(network, clip_shape, *, dtype, rounded=deployment.optimize, **_):
        chosen = rounded(network, clip_shape, dtype=dtype)
        chosen.form, type(chosen).compile_for = form, lambda self, clip: None
        return chosen

    def in_turn(calls, **_):
        taken = {"published": 9.0, "deployed": 6.0, "bfloat16": 4.0, "openvino": 3.0, "onnxruntime": 2.0, "auto": 2.0}
        return rooms.interleaved.Timings({name: [taken.get(name, 1.0)] for name in calls})

    monkeypatch.setattr(deployment, "optimize", optimize)
    monkeypatch.setattr(rooms.cases, "in_turn", in_turn)
    monkeypatch.setattr(rooms.cases, "has_bfloat16", lambda: True)
    rows = by_quantity(rooms.networks.deployed("p3dc_{}", 1, rooms.settings))
    ratios = [rows[f"{way}: the fastest runtime takes"].value for way in ("deployed", "bfloat16")]
    assert ratios == ([2 / 2, 3 / 2] if form == "openvino" else [2 / 6, 3 / 4])
    assert rows["deployed: published takes"].value == 9 / 6, "of the network that PyTorch compiles"
    assert ("deployed, auto: output differs" in rows) == (form == "openvino")
    assert "deployed, onnxruntime" in rows and "bfloat16, onnxruntime" not in rows


def test_on_all_threads_and_in_batches_only_runtimes_are_beside(rooms, by_quantity, small):
    settings = dataclasses.replace(rooms.settings, threads=2)
    rows = by_quantity(rooms.networks.deployed("strf_p3dc_{}", 2, settings, (torch.float32,)))
    assert {row.case for row in rows.values()} == {"strf_p3dc_resnet18, deployed, batch 2, all threads"}
    assert goals_of(rows) == {"deployed: the fastest runtime takes": 0.95}
