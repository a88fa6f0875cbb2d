import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import strfnet
from strfnet.cli import main
from strfnet.data.synthetic import write_walkers

pytestmark = pytest.mark.filterwarnings("ignore:The image:DeprecationWarning")
ROOT = Path(__file__).parents[1]


def start(*arguments, unbuffered="", **options):
    """The command line in its own process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, *arguments]
    # A suite that was started in the background ignores Ctrl-C, and so would this process.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed, **options)


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "walkers"
    write_walkers(folder, identities=2, cameras=2, frames=3, height=32)
    return folder


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (tmp_path / "torch/hub/checkpoints").mkdir(parents=True)
    return tmp_path / "torch/hub/checkpoints"


def embed_call(walkers, out, model="strf_p3dc_resnet8"):
    small = ["--clips", "restricted_first:2", "--height", "64", "--width", "32", "--device", "cpu"]
    return ["embed", "--model", model, "--data", str(walkers), "--out", str(out), *small]


@pytest.mark.parametrize("words", ["--help", "--version", "train --help", "evaluate --help"])
def test_help_and_version_take_under_a_second_and_no_torch(words):
    code = (
        f"import sys; from strfnet.cli import main; c = main({words.split()}); sys.exit(c or 'torch' in sys.modules)"
    )
    before = os.times()
    process = start("-c", code, stdout=subprocess.PIPE)
    out, err = process.communicate()
    after = os.times()
    assert process.returncode == 0 and err == "" and "strfnet" in out
    assert sum(after[2:4]) - sum(before[2:4]) < 1  # its processor time, however busy the machine is


def test_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"strfnet {strfnet.__version__}\n"


def test_models_are_listed_one_to_a_line(capsys):
    assert main(["models"]) == 0
    assert capsys.readouterr().out.split() == strfnet.list_models()


def test_profile_prints_the_table_of_the_network_or_json(capsys):
    words = ["profile", "strf_p3dc_resnet8", "--clip", "2", "3", "4", "64", "32"]
    report = strfnet.profile(strfnet.create_model("strf_p3dc_resnet8"), (2, 3, 4, 64, 32))
    assert main([*words, "--depth", "1"]) == 0
    assert capsys.readouterr().out == report.table(depth=1) + "\n"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(report.to_json())


def test_embed_writes_the_same_file_twice(tmp_path, walkers, no_weights, capsys):
    for name in ("one", "two"):
        assert main(embed_call(walkers, tmp_path / name)) == 0
        out, err = capsys.readouterr()
        assert out == f"4 embeddings of 64 numbers are in {tmp_path / name}\n"
        assert "strf_p3dc_resnet8 has random weights and is not trained for re-identification" in err
        assert "4 of 4 tracklets embedded" in err
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert file.get_tensor("embeddings").shape == (4, 64)
        identities = [entry["identity"] for entry in json.loads(file.metadata()["tracklets"])]
    assert identities == ["walker1", "walker1", "walker2", "walker2"]


@pytest.mark.parametrize("model", ["strf_p3dc_resnet18", "nvan_temporal_resnet18"])
def test_embed_starts_from_cached_weights(tmp_path, walkers, no_weights, capsys, model):
    from torchvision.models import resnet18

    network = resnet18()
    torch.nn.init.zeros_(network.conv1.weight)  # a network whose output does not depend on its input
    torch.save(network.state_dict(), no_weights / "resnet18-f37072fd.pth")
    assert main([*embed_call(walkers, tmp_path / "out", model), "--clips", "restricted_first:4"]) == 0
    assert "has torchvision's IMAGENET1K_V1 in the 2-D backbone" in capsys.readouterr().err
    with safe_open(tmp_path / "out", "pt") as file:
        embeddings = file.get_tensor("embeddings")
    torch.testing.assert_close(embeddings, embeddings[:1].expand(4, -1))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["profile", "strf_p3d_resnet50"], "no model 'strf_p3d_resnet50', the nearest is 'strf_p3dc_resnet50'"),
        (["convert", "in", "out", "--name", "x"], "no model 'x'"),
        (["embed", "--model", "ste_nvan"], "there is no model 'ste_nvan', the nearest is"),
        (["embed", "--model", "c2d_resnet8", "--clips", "all_frames"], "such as all_frames:8"),
        (["embed", "--model", "c2d_resnet8", "--clips", "al:8"], "no clip sampler 'al', the nearest is 'all_frames'"),
        (["evaluate", "--trained", "/nowhere/run"], "/nowhere/run does not exist"),
    ],
)
def test_a_wrong_name_is_a_wrong_call(tmp_path, walkers, capsys, words, message):
    embed = ["--data", str(walkers), "--out", str(tmp_path / "out")]
    assert main([*words, *(embed if words[0] == "embed" else [])]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("data", "out", "message"),
    [
        ("missing", "out", "missing is missing, wanted <identity>"),
        ("", "no/folder/out", "no/folder/out, wanted a file in an existing folder"),
        ("", "", ", wanted a file in an existing folder"),
    ],
)
def test_failures_are_one_line_and_exit_code_1(tmp_path, walkers, capsys, data, out, message):
    assert main(embed_call(walkers / data, tmp_path / out)) == 1
    printed, err = capsys.readouterr()
    assert printed == "" and err.count("\n") == 1
    assert err.startswith("strfnet: error: ") and message in err


def test_a_bad_frame_is_one_line_with_its_path_and_leaves_no_file(tmp_path, no_weights, capsys):
    write_walkers(tmp_path / "data", identities=1, cameras=1, frames=2, height=32)
    frame = next((tmp_path / "data").rglob("0001.jpg"))
    frame.write_bytes(frame.read_bytes()[:99])
    assert main(embed_call(tmp_path / "data", tmp_path / "out")) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"strfnet: error: cannot read the frame {frame}")
    assert not (tmp_path / "out").exists()


def test_a_clip_the_network_cannot_take_is_one_line(capsys):
    assert main(["profile", "c2d_resnet8", "--clip", "1", "4", "2", "64", "32"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("strfnet: error: ") and err.count("\n") == 1 and "4" in err


@pytest.mark.parametrize("place", [0, 9])
def test_debug_shows_where_it_failed(tmp_path, walkers, place):
    call = embed_call(walkers / "missing", tmp_path / "out")
    call.insert(place, "--debug")
    with pytest.raises(ValueError, match="missing"):
        main(call)


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.parametrize(("command", "unbuffered"), [("models", "1"), ("--help", "")])
def test_a_closed_pipe_leaves_no_traceback(command, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    process = start("-m", "strfnet.cli", command, unbuffered=unbuffered, stdout=writing)
    os.close(writing)
    assert process.communicate()[1] == ""
    assert process.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_ctrl_c_leaves_no_traceback_and_no_file(tmp_path, walkers):
    call = embed_call(walkers, tmp_path / "out", model="nvan_resnet50")
    process = start("-m", "strfnet.cli", *call, stdout=subprocess.PIPE)
    assert "4 tracklets, 12 frames" in process.stderr.readline()
    assert "has random weights" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "strfnet: interrupted\n")
    assert not (tmp_path / "out").exists()
