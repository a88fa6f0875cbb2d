"""Exported files answer as the network does, whoever reads them; what is wrong is never kept."""

import importlib.util
import json
import os
import subprocess
import sys

import onnx
import onnxruntime
import pytest
import torch
from strategies import wake
from torch import nn

import strfnet
from strfnet.cli import parser as cli
from strfnet.deployment import export, open_exported
from strfnet.layers import set_attention
from strfnet.layers.head import ReIDOutput
from strfnet.layers.reduction import TemporalReduction


class Own(nn.Module):
    """A small network of a user: frames through a convolution, the mean of all, and what a test does to it."""

    def __init__(self, change=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 5, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.change = change

    def forward(self, clip):
        maps = self.norm(self.conv(clip.transpose(1, 2).flatten(0, 1)))
        embedding = maps.unflatten(0, (-1, clip.shape[2])).amax(dim=(3, 4)).mean(dim=1)
        return embedding if self.change is None else self.change(embedding, clip)


class Merging(Own):
    """Frames merged twice, and an attention that knows one merged frame from several."""

    def __init__(self):
        super().__init__()
        self.merge = nn.Sequential(TemporalReduction(), TemporalReduction())
        self.attend = strfnet.NonLocalBlock(3, stripes=2)

    def forward(self, clip):
        return super().forward(self.attend(self.merge(clip)))


def clip(b, t, size=(16, 12)):
    return torch.randn(b, 3, t, *size, generator=torch.Generator().manual_seed(b * t))


def woken(name):
    torch.manual_seed(0)
    return wake(strfnet.create_model(name, num_classes=3)).eval().requires_grad_(False)


def agree(answer, expected):
    assert answer.shape == expected.shape
    assert (torch.as_tensor(answer) - expected).abs().max() <= 1e-4 * expected.abs().max()


def onnx_session(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", ["ste_nvan_resnet8", pytest.param("ap3d_nl_resnet8", marks=pytest.mark.slow)])
def test_onnx_answers_as_the_network_does_for_any_batch_and_frames(name, tmp_path):
    network = woken(name)
    told = export(network, tmp_path / "network.onnx", size=(64, 16))
    session = onnx_session(tmp_path / "network.onnx")
    for b, t in ((2, 8), (4, 7), (1, 1), (1, 2), (2, 3), (1, 4)):  # fewer than five frames too
        (answer,) = session.run(["embedding"], {"clip": clip(b, t, (64, 16)).numpy()})
        agree(answer, network(clip(b, t, (64, 16))).embedding)
    assert told.description["frames_at_least"] == (5 if "ste" in name else 1)


@pytest.mark.slow
def test_a_program_answers_as_the_network_does_for_any_batch_and_frames(tmp_path):
    network = woken("strf_p3dc_resnet8")
    export(network, tmp_path / "network.pt2", "pt2", size=(32, 16))
    beside = {"strfnet": ""}
    program = torch.export.load(tmp_path / "network.pt2", extra_files=beside).module()
    for b, t in ((2, 8), (4, 7), (1, 1), (3, 2)):
        agree(program(clip(b, t, (32, 16))), network(clip(b, t, (32, 16))).embedding)
    assert json.loads(beside["strfnet"])["model"] == "strf_p3dc_resnet8"
    assert (tmp_path / "network.pt2").stat().st_size < 1.5e6  # no sample clip, no traces


PACKAGE = "import pathlib, sys, test_exporting; test_exporting.package_answers(pathlib.Path(sys.argv[1]))"


@pytest.mark.slow
def test_a_package_answers_as_the_network_does(tmp_path):
    # In a process of its own: machine code that fails ends the process, and this shows where.
    command = [sys.executable, "-X", "faulthandler", "-c", PACKAGE, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def package_answers(folder):
    network = wake(Own())
    told = export(network, folder / "network.pt2", "package", size=(16, 12))
    package = torch._inductor.aoti_load_package(str(folder / "network.pt2"))
    network.eval()
    for b, t in ((2, 8), (5, 1)):
        agree(package(clip(b, t)), network(clip(b, t)).detach())
    assert json.loads(package.loader.get_metadata()["strfnet"]) == json.loads(json.dumps(told.description))


@pytest.mark.slow
def test_merged_frames_need_five_in_a_program_and_the_file_says_so(tmp_path):
    network = wake(Merging())
    told = export(network, tmp_path / "network.pt2", "pt2", size=(16, 12))
    assert told.description["frames_at_least"] == 5
    assert {check.clip_shape[2] for check in told.checks} == {5, 8}
    program = torch.export.load(tmp_path / "network.pt2").module()
    agree(program(clip(1, 6)), network.eval()(clip(1, 6)).detach())
    with pytest.raises((AssertionError, RuntimeError), match=">= 5"):
        program(clip(1, 4))


def test_an_onnx_file_says_what_it_is_and_nothing_of_this_machine(tmp_path):
    network = wake(strfnet.create_model("p3dc_resnet8", num_classes=3))
    told = export(network, tmp_path / "network.onnx", size=(32, 16))
    model = onnx.load(tmp_path / "network.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    session = onnx_session(tmp_path / "network.onnx")
    (given,), (answered,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("clip", ["batch", 3, "frames", 32, 16])
    assert (answered.name, answered.shape) == ("embedding", ["batch", 64])
    about = json.loads(session.get_modelmeta().custom_metadata_map["strfnet"])
    assert about["model"] == "p3dc_resnet8" and about["strfnet"] == strfnet.__version__
    assert about["clip"] == given.shape and about["mean"] == [0.485, 0.456, 0.406]
    assert (about["clips"], about["distance"]) == ("restricted_first:8", "cosine") and about["unit_length"] is False
    assert b".py" not in (tmp_path / "network.onnx").read_bytes()
    assert told.size == (tmp_path / "network.onnx").stat().st_size
    assert [check.clip_shape[:3] for check in told.checks] == [(1, 3, 1), (1, 3, 4), (3, 3, 1), (3, 3, 4)]
    assert all(check.error <= 1e-4 and check.file_seconds > 0 for check in told.checks)
    head, use, columns, *rows = str(told).splitlines()
    assert head.startswith("p3dc_resnet8 as onnx in") and "difference" in columns and len(rows) == 4
    assert use == "embeddings not of length 1, compared by cosine distance, of clips sampled by restricted_first:8"


def test_the_network_stays_as_it_was_and_need_not_be_float32_or_in_evaluation(tmp_path):
    network = wake(Own(lambda embedding, clip: ReIDOutput(embedding, 0 * embedding, None))).double().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    export(network, tmp_path / "network.onnx", size=(16, 12))
    assert network.training and network.conv.weight.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    (answer,) = onnx_session(tmp_path / "network.onnx").run(None, {"clip": clip(2, 3).numpy()})
    agree(answer, network.eval()(clip(2, 3).double()).embedding.detach())


def test_a_network_whose_attention_suits_a_gpu_is_exported_in_the_form_of_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr("strfnet.layers.attention.CHUNK", 5)
    network = woken("nvan_resnet8")
    set_attention(network, "chunked")
    assert export(network, tmp_path / "n.pt2", "pt2", size=(64, 32)).description["frames_at_least"] == 1
    assert network.backbone.layer2[0].after[0].attention_form == "chunked"


def test_a_file_says_how_its_embeddings_are_used(tmp_path):
    network = wake(Own(lambda embedding, clip: nn.functional.normalize(embedding)))
    told = export(network, tmp_path / "n.onnx", size=(16, 12), clips=("all_frames", 32), distance="euclidean")
    _, text = open_exported(tmp_path / "n.onnx", "onnx", threads=1)
    read = json.loads(text)
    assert (read["clips"], read["distance"], read["unit_length"]) == ("all_frames:32", "euclidean", True)
    assert "embeddings of length 1, compared by euclidean distance, of clips sampled by all_frames:32" in str(told)
    with pytest.raises(ValueError, match="distance must be one of cosine, euclidean, got 'dot'"):
        export(network, tmp_path / "n.onnx", size=(16, 12), distance="dot")
    with pytest.raises(ValueError, match=r"sampling must be one of .*, got 'none'"):
        export(network, tmp_path / "n.onnx", size=(16, 12), clips=("none", 8))


def rounding(embedding, clip):
    """Cancels most digits: what float32 leaves differs from float64 by about 3e-4."""
    return (embedding + 2e4) - 2e4


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 1.01])
def test_the_allowed_difference_follows_the_rounding_of_the_network(factor, tmp_path):
    wrong = lambda embedding, clip: embedding * factor if torch.compiler.is_exporting() else embedding  # noqa: E731
    network = wake(Own(lambda embedding, clip: wrong(rounding(embedding, clip), clip)))
    if factor != 1:
        with pytest.raises(ValueError, match=r"differs .* by (1\.\de-02|9\.\de-03) .*not kept"):
            export(network, tmp_path / "network.pt2", "pt2", size=(16, 12))
        return
    told = export(network, tmp_path / "network.pt2", "pt2", size=(16, 12))
    assert max(check.error for check in told.checks) > 1e-4
    assert all(1e-5 < check.rounding < 1e-3 and check.error <= 4 * check.rounding for check in told.checks)


@pytest.mark.slow
def test_a_network_that_does_not_run_in_float64_is_compared_in_float32(tmp_path):
    told = export(
        wake(Own(lambda embedding, clip: embedding @ torch.eye(4))), tmp_path / "network.pt2", "pt2", size=(16, 12)
    )
    assert all(check.rounding is None and check.error < 1e-5 for check in told.checks)


def twice_when_exported(embedding, clip):
    return 2 * embedding if torch.compiler.is_exporting() else embedding


def wider_when_exported(embedding, clip):
    return torch.cat([embedding, embedding], dim=1) if torch.compiler.is_exporting() else embedding


def turned(embedding, clip):
    return embedding if embedding.sum() > 0 else -embedding


def at_eight(embedding, clip):
    return 2 * embedding if clip.shape[2] == 8 else embedding


WRONG = {
    "another answer": (
        twice_when_exported,
        r"differs .* by 1\.0e\+00 .*wanted at most 1e-04.*not kept",
    ),
    "another shape": (wider_when_exported, r"returns \(1, 8\) for a clip .*, wanted \(1, 4\)"),
    "not a number": (lambda embedding, clip: embedding * float("nan"), "by nan of the largest value"),
    "an unknown operator": (
        lambda embedding, clip: torch.linalg.eigvals(embedding.mT @ embedding).real,
        "linalg_eig",
    ),
    "a branch on values": (turned, "meta"),
    "a branch on frames": (at_eight, r"exported as onnx: .*frames"),
    "only rounding": (
        lambda embedding, clip: (embedding + 1e9) - 1e9,
        "own output in float32 differs .* wanted at most 1e-02",
    ),
    "no embedding": (lambda embedding, clip: [embedding], "the output is list"),
}


@pytest.mark.parametrize(("change", "reason"), WRONG.values(), ids=WRONG)
def test_what_is_not_right_is_refused_and_the_file_that_was_there_stays(change, reason, tmp_path):
    (tmp_path / "network.onnx").write_bytes(b"before")
    with pytest.raises(ValueError, match=reason):
        export(Own(change), tmp_path / "network.onnx", size=(16, 12))
    assert [path.name for path in tmp_path.iterdir()] == ["network.onnx"]
    assert (tmp_path / "network.onnx").read_bytes() == b"before"


def test_a_wrong_call_is_refused_before_any_work(tmp_path):
    network = Own()
    with pytest.raises(ValueError, match="format is 'tflite', wanted one of onnx, pt2, package"):
        export(network, tmp_path / "network.tflite", "tflite")
    with pytest.raises(ValueError, match=r"ends in \.pt2 for package"):
        export(network, tmp_path / "network.onnx", "package")
    with pytest.raises(ValueError, match="wanted a file in an existing folder"):
        export(network, tmp_path / "none" / "network.onnx")
    with pytest.raises(ValueError, match=r"size is \(0, 5\)"):
        export(network, tmp_path / "network.onnx", size=(0, 5))
    with pytest.raises(ValueError, match=r"does not take clips .* = \(2, 3, 6, 16, 4\)"):
        export(network, tmp_path / "network.onnx", size=(16, 4))
    with pytest.raises(ValueError, match="stripes need as many rows"):
        export(woken("ste_nvan_resnet8"), tmp_path / "network.onnx", size=(32, 16))
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else found(name))
    with pytest.raises(ImportError, match=r'needs onnxruntime: pip install "strfnet\[onnx\]"'):
        export(Own(), tmp_path / "network.onnx")


def test_a_missing_compiler_is_named(tmp_path):
    # Not monkeypatch, which would leave PyTorch without the setting that it had put back.
    settings = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with torch._inductor.config.patch(settings), pytest.raises(ValueError, match=r"package: .*[cC]ompiler"):
        export(Own(), tmp_path / "network.pt2", "package", size=(16, 12))
    assert not list(tmp_path.iterdir())


def test_a_network_is_exported_from_the_command_line(tmp_path, capsys):
    words = ["export", "--model", "resnet8_fpl", "--out", str(tmp_path / "network.onnx")]
    assert cli.main([*words, "--height", "32", "--width", "16"]) == 0
    assert "resnet8_fpl as onnx" in capsys.readouterr().out
    assert onnx_session(tmp_path / "network.onnx").get_inputs()[0].shape == ["batch", 3, "frames", 32, 16]
    assert cli.main([*words, "--format", "onx"]) == 2
    assert "onnx" in capsys.readouterr().err
    assert cli.main([*words, "--format", "pt2"]) == 1
    assert "ends in .pt2 for pt2" in capsys.readouterr().err
    assert cli.main([*words, "--trained", str(tmp_path)]) == 2
    assert "wanted one of the two" in capsys.readouterr().err
