"""The check of a GPU, run on the CPU on tiny networks: its sections, its report, and what makes it fail."""

import json

import pytest
import torch


@pytest.fixture
def check(load, monkeypatch):
    module = load("gpu_check")
    monkeypatch.setattr(module.strfnet, "list_models", lambda: ["p3dc_resnet8", "strf_p3dc_resnet8", "c2d_resnet18"])
    monkeypatch.setattr(module, "MAIN", ("p3dc_{}", "strf_p3dc_{}"))
    monkeypatch.setattr(module, "BLOCKS", {"layer3": (16, 4, 2)})
    return module


@pytest.mark.slow
def test_every_section_runs_and_is_stored(check, run, tmp_path):
    file = tmp_path / "gpu.json"
    status, out = run("gpu_check", "--dry", "--json", file)
    report = json.loads(file.read_text())
    assert status == 0 and report["dry"] and json.loads(out) == report
    assert [name for name in report if name in {section.__name__ for section in check.SECTIONS}] == [
        section.__name__ for section in check.SECTIONS
    ]
    assert set(report["correctness"]["differences"]) == {"p3dc_resnet8", "strf_p3dc_resnet8"}
    assert report["correctness"]["wrong"] == [] and report["machine"]["gpu"] is None
    assert "fuse_batch_norms" in str(report["correctness"]["differences"]["p3dc_resnet8"]["optimize"])
    assert report["attention"]["layer3, float32"]["chosen"] == "fused"
    assert report["price"]["batch 1, eager, forward"] > 0 and report["feeding"]["p3dc_resnet8"] > 0
    assert report["roof"]["p3dc_resnet8, TF32"]["published"]["ms"] > 0
    assert report["syncs"] == {"p3dc_resnet8": [], "strf_p3dc_resnet8": []}
    recipes = [f"{name}_resnet8, {recipe}" for name in ("p3dc", "strf_p3dc") for recipe in ("fp32", "bf16")]
    assert list(report["training"]) == recipes and report["deployed"]["p3dc_resnet8"]["form"] == "fused"
    assert all(row["repeats"] and row["the host waits"] == {} for row in report["training"].values())


def test_a_network_that_differs_and_a_section_that_fails_are_reported(check, run, monkeypatch):
    def wrong(network, clip, number):
        output = network(clip)
        return output._replace(embedding=output.embedding * 1.001)

    monkeypatch.setattr(check, "called", wrong)
    status, out = run("gpu_check", "--dry", "--only", "correctness")
    assert status == 1 and json.loads(out)["correctness"]["wrong"] == ["p3dc_resnet8", "strf_p3dc_resnet8"]
    monkeypatch.setattr(check, "probes", None)
    status, out = run("gpu_check", "--dry", "--only", "roof")
    assert status == 1 and json.loads(out)["roof"]["failed"].startswith("TypeError")


def test_a_run_that_does_not_repeat_is_reported(load, monkeypatch):
    training = load("cuda_training")

    def noisy(network, objective, clips, recipe, folder, progress):
        assert recipe.deterministic and len(clips) == 8
        network.backbone.conv1.weight.data[0, 0, 0, 0] += next(noise)

    monkeypatch.setattr(training, "train", noisy)
    settings = training.Settings("resnet8", frames=4, frame=(64, 32))
    for added, repeats in (([0, 0], True), ([0, 1], False)):
        noise = iter(added)
        assert training.repeated(settings, "p3dc_resnet8", {})["repeats"] == repeats


def test_without_a_gpu_it_says_what_to_do(run, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        run("gpu_check")
    assert "--dry runs the same code on the CPU" in capsys.readouterr().err
