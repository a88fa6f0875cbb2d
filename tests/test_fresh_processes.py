"""What a user calls first, each in a process that has imported nothing yet."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from sweeps import sweep
from torchvision.models import resnet18

import strfnet
from strfnet.cli import main, options
from strfnet.data import Tracklet
from strfnet.data.synthetic import draw_set, write_mars
from strfnet.deployment import export, optimize
from strfnet.inference import save_embeddings
from strfnet.system.compat import require_torch

ROOT = Path(__file__).parents[1]
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
WALKERS = ROOT / "strfnet/weights/pretrained/strf_c2d_resnet8_walkers.safetensors"
TRAINING = """
model: c2d_resnet8
format: mars
complete: false
height: 32
width: 16
frames: 2
batch: 4
identities: 2
tracklets: 2
epochs: 1
milestones: []
protocol: nvan
workers: 0
device: cpu
"""


def fresh(*arguments):
    """Runs Python with these arguments in a new process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    write_mars(folder / "data", draw_set(train=4, test=3, cameras=2, frames=4, height=32))
    (folder / "training.yaml").write_text(f"{TRAINING}data: {folder}/data\n")
    torch.save(resnet18().state_dict(), folder / "resnet18.pth")
    with av.open(str(folder / "video.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (folder / "tracks.txt").write_text("1,1,4,8,12,32,1,-1,-1,-1\n2,1,4,8,12,32,1,-1,-1,-1\n")
    seen = [Tracklet((np.zeros((4, 2, 3), np.uint8),), None, camera) for camera in (1, 2)]
    facts = {"network": "n", "weights": "w", "clips": "all_frames:2", "metric": "cosine"}
    facts |= {"size": [32, 16], "interpolation": "bilinear"}
    save_embeddings(folder / "gallery.safetensors", torch.eye(2), seen, facts)
    return folder


@pytest.mark.fresh_process
@pytest.mark.parametrize("name", sweep(["strf_c2d_resnet8", "strf_p3dc_resnet18"], quick=1))
@pytest.mark.parametrize("asked", ["import strfnet", "from strfnet import create_model"])
def test_a_network_is_created_on_the_meta_device(name, asked):
    create = "create_model" if "from" in asked else "strfnet.create_model"
    script = f"import torch\n{asked}\nwith torch.device('meta'):\n    network = {create}({name!r})\n"
    done = fresh("-c", script + "print({tensor.device.type for tensor in network.parameters()})")
    assert (done.returncode, done.stdout) == (0, "{'meta'}\n"), done.stderr


def test_a_network_is_loaded():
    script = f"import strfnet\nprint(next(strfnet.load({str(WALKERS)!r}).parameters()).device)"
    done = fresh("-c", script)
    assert (done.returncode, done.stdout) == (0, "cpu\n"), done.stderr


ON_DATA = "--model strf_c2d_resnet8 --height 32 --width 16 --device cpu --workers 0 --data {0}/data --format mars"
COMMANDS = {
    "models": "models",
    "profile": "profile strf_c2d_resnet8 --clip 1 3 2 32 16",
    "convert": "convert {0}/resnet18.pth {0}/converted.safetensors",
    "check": "check {0}/data --format mars",
    "train": "train --config {0}/training.yaml --out {0}/run",
    "evaluate": f"evaluate {ON_DATA} --complete false --protocol nvan",
    "crop": "crop --video {0}/video.mkv --tracks {0}/tracks.txt --camera c1 --out {0}/crops",
    "embed": f"embed {ON_DATA} --complete false --clips all_frames:2 --out {{0}}/vectors.safetensors",
    "search": "search --query 0 --gallery {0}/gallery.safetensors",
    "index": "index --embeddings {0}/gallery.safetensors --out {0}/index",
    "show": f"show {ON_DATA} --complete false --ranks --out {{0}}/ranks.png",
    "export": "export --model resnet8_fpl --height 32 --width 16 --format pt2 --out {0}/network.pt2",
}


def test_every_command_is_tried():
    assert COMMANDS.keys() == options.COMMANDS.keys()


@pytest.mark.fresh_process
@pytest.mark.parametrize("command", sweep(COMMANDS, quick=3))
def test_a_command_is_the_first_call(command, files):
    done = fresh("-m", "strfnet.cli", *COMMANDS[command].format(files).split())
    if command == "export" and TORCH < (2, 14):
        assert done.returncode == 1 and "export needs PyTorch 2.14 or newer" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_an_older_pytorch_is_refused_with_its_version_and_the_one_wanted(monkeypatch, tmp_path):
    network = strfnet.create_model("c2d_resnet8")
    monkeypatch.setattr(torch, "__version__", "2.7.1+cu126")
    with pytest.raises(RuntimeError, match=r"optimize needs PyTorch 2\.11 or newer, found 2\.7\.1"):
        optimize(network, (1, 3, 2, 32, 16))
    with pytest.raises(RuntimeError, match=r"export needs PyTorch 2\.14 or newer, found 2\.7\.1"):
        export(network, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("installed", "wanted", "sound"),
    [("2.8.0", "2.8", True), ("2.10.0a0+git1", "2.8", True), ("2.7.1", "2.10", False), ("3.0.0", "2.14", True)],
)
def test_versions_are_compared_as_numbers(installed, wanted, sound, monkeypatch):
    monkeypatch.setattr(torch, "__version__", installed)
    if sound:
        require_torch(wanted, "this")
    else:
        with pytest.raises(RuntimeError, match=f"this needs PyTorch {wanted}"):
            require_torch(wanted, "this")


FAULTS = """
import resource, sys
from strfnet.system.allocation import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 2**26
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
@pytest.mark.parametrize("configured", [False, True])
def test_freed_memory_is_used_again_unless_the_user_configures_it(monkeypatch, configured):
    if configured:
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    first, again = map(int, fresh("-c", FAULTS).stdout.split())
    assert first > 8 and (again > 8) == configured, (first, again)


def test_commands_that_load_a_network_keep_freed_memory(tmp_path, monkeypatch, capsys):
    def keep():
        raise ValueError("memory is kept")

    folder = tmp_path / "data" / "person" / "camera" / "track"
    folder.mkdir(parents=True)
    Image.new("RGB", (4, 8)).save(folder / "1.png")
    monkeypatch.setattr("strfnet.cli.commands.inputs.keep_freed_memory", keep)
    assert main(["embed", "--model", "c2d_resnet8", "--data", f"{tmp_path}/data", "--out", f"{tmp_path}/o"]) == 1
    assert "memory is kept" in capsys.readouterr().err
