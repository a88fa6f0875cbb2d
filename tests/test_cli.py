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
from strfnet.cli.parser import main
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


def embed_call(walkers, out, model="strf_p3dc_resnet18"):
    small = ["--clips", "restricted_first:2", "--height", "64", "--width", "32", "--device", "cpu"]
    return ["embed", "--model", model, "--data", str(walkers), "--out", str(out), *small]


def refused(capsys, *argv):
    """What a wrong call is told."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1]


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["train", "--help"], ["evaluate", "--help"]], ids=" ".join
)
def test_help_and_version_take_under_a_second_and_no_torch(words):
    code = (
        f"import sys; from strfnet.cli.parser import main; c = main({words!r}); sys.exit(c or 'torch' in sys.modules)"
    )
    before = os.times()
    process = start("-c", code, stdout=subprocess.PIPE)
    out, err = process.communicate()
    after = os.times()
    assert process.returncode == 0 and err == "" and "strfnet" in out
    assert sum(after[2:4]) - sum(before[2:4]) < 1  # its processor time, however busy the machine is


def test_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"strfnet {strfnet.__version__}\n"


def test_models_are_listed_one_to_a_line(capsys):
    assert main(["models"]) == 0
    assert capsys.readouterr().out.split() == strfnet.list_models()


def test_profile_prints_the_table_of_the_network(capsys):
    assert main(["profile", "strf_p3dc_resnet18", "--clip", "1", "3", "4", "64", "32", "--depth", "1"]) == 0
    report = strfnet.profile(strfnet.create_model("strf_p3dc_resnet18"), (1, 3, 4, 64, 32))
    assert capsys.readouterr().out == report.table(depth=1) + "\n"


def test_profile_prints_json(capsys):
    assert main(["profile", "c2d_resnet18", "--clip", "2", "3", "2", "64", "32", "--json"]) == 0
    report = strfnet.profile(strfnet.create_model("c2d_resnet18"), (2, 3, 2, 64, 32))
    assert json.loads(capsys.readouterr().out) == json.loads(report.to_json())


def test_embed_writes_the_same_file_twice(tmp_path, walkers, no_weights, capsys):
    for name in ("one", "two"):
        assert main(embed_call(walkers, tmp_path / name)) == 0
        out, err = capsys.readouterr()
        assert out == f"4 embeddings of 512 numbers are in {tmp_path / name}\n"
        assert "starts from random weights; it was not trained to tell people apart" in err
        assert "4 of 4 tracklets embedded" in err
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with safe_open(tmp_path / "one", "pt") as file:
        assert file.get_tensor("embeddings").shape == (4, 512)
        people = [entry["identity"] for entry in json.loads(file.metadata()["tracklets"])]
    assert people == ["walker1", "walker1", "walker2", "walker2"]


@pytest.mark.parametrize("model", ["strf_p3dc_resnet18", "nvan_temporal_resnet18"])
def test_embed_starts_from_weights_that_are_at_hand(tmp_path, walkers, no_weights, capsys, model):
    from torchvision.models import resnet18

    network = resnet18()
    torch.nn.init.zeros_(network.conv1.weight)  # a network that sees nothing
    torch.save(network.state_dict(), no_weights / "resnet18-f37072fd.pth")
    assert main([*embed_call(walkers, tmp_path / "out", model), "--clips", "restricted_first:4"]) == 0
    assert "starts from torchvision's IMAGENET1K_V1, found at hand" in capsys.readouterr().err
    with safe_open(tmp_path / "out", "pt") as file:
        embeddings = file.get_tensor("embeddings")
    torch.testing.assert_close(embeddings, embeddings[:1].expand(4, -1))


def test_wrong_names_are_refused_with_the_nearest_one(capsys):
    assert "no command 'profil', the nearest is 'profile'" in refused(capsys, "profil")
    assert "no option '--dept', the nearest is '--depth'" in refused(capsys, "profile", "x", "--dept", "1")
    assert "no option 'modell', the nearest is 'model'" in refused(capsys, "embed", "--modell=x")
    wrong_model = refused(capsys, "profile", "strf_p3d_resnet50")
    assert "no model 'strf_p3d_resnet50', the nearest is 'strf_p3dc_resnet50'" in wrong_model


def test_wrong_model_of_embed_is_a_wrong_call(tmp_path, walkers, capsys):
    call = embed_call(walkers, tmp_path / "out", model="ste_nvan")
    assert "no model 'ste_nvan', the nearest is" in refused(capsys, *call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "required: COMMAND"),
        (["profile"], "required: NAME"),
        (["embed", "--model", "x"], "required: data, out"),
        (["embed", "--data", "x", "--out", "y"], "trained is None and model is None, wanted one of the two"),
        (["embed", "--data", "x", "--out", "y", "--model", "c2d_resnet8", "--clips", "all_frames"], "all_frames:8"),
        (["embed", "--data", "x", "--out", "y", "--model", "c2d_resnet8", "--clips", "al:8"], "is 'all_frames'"),
        (["embed", "--data", "x", "--out", "y", "--model", "c2d_resnet8", "--format", "mar"], "nearest is 'mars'"),
        (["embed", "--data", "x", "--out", "y", "--trained", "z", "--weights", "w"], "has its own"),
        (["embed", "--data", "x", "--out", "y", "--model", "c2d_resnet8", "--best", "true"], "wanted trained"),
        (
            ["embed", "--data", "x", "--out", "y", "--model", "c2d_resnet8", "--batch", "0"],
            "batch must be at least 1",
        ),
        (["evaluate", "--data", "x", "--model", "c2d_resnet8", "--protocol", "ap3"], "the nearest is 'ap3d'"),
        (["profile", "x", "--clip", "1", "3", "0", "64", "32"], "'0' is no whole number above 0"),
        (["profile", "x", "--clip", "1", "3"], "expected 5 arguments"),
        (["profile", "x", "--depth", "-1"], "--depth"),
        (["profile", "x", "y"], "unrecognized arguments: y"),
    ],
)
def test_wrong_calls_are_refused(capsys, argv, message):
    assert message in refused(capsys, *argv)


@pytest.mark.parametrize(
    ("data", "out", "message"),
    [
        ("missing", "out", "missing is missing, wanted <identity>"),
        ("", "no/folder/out", "no/folder/out, wanted a file in a folder that exists"),
        ("", "", ", wanted a file in a folder that exists"),
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
    assert main(["profile", "c2d_resnet18", "--clip", "1", "4", "2", "64", "32"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("strfnet: error: ") and err.count("\n") == 1 and "4" in err


@pytest.mark.parametrize("place", [0, 9])
def test_debug_shows_where_it_failed(tmp_path, walkers, place):
    call = embed_call(walkers / "missing", tmp_path / "out")
    call.insert(place, "--debug")
    with pytest.raises(ValueError, match="missing"):
        main(call)


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
@pytest.mark.parametrize(("command", "unbuffered"), [("models", ""), ("models", "1"), ("--help", "")])
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
    assert "starts from" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (130, "", "strfnet: interrupted\n")
    assert not (tmp_path / "out").exists()
