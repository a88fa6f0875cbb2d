"""A full disk and a limit of file sizes: one sentence with the file and the bytes it needs, and nothing is left."""

import ctypes
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from strfnet import create_model, save
from strfnet.data.tracklet import Tracklet
from strfnet.inference import save_embeddings
from strfnet.models import save_official
from strfnet.system.files import write_atomically
from strfnet.training.log import Log
from strfnet.weights.store import CheckpointStore

ROOM = 2**15
NETWORK = create_model("c2d_resnet8", num_classes=2)
PRIVATE, RECURSIVE, NEW_NAMESPACE = 1 << 18, 1 << 14, 0x20000


def embedded(path):
    save_embeddings(path, torch.zeros(2, ROOM), [Tracklet((Path(f"{one}.jpg"),), one) for one in range(2)])


def logged(path):
    log = Log(path)
    for step in range(20):
        log.write("step", step, {"name": "a" * (ROOM // 10)})


WRITERS = {
    "out": lambda path: write_atomically(path, bytes(2 * ROOM)),
    "network.safetensors": lambda path: save(NETWORK, path),
    "network.pth": lambda path: save_official(NETWORK, path),
    "vectors.safetensors": embedded,
    "vectors.npz": embedded,
    "vectors.csv": embedded,
    "log.jsonl": logged,
    "00000007/state": lambda path: CheckpointStore(path.parents[1]).save(7, {path.name: bytes(2 * ROOM)}, {}),
}


@contextmanager
def limited_size():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def is_explained(folder, name, reason):
    """Whether one sentence names file, bytes and reason, and whether the folder is as before but for a log."""
    path = folder / name
    try:
        WRITERS[name](path)
    except OSError as error:
        words = str(error).split()
        start, needed = f"cannot write {path}, which needs ", int(words[words.index("bytes:") - 1])
        left = {file.name for file in folder.rglob("*")} - {"log.jsonl"}
        return str(error).startswith(start) and str(error).endswith(f"bytes: {reason}") and needed > 0 and not left
    return False


@pytest.mark.parametrize("name", WRITERS)
def test_a_limit_of_file_sizes_is_one_sentence(tmp_path, name):
    with limited_size():
        assert is_explained(tmp_path, name, "File too large")


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence(tmp_path, name):
    system = ctypes.CDLL(None, use_errno=True)
    process = os.fork()
    if not process:  # with a small file system of its own
        code = 1
        try:
            alone = system.unshare(NEW_NAMESPACE) or system.mount(None, b"/", None, RECURSIVE | PRIVATE, None)
            if alone or system.mount(b"tmpfs", bytes(tmp_path), b"tmpfs", 0, f"size={ROOM}".encode()):
                code = 2
            elif is_explained(tmp_path, name, "No space left on device"):
                code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code == 2:
        pytest.skip("only root mounts a small file system")
    assert code == 0
    assert not list(tmp_path.iterdir())
