"""Runs and weights of strangers: names outside the folder, pipes, devices, bombs, links that wait for us."""

import io
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from strfnet import load, load_official
from strfnet.models import create_model, find_network
from strfnet.system.files import write_atomically, write_synced
from strfnet.weights.file import BLANK, OURS, pack, read_weights
from strfnet.weights.store import CheckpointStore, read_checkpoint, sha256

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and links are files on POSIX alone")


def forge(folder, **changes):
    """Writes a description with other entries, sealed as ours is, which anybody can compute."""
    path = folder / "description.json"
    description = {**json.loads(path.read_bytes())["description"], **changes}
    digest = sha256(json.dumps(description, sort_keys=True).encode())
    path.write_bytes(json.dumps({"description": description, "sha256": digest}, indent=1).encode())


@pytest.fixture
def checkpoint(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints").save(3, {"weights.safetensors": b"w"}, {"step": 3})


@pytest.mark.parametrize(
    "name", ["../secret", "/dev/zero", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "C:x", "a\0b", "x/../secret"]
)
def test_a_description_names_files_of_its_folder_alone(checkpoint, name):
    (checkpoint.parent / "secret").write_bytes(b"w")
    forge(checkpoint, sha256={name: sha256(b"w")})
    with pytest.raises(
        ValueError, match=f"{checkpoint} is forged: .* names the file .*, wanted names without folders"
    ):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize("sha256", [None, [], "weights.safetensors", 7, [["a", "b"]]])
def test_a_description_without_files_is_forged(checkpoint, sha256):
    forge(checkpoint, sha256=sha256)
    with pytest.raises(ValueError, match=f"{checkpoint} is forged"):
        read_checkpoint(checkpoint)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"null", b"[]", b'{"description": []}', b'{"description": {"version": []}}', b"\xff"]
)
def test_a_description_that_is_none_is_damaged(checkpoint, content):
    (checkpoint / "description.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"checkpoint {checkpoint} is damaged"):
        read_checkpoint(checkpoint)


@posix
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["description.json", "weights.safetensors"])
def test_a_pipe_or_a_device_in_a_run_is_refused_at_once(checkpoint, name, kind):
    path = checkpoint / name
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"{checkpoint} is damaged: .*it is a {kind}, wanted a regular file"):
        read_checkpoint(checkpoint)


@posix
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_of_weights_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "weights.pth"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=f"cannot read weights from {path}: it is a {kind}"):
        read_weights(path)


def repacked(content, how):
    """The same archive of torch.save, compressed."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", how) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return file.getvalue()


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def npz():
    file = io.BytesIO()
    np.savez(file, weight=np.zeros(3))
    return file.getvalue()


def torchscript():
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), file)
    return file.getvalue()


def archive(**entries):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return file.getvalue()


BOMBS = {
    "deflated": (lambda: repacked(saved({"w": torch.zeros(2**20)}), zipfile.ZIP_DEFLATED), "it is compressed"),
    "lzma": (lambda: repacked(saved({"w": torch.zeros(2**12)}), zipfile.ZIP_LZMA), "it is compressed"),
    "expanded": (
        lambda: saved({"w": torch.zeros(1).expand(10**6, 10**6)}),
        ".* bytes expand to tensors of 4000000000000",
    ),
    "tied": (
        lambda: saved(dict.fromkeys(map(str, range(1000)), torch.zeros(2**14))),
        ".* bytes expand to tensors of",
    ),
    "torchscript": (torchscript, "it is a TorchScript program, wanted its state dict"),
    "npz": (npz, "it is a NumPy archive"),
    "zip": (lambda: archive(readme="hello"), "it is a ZIP archive, but not one of torch.save"),
    "cut": (lambda: saved({"w": torch.zeros(9)})[:-30], "it is cut off or damaged"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("name", BOMBS)
def test_archives_that_unpack_or_expand_to_any_size_are_refused(tmp_path, name):
    make, reason = BOMBS[name]
    path = tmp_path / "weights.pth"
    path.write_bytes(make())
    for read in (read_weights, load_official, load):
        with pytest.raises(ValueError, match=f"cannot read weights from {re.escape(str(path))}: {reason}") as caught:
            read(path)
        assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_tensors_may_have_sixteen_times_the_bytes_of_their_file_and_no_more(tmp_path):
    numbers, path = 1000, tmp_path / "weights.pth"
    for _ in range(5):  # until the length of the file stays
        path.write_bytes(saved({"w": torch.zeros(1).expand(numbers)}))
        numbers = 4 * path.stat().st_size
    assert len(read_weights(path).tensors["w"]) == numbers
    path.write_bytes(saved({"w": torch.zeros(1).expand(numbers + 1)}))
    with pytest.raises(ValueError, match="more than 16 times"):
        read_weights(path)


@pytest.fixture(scope="module")
def state():
    return create_model("c2d_resnet8", num_classes=2).state_dict()


@pytest.mark.parametrize(
    "changes",
    [
        {"model": 5},
        {"model": None},
        {"model": ["c2d_resnet8"]},
        {"num_classes": "many"},
        {"num_classes": 2.5},
        {"num_classes": -1},
        {"num_classes": 10**12},
        {"num_classes": None, "options": []},
        {"options": {"places": 5}},
        {"options": {"nothing": 5}},
        {"model": "c2d_resnet9"},
        {"facts": []},
        {"facts": {"height": "tall"}},
        {"facts": {"width": -3}},
        {"facts": {"interpolation": 7}},
        {"origin": 3},
        {"model": ...},
        {"num_classes": ...},
    ],
    ids=str,
)
def test_a_weights_file_with_forged_metadata_is_refused_by_name(tmp_path, state, changes):
    path = tmp_path / "weights.safetensors"
    metadata = {"model": "c2d_resnet8", "num_classes": 2, "strfnet": "0.1", "origin": None, "facts": {}, **changes}
    metadata = {name: value for name, value in metadata.items() if value is not ...}
    blank = pack(state, {OURS: json.dumps({"sha256": BLANK, "format": 1, **metadata})})
    path.write_bytes(blank.replace(BLANK.encode(), sha256(blank).encode(), 1))
    with pytest.raises(ValueError, match=re.escape(str(path))):
        find_network(path)


@pytest.mark.parametrize(
    "recipe",
    [
        None,
        5,
        [],
        "lr",
        {"lr": "fast"},
        {"lr": None},
        {"milestones": ["a"]},
        {"milestones": 5},
        {"model": 5},
        {"model": None},
        {"model": []},
        {"options": 5},
        {"options": {"places": 5}},
        {"height": [256]},
        {"batch": "32"},
        {"interpolation": {}},
        {"data": 5},
        {"warmup": "x"},
        {"per_frame": [5]},
        {"nothing": 5},
    ],
    ids=str,
)
def test_a_run_with_a_forged_recipe_is_refused_by_name(tmp_path, state, recipe):
    files = {"weights.safetensors": pack(state)}
    folder = CheckpointStore(tmp_path / "checkpoints").save(3, files, {"recipe": recipe, "classes": 2})
    with pytest.raises(ValueError, match=re.escape(str(tmp_path))) as caught:
        find_network(tmp_path)
    assert folder.exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"x", b""])
def test_a_run_without_weights_is_refused_by_name(tmp_path, content):
    files = {"other": b"x"} if content is None else {"weights.safetensors": content}
    CheckpointStore(tmp_path / "checkpoints").save(3, files, {"recipe": {}, "classes": 2})
    with pytest.raises(ValueError, match=f"{tmp_path}/checkpoints/00000003 has no tensors in weights.safetensors"):
        find_network(tmp_path)


@posix
def test_a_planted_link_is_not_followed(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(b"kept")
    link.symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_synced(link, b"new")
    assert victim.read_bytes() == b"kept"


@posix
def test_temporary_names_differ_at_each_write(tmp_path, monkeypatch):
    names, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (names.append(self.name), replace(self, target))[1])
    for _ in range(3):
        write_atomically(tmp_path / "a", b"x")
    assert len(set(names)) == 3 and [path.name for path in tmp_path.iterdir()] == ["a"]
