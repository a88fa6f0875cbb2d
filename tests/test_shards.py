"""Embeddings made part by part: stopped, killed, damaged and shared, they end in the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import two_ranks
from safetensors import safe_open
from torch import nn

from strfnet.cli.parser import main
from strfnet.data.readers.folder import read_folder
from strfnet.data.synthetic import write_walkers
from strfnet.data.tracklet import Tracklet
from strfnet.evaluation import unit_length
from strfnet.inference import shards as module
from strfnet.inference.embedder import Embedder
from strfnet.inference.embedding import embed
from strfnet.inference.embedding_file import describe, save_embeddings
from strfnet.inference.shards import Shards, digest_of
from strfnet.models import Preprocessing, find_network
from strfnet.training.sharing import join_processes
from strfnet.weights.store import CheckpointStore

ROOT = Path(__file__).parents[1]
CLIPS = ("all_frames", 2)
CPU = torch.device("cpu")
# The command line with parts of two tracklets, alone or under torchrun; it dies, or waits, where it is told to.
COMMAND = """
import sys
sys.path[:0] = {paths!r}
import strfnet.inference.shards
from test_shards import go
strfnet.inference.shards.SIZE = 2
if __name__ == "__main__":
    sys.exit(go(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
"""


def go(where, at, call):
    """The command line, killed when it comes to the operation for the so-manieth time; "slow" waits instead."""
    name, count = "save" if where == "slow" else where, 0
    owner = {"save": Shards, "keep_only": CheckpointStore}.get(name, os)
    operation = getattr(owner, name)

    def counted(*arguments, **named):
        nonlocal count
        count += 1
        if where != "slow" and count == at:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = operation(*arguments, **named)
        if where == "slow":
            print("a part is there", flush=True)
            for _ in range(20 * at):  # in naps, as a signal that comes just before one is heard after it
                time.sleep(0.05)
        return answer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(owner, name, counted)
        return main([str(word) for word in call])


def killed(where, at, call):
    """A fork of this process that is killed at work."""
    process = os.fork()
    if not process:
        try:
            go(where, at, call)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    """Seven tracklets of 3 frames in a folder, so four parts of two, the last of one."""
    root = tmp_path_factory.mktemp("data") / "walkers"
    write_walkers(root, identities=4, cameras=2, frames=3, height=32)
    for frame in sorted(root.rglob("*.jpg"))[-3:]:
        frame.unlink()
    emptied = next(folder for folder in root.rglob("*") if folder.is_dir() and not any(folder.iterdir()))
    emptied.rmdir()
    if not any(emptied.parent.iterdir()):
        emptied.parent.rmdir()
    return root


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "SIZE", 2)


def embedder(**changes):
    join_processes("cpu")
    torch.manual_seed(changes.pop("seed", 3))
    found = find_network(changes.pop("model", "c2d_resnet8"))
    settings = {"batch": changes.pop("batch", 3), "workers": changes.pop("workers", 0)}
    preprocessing = Preprocessing(**{"height": 32, "width": 16, **changes})
    return Embedder(found.network, found.name, preprocessing, **settings)


def words(walkers, out):
    shown = ["--clips", "all_frames:2", "--height", "32", "--width", "16", "--batch", "3", "--workers", "1"]
    asked = ["--model", "c2d_resnet8", "--device", "cpu", "--seed", "3"]
    return ["embed", *asked, *shown, "--data", str(walkers), "--out", str(out)]


def on_two_ranks(where, at, *call):
    """The command on two ranks: exit status, output and errors."""
    script = Path(call[-1]).parent / "command.py"
    script.write_text(COMMAND.format(paths=[str(ROOT), str(ROOT / "tests")]))
    command = [sys.executable, two_ranks.__file__, str(script), where, str(at), *call]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def forked(where, at, call, errors):
    """A fork of this process at work, and its output; what it writes to stderr goes to a file."""
    read, write = os.pipe()
    process = os.fork()
    if not process:
        code = 1
        try:
            os.dup2(write, 1)
            os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = go(where, at, call)
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    return process, open(read)


@pytest.fixture(scope="module")
def unbroken(walkers, tmp_path_factory):
    """The file that one process makes without a stop."""
    out = tmp_path_factory.mktemp("unbroken") / "e.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "SIZE", 2)
        assert main(words(walkers, out)) == 0
    return out.read_bytes()


def test_the_file_of_parts_is_the_one_that_is_saved_at_once(walkers, tmp_path):
    tracklets, shown = read_folder(walkers), embedder()
    assert shown.embed_into(tmp_path / "parts", tracklets, CLIPS) == 64
    pieces = [
        embed(shown.network, tracklets[at : at + 2], clips=lambda n: [[0, 1], [2]], batch=3, size=(32, 16))
        for at in range(0, 7, 2)
    ]
    save_embeddings(tmp_path / "once", torch.cat(pieces), tracklets, shown.facts(CLIPS))
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "once").read_bytes()
    whole = shown.embed(tracklets, CLIPS)
    with safe_open(tmp_path / "parts", "pt") as file:
        torch.testing.assert_close(file.get_tensor("embeddings"), unit_length(whole), rtol=1e-5, atol=1e-6)
        assert [entry["path"] for entry in json.loads(file.metadata()["tracklets"])] == [t.where for t in tracklets]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once", "parts"]


def test_a_listing_is_written_as_json_writes_it(tmp_path):
    odd = [Tracklet((Path('/a "b"\\ü\x7f/0.jpg'), Path("1")), "é\n", 3), Tracklet((Path("x"),), 7)]
    described = [
        {"identity": "é\n", "camera": 3, "frames": 2, "path": '/a "b"\\ü\x7f/0.jpg'},
        {"identity": 7, "camera": None, "frames": 1, "path": "x"},
    ]
    assert describe(odd) == json.dumps(described)
    parts = Shards(tmp_path / "out", odd, {}, CPU)
    parts.save(0, torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert parts.join() == 3
    parts.close()
    save_embeddings(tmp_path / "once", torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), odd)
    assert (tmp_path / "out").read_bytes() == (tmp_path / "once").read_bytes()


@pytest.mark.parametrize(
    ("where", "at", "kept"),
    [("save", 1, 0), ("save", 3, 2), ("fsync", 2, 0), ("fsync", 7, 1), ("keep_only", 1, 4), ("rename", 3, 2)],
)
def test_a_killed_command_goes_on_and_ends_in_the_same_bytes(walkers, tmp_path, unbroken, capsys, where, at, kept):
    call = words(walkers, tmp_path / "e.safetensors")
    assert killed(where, at, call)
    there = [path for path in (tmp_path / "e.safetensors.parts").iterdir() if path.name.isdecimal()]
    assert len(there) == kept
    assert go("slow", 0, call) == 0
    out, err = capsys.readouterr()
    assert out.count("a part is there") == 4 - kept
    assert (f"{min(2 * kept, 7)} of 7 tracklets are in" in err) == bool(kept)
    assert (tmp_path / "e.safetensors").read_bytes() == unbroken
    assert [path.name for path in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_a_signal_leaves_at_once_with_the_code_of_training(walkers, tmp_path, unbroken, number, code):
    call = words(walkers, tmp_path / "e.safetensors")
    process, output = forked("slow", 600, call, tmp_path / "errors")
    with output:
        assert output.readline() == "a part is there\n"
        os.kill(process, number)
        returned = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    err = (tmp_path / "errors").read_text()
    assert returned == code
    told = f"stopped by {signal.Signals(number).name}; 2 of 7 tracklets are in {tmp_path / 'e.safetensors.parts'}"
    assert (f"strfnet: {told}; the same command resumes" in err.splitlines()) == (code > 0)
    assert main(call) == 0
    assert (tmp_path / "e.safetensors").read_bytes() == unbroken


@pytest.mark.slow
def test_two_processes_and_one_go_on_with_what_the_others_began(walkers, tmp_path, unbroken, capsys):
    call = words(walkers, tmp_path / "one_then_two")
    assert killed("save", 2, call)
    code, out, err = on_two_ranks("slow", 0, *call)
    assert code == 0, err
    assert out.count("a part is there") == 3 and out.count("7 embeddings of 64 numbers are in") == 1
    assert (tmp_path / "one_then_two").read_bytes() == unbroken
    call = words(walkers, tmp_path / "two_then_one")
    code, _, _ = on_two_ranks("save", 2, *call)
    assert code == 1
    assert go("slow", 0, call) == 0
    assert capsys.readouterr().out.count("a part is there") < 4
    assert (tmp_path / "two_then_one").read_bytes() == unbroken


def begun(tmp_path, tracklets, **facts):
    """Two parts of three, and no process at work."""
    parts = Shards(tmp_path / "out", tracklets, facts, CPU)
    for number in (0, 2):
        parts.save(number, torch.full((len(parts.tracklets(number)), 3), float(number)))
    parts.close()
    return parts


def drawn(count=5):
    return [Tracklet((Path(f"/t{row}/0.jpg"),) * (row + 1), row) for row in range(count)]


def test_what_is_missing_is_dealt_to_the_processes_in_turn(tmp_path, monkeypatch):
    tracklets = drawn(13)
    begun(tmp_path, tracklets)  # parts 0 and 2 of 0 to 6
    monkeypatch.setattr(module, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    first = Shards(tmp_path / "out", tracklets, {}, CPU)
    assert (first.mine, first.before) == ([1, 4, 6], 4)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    monkeypatch.setattr(module, "gather_bytes", lambda content, device: [b"[1, 3, 4, 5, 6]", content])
    second = Shards(tmp_path / "out", tracklets, {}, CPU)
    assert (second.mine, second.before) == ([3, 5], 4)
    second.close()
    first.close()


@pytest.mark.parametrize("file", ["embeddings.safetensors", "description.json"])
def test_a_damaged_part_is_made_anew_and_told(tmp_path, capsys, file):
    parts = begun(tmp_path, drawn())
    damaged = parts.folder / "00000002" / file
    content = bytearray(damaged.read_bytes())
    content[-3] ^= 4
    damaged.write_bytes(content)
    again = Shards(tmp_path / "out", drawn(), {}, CPU)
    assert (again.mine, again.before) == ([1, 2], 2)
    err = capsys.readouterr().err
    assert "00000002 is damaged" in err and err.endswith("; it is computed again\n") and err.count("\n") == 1
    again.close()


def test_a_part_that_is_damaged_before_the_end_is_removed(tmp_path):
    tracklets = drawn()
    begun(tmp_path, tracklets)
    parts = Shards(tmp_path / "out", tracklets, {}, CPU)
    parts.save(1, torch.ones(2, 3))
    (parts.folder / "00000002" / "embeddings.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"00000002 is damaged.*it is removed, and .* computes it again"):
        parts.join()
    parts.close()
    assert not (tmp_path / "out").exists()
    again = Shards(tmp_path / "out", tracklets, {}, CPU)
    assert again.mine == [2]
    again.close()


def test_a_beginning_of_something_else_is_refused_with_what_differs(tmp_path):
    begun(tmp_path, drawn(), network="one", clips="all_frames:2")
    before = {path: path.read_bytes() for path in (tmp_path / "out.parts").rglob("*") if path.is_file()}
    for tracklets, facts, differ in (
        (drawn(), {"network": "two", "clips": "all_frames:2"}, "network one there, two now"),
        (drawn(), {"network": "one", "clips": "all_frames:2", "batch": 3}, "batch None there, 3 now"),
        (drawn(), {"network": "one"}, "clips all_frames:2 there, None now"),
        (drawn(6), {"network": "one", "clips": "all_frames:2"}, "tracklets 5 listed as .* there, 6 listed as"),
        (
            [*drawn(4), replace(drawn(5)[4], identity=9)],
            {"network": "one", "clips": "all_frames:2"},
            "tracklets 5 listed as .* there, 5 listed as",
        ),
    ):
        with pytest.raises(ValueError, match=rf"shards of other embeddings \({differ}.*from the beginning"):
            Shards(tmp_path / "out", tracklets, facts, CPU)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out.parts").rglob("*") if path.is_file()}


def test_parts_of_another_size_are_refused(tmp_path, monkeypatch):
    begun(tmp_path, drawn())
    monkeypatch.setattr(module, "SIZE", 3)
    with pytest.raises(ValueError, match="part 2 there, 3 now"):
        Shards(tmp_path / "out", drawn(), {}, CPU)


def test_all_that_embeddings_depend_on_is_recognised(walkers, tmp_path):
    tracklets = read_folder(walkers)
    shown = embedder()
    facts = shown._made_by(CLIPS)
    parts = Shards(tmp_path / "out", tracklets, facts, CPU)
    parts.save(1, torch.zeros(2, 64))
    parts.close()
    changes = {
        "seed": 4,
        "model": "strf_c2d_resnet8",
        "height": 40,
        "width": 24,
        "batch": 4,
        "interpolation": "bicubic",
    }
    for name, value in changes.items():
        with pytest.raises(ValueError, match="shards of other embeddings"):
            embedder(**{name: value}).embed_into(tmp_path / "out", tracklets, CLIPS)
    for clips in (("all_frames", 3), ("evenly", 2)):
        with pytest.raises(ValueError, match="clips all_frames:2 there"):
            shown.embed_into(tmp_path / "out", tracklets, clips)
    with pytest.raises(ValueError, match="dtype"):
        replace(shown, network=shown.network.double()).embed_into(tmp_path / "out", tracklets, CLIPS)
    assert embedder(workers=2).embed_into(tmp_path / "out", tracklets, CLIPS) == 64  # workers change nothing


def test_weights_are_told_apart_by_values_names_and_buffers():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    digests = {digest_of(network)}
    network[1].num_batches_tracked += 1
    digests.add(digest_of(network))
    with torch.no_grad():
        network[0].weight[1, 1] += 1e-6
    digests.add(digest_of(network))
    digests.add(digest_of(nn.Sequential(nn.Identity(), *network)))
    assert len(digests) == 4
    assert digest_of(network) == digest_of(network) != digest_of(network.bfloat16())


def test_a_second_command_for_the_same_file_is_refused(tmp_path):
    holder = (
        "import sys; from pathlib import Path; from strfnet.system.files import lock;"
        f"lock(Path({str(tmp_path / 'out.parts' / '.lock')!r})); print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "out.parts").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", holder], env=environment, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"another process works in .*out\.parts"):
            Shards(tmp_path / "out", drawn(), {}, CPU)
        process.stdin.close()


def test_more_tracklets_than_a_file_can_list_are_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_HEADER", 300)
    with pytest.raises(ValueError, match=r"listing 5 tracklets takes \d+ bytes of 300: embed .* into several files"):
        Shards(tmp_path / "out", drawn(), {}, CPU)
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_parts_that_are_done_and_no_empty_folder(tmp_path):
    write_walkers(tmp_path / "data", identities=2, cameras=2, frames=2, height=32)
    tracklets, shown = read_folder(tmp_path / "data"), embedder()
    good = tracklets[3].frames[1].read_bytes()
    for row, left in ((3, ["00000000"]), (0, [])):
        frame = tracklets[row].frames[1]
        frame.write_bytes(b"broken")
        with pytest.raises(ValueError, match=f"cannot read the frame {frame}"):
            shown.embed_into(tmp_path / f"out{row}", tracklets, CLIPS)
        folder = tmp_path / f"out{row}.parts"
        assert [path.name for path in folder.glob("0*")] == left and folder.exists() == bool(left)
        frame.write_bytes(good)
    assert shown.embed_into(tmp_path / "out3", tracklets, CLIPS) == 64
    with pytest.raises(ValueError, match="got 0 tracklets"):
        shown.embed_into(tmp_path / "none", [], CLIPS)
