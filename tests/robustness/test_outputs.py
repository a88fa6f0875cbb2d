"""Outputs replace regular files only, keep their mode and owner, and delete only what bears strfnet's mark."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from tiny_runs import network_for, objective_for, tiny_recipe, walkers

from strfnet import create_model, save
from strfnet.cli.parser import main
from strfnet.data import read_folder
from strfnet.data.synthetic import walker_files, write_walkers
from strfnet.data.tracklet import Tracklet
from strfnet.inference import Embedder, save_embeddings
from strfnet.inference import shards as module
from strfnet.models import Preprocessing, save_official
from strfnet.system import files
from strfnet.system.files import MARK, check_writable, lock, replacing, write_atomically
from strfnet.system.reading import read_regular
from strfnet.training import train
from strfnet.weights.file import read_weights
from strfnet.weights.store import CheckpointStore

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("c2d_resnet8", num_classes=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "walkers"
    write_walkers(folder, identities=2, cameras=2, frames=2, height=32)
    return folder


def embedded(network, path):
    tracklets = [Tracklet((Path(f"{one}.jpg"),), one) for one in range(2)]
    save_embeddings(path, torch.zeros(2, 3), tracklets)


WRITERS = {
    "write": lambda network, path: write_atomically(path, b"content"),
    "save": lambda network, path: save(network, path),
    "save_official": lambda network, path: save_official(network, path),
    "save_embeddings": embedded,
}
PLACES = ["device", "pipe", "socket", "folder", "link to a device", "link to a pipe"]


def special(kind, path):
    if kind.startswith("link to"):
        there = special(kind.removeprefix("link to a "), path.with_name("there"))
        path.symlink_to(there)
    elif kind == "device":
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("only root makes a device")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o666)
    else:
        path.mkdir()
    return path


def kinds(folder):
    return {path.name: (path.lstat().st_ino, path.lstat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", PLACES)
def test_only_a_regular_file_is_replaced(network, tmp_path, kind, writer):
    path = special(kind, tmp_path / "out")
    before = kinds(tmp_path)
    with pytest.raises(ValueError, match=rf"cannot write {path}: it is a (device|pipe|socket|folder), wanted a file"):
        WRITERS[writer](network, path)
    with pytest.raises(ValueError, match=f"cannot write {path}"):
        check_writable(path)
    assert kinds(tmp_path) == before


@pytest.mark.parametrize(
    "call",
    [
        "embed --model c2d_resnet8 --data {data} --out {out}",
        "evaluate --model c2d_resnet8 --data {data} --out {out}",
        "show --masks --model strf_c2d_resnet8 --data {data} --out {out}",
        "convert {weights} {out}",
    ],
)
@pytest.mark.parametrize("kind", ["device", "pipe"])
def test_commands_refuse_it_before_any_work(network, data, tmp_path, capsys, call, kind):
    save_official(network, tmp_path / "weights.pth")
    out = special(kind, tmp_path / ("out.safetensors" if call.startswith("convert") else "out.png"))
    words = call.format(data=data, out=out, weights=tmp_path / "weights.pth").split()
    assert main(words) in (1, 2)
    error = capsys.readouterr().err
    assert f"it is a {kind}" in error.splitlines()[-1] and "tracklets" not in error
    assert out.lstat().st_mode & 0o170000 != stat.S_IFREG and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("writer", WRITERS)
def test_the_mode_of_a_file_is_kept(network, tmp_path, writer):
    path = tmp_path / "out"
    for mode in (0o600, 0o640, 0o644):
        path.touch()
        path.chmod(mode)
        WRITERS[writer](network, path)
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.stat().st_size


def test_a_secret_file_is_secret_while_it_is_written(tmp_path):
    path = tmp_path / "out"
    path.touch(mode=0o600)
    with replacing(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_file_is_kept(tmp_path):
    path = tmp_path / "out"
    path.touch()
    os.chown(path, 1234, 2345)
    path.chmod(0o4750)
    write_atomically(path, b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 2345, 0o4750)


@pytest.mark.parametrize("there", [True, False], ids=["file", "free name"])
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_stays_and_the_file_that_it_names_is_replaced(tmp_path, there, relative):
    (tmp_path / "disk").mkdir()
    target, path = tmp_path / "disk" / "target", tmp_path / "out"
    if there:
        target.write_bytes(b"old")
        target.chmod(0o600)
    path.symlink_to("disk/target" if relative else target)
    write_atomically(path, b"new")
    assert path.is_symlink() and target.read_bytes() == b"new"
    assert [entry.name for entry in target.parent.iterdir()] == ["target"]


@pytest.mark.parametrize("kind", ["device", "pipe", "folder"])
def test_only_a_regular_file_is_read(tmp_path, kind):
    path = special(kind, tmp_path / "in")
    with pytest.raises(ValueError, match=f"it is a {kind}, wanted a regular file"):
        read_regular(path)
    if kind != "folder":
        with pytest.raises(ValueError, match=f"it is a {kind}"):
            read_weights(path)


WRITES = """
import os, signal, sys
from pathlib import Path
from strfnet.system.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_save_has_left_is_removed_by_the_next_and_what_is_written_is_not(tmp_path):
    path, mine = tmp_path / "out", tmp_path / f"{MARK}notes"
    mine.write_bytes(b"of the user")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", WRITES, str(path)], env=environment, **pipes) as process:
        assert process.stdout.readline() == b"writing\n"
        write_atomically(path, b"other")
        assert len(list(tmp_path.iterdir())) == 3, "it is being written"
        process.kill()
        process.wait()
        assert len(list(tmp_path.iterdir())) == 3
        write_atomically(path, b"new")
    assert sorted(tmp_path.iterdir()) == [mine, path] and path.read_bytes() == b"new"


def test_threads_that_replace_one_file_do_not_meet(tmp_path):
    path, errors = tmp_path / "out", []

    def write(number):
        try:
            for _ in range(50):
                write_atomically(path, bytes([number]) * 1000)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(set(path.read_bytes())) == 1 and list(tmp_path.iterdir()) == [path]


def test_the_name_of_an_unfinished_file_is_never_followed(tmp_path, monkeypatch):
    planted, victim = tmp_path / f"{MARK}{'0' * 16}.part", tmp_path / "victim"
    victim.write_bytes(b"precious")
    planted.symlink_to(victim)
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "out", b"new")
    assert victim.read_bytes() == b"precious"


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    write_atomically(tmp_path / ("n" * 255), b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_two_threads_do_not_lock_one_folder(tmp_path):
    held = lock(tmp_path / ".lock")
    with pytest.raises(ValueError, match=f"another thread works in {tmp_path}"):
        lock(tmp_path / "." / ".lock")
    held.close()
    lock(tmp_path / ".lock").close()


FEW = {"identities": 1, "cameras": 1, "frames": 1, "height": 32}


@pytest.mark.parametrize("inner", ["", "run", "a/b"])
def test_a_file_in_the_place_of_a_folder_is_refused_by_name(tmp_path, inner):
    file = tmp_path / "file"
    file.write_text("of the user")
    store = CheckpointStore(file / inner)
    for make in (
        lambda: store.save(1, {}, {}),
        lambda: write_walkers(file / inner, **FEW),
        lambda: run(file / inner),
    ):
        with pytest.raises(ValueError, match=rf"{file} (is none: wanted a folder or a free name|exists already)"):
            make()
    assert file.read_text() == "of the user"


def test_a_file_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("of the user")
    with pytest.raises(ValueError, match=f"wanted a file in an existing folder: {tmp_path}/file is no folder"):
        check_writable(tmp_path / "file" / "out.csv")


def test_walkers_leave_the_files_of_the_user_and_nothing_of_their_own(tmp_path, monkeypatch):
    mine = tmp_path / ".set.part" / "a.txt"
    mine.parent.mkdir()
    mine.write_text("of the user")
    write_walkers(tmp_path / "set", **FEW)
    monkeypatch.setattr(walker_files, "_write_jpegs", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_walkers(tmp_path / "other", **FEW)
    assert mine.read_text() == "of the user" and sorted(p.name for p in tmp_path.iterdir()) == [".set.part", "set"]


@pytest.mark.parametrize("name", ["notes.txt", "7/a.txt", "2023/a.txt", ".data.part/a.txt", ".x.part"])
def test_embed_leaves_the_files_of_the_user_among_its_shards(network, data, tmp_path, name):
    out, mine = tmp_path / "out", tmp_path / "out.parts" / name
    mine.parent.mkdir(parents=True)
    mine.write_text("of the user")
    Embedder(network, "c2d", Preprocessing(32, 16)).embed_into(out, read_folder(data), ("evenly", 2))
    assert mine.read_text() == "of the user" and out.stat().st_size
    assert not list((tmp_path / "out.parts").glob(f"{MARK}*")) and not (tmp_path / "out.parts/00000000").exists()


def test_embed_refuses_a_folder_of_the_user_in_the_place_of_a_shard(network, data, tmp_path):
    mine = tmp_path / "out.parts" / "00000000" / "a.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("of the user")
    with pytest.raises(ValueError, match=r"00000000 has the name of a checkpoint and no description\.json"):
        Embedder(network, "c2d", Preprocessing(32, 16)).embed_into(tmp_path / "out", read_folder(data), ("evenly", 2))
    assert mine.read_text() == "of the user"


def run(folder, **changes):
    recipe = tiny_recipe(**{"steps_per_epoch": 1, "epochs": 3, "keep": 1, "evaluate_every": 1, **changes})
    network = network_for(recipe)
    scores = iter(range(9))
    found = train(
        network,
        objective_for(recipe),
        walkers(),
        recipe,
        folder,
        evaluate=lambda _: {"mAP": next(scores)},
        progress=False,
    )
    return network, found


FOREIGN = [
    "best/1/a",
    "best/00000001/a",
    "best/00000099/a",
    "best/2023/a",
    ".mine.part",
    "best/.a.part/b",
    "checkpoints/.c.part",
    "a/b",
]


def test_train_leaves_the_files_of_the_user(tmp_path):
    for name in FOREIGN:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("of the user")
    with pytest.raises(ValueError, match=r"best/00000001 has the name of a checkpoint"):
        run(tmp_path)
    for changes in ({}, {"epochs": 4}):
        (tmp_path / "best/00000001").rename(tmp_path / "aside")
        run(tmp_path, **changes)
        (tmp_path / "aside").rename(tmp_path / "best/00000001")
    assert all((tmp_path / name).read_text() == "of the user" for name in FOREIGN)


@pytest.mark.parametrize("name", ["log.jsonl", "result.json"])
def test_train_refuses_a_folder_with_a_log_or_a_result_of_the_user(tmp_path, name):
    (tmp_path / name).write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"{name} was not written by a run of strfnet"):
        run(tmp_path)
    assert (tmp_path / name).read_text() == '{"mine": 1}'


@pytest.mark.parametrize("name", [".lock", "log.jsonl", "result.json"])
def test_a_run_does_not_wait_for_a_pipe_in_its_folder(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: it is a pipe"):
        run(tmp_path)


def test_a_run_is_not_written_into_its_data(data, tmp_path):
    (tmp_path / "link").symlink_to(data)
    before = sorted(data.rglob("*"))
    for folder in (data, data / "run", tmp_path / "link", tmp_path / "link" / "deep" / "run"):
        with pytest.raises(ValueError, match=f"the folder of the run, {folder}, is in the data {data}"):
            run(folder, data=data, format="folder")
    assert sorted(data.rglob("*")) == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"after step 2, weights or buffers are NaN or infinite: head\.neck"):
        infinite_from(2, tmp_path)
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.numbers() == [1] and all(bool(t.isfinite().all()) for t in read_weights(tmp_path).tensors.values())
    stop = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert stop["kind"] == "stop" and "head.neck.running_var" in stop["error"]
    assert run(tmp_path)[1].step == 3


def infinite_from(step, folder):
    recipe = tiny_recipe(steps_per_epoch=1, epochs=3, keep=1)
    network, objective = network_for(recipe), objective_for(recipe)
    calls = iter(range(1, 9))

    def poisoned(output, labels):
        if next(calls) == step:
            network.head.neck.running_var = torch.full_like(network.head.neck.running_var, float("inf"))
        return objective(output, labels)

    train(network, poisoned, walkers(), recipe, folder, progress=False)


def test_a_damaged_older_checkpoint_does_not_end_the_run(tmp_path):
    run(tmp_path, keep=3)
    older = tmp_path / "checkpoints" / "00000001" / "description.json"
    older.write_bytes(older.read_bytes()[:-9])
    assert run(tmp_path, keep=4, epochs=5)[1].step == 4
    assert CheckpointStore(tmp_path / "checkpoints").numbers() == [1, 2, 3, 4]


def test_a_run_that_trains_is_read_at_any_moment(tmp_path):
    """Its reader lists a checkpoint, and the run removes it before it is read."""
    store = CheckpointStore(tmp_path)
    done = threading.Event()

    def write():
        for step in range(1, 150):
            store.save(step, {"weights": b"w" * 20000}, {})
            store.keep_only([step])
        done.set()

    store.save(0, {"weights": b"w" * 20000}, {})
    thread = threading.Thread(target=write)
    thread.start()
    reads = 0
    while not done.is_set():
        assert store.load_newest() is not None
        reads += 1
    thread.join()
    assert reads > 20


def test_a_shard_that_vanishes_is_named(network, data, tmp_path, monkeypatch):
    keep = CheckpointStore.save

    def vanishing(store, number, *rest):
        keep(store, number, *rest)
        store.remove(number)

    monkeypatch.setattr(CheckpointStore, "save", vanishing)
    monkeypatch.setattr(module.time, "sleep", None)  # it does not wait
    with pytest.raises(ValueError, match=r"shards 0 have vanished from .*out\.parts; the same command computes them"):
        Embedder(network, "c2d", Preprocessing(32, 16)).embed_into(tmp_path / "out", read_folder(data), ("evenly", 2))
