"""Checkpoints that appear atomically, and are refused if a bit of them has changed."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strfnet.system.files import write_atomically
from strfnet.weights.store import CheckpointStore, read_checkpoint

FILES = {"a.safetensors": bytes(range(256)), "b.safetensors": b"", "c": b"c" * 1000}


def test_what_is_saved_is_loaded(tmp_path):
    store = CheckpointStore(tmp_path / "store")
    assert store.load_newest() is None and store.numbers() == []
    folder = store.save(12, FILES, {"loss": 0.1})
    assert folder == tmp_path / "store" / "00000012"
    checkpoint = read_checkpoint(folder)
    assert checkpoint.files == FILES and checkpoint.metadata["loss"] == 0.1 and checkpoint.metadata["version"] == 1
    assert store.metadata(12) == checkpoint.metadata and store.load_newest() == checkpoint


def test_numbers_are_sorted_as_numbers_and_replaced(tmp_path):
    store = CheckpointStore(tmp_path)
    for number in (9, 100_000_000, 99_999_999, 9):
        store.save(number, {"x": str(number).encode()}, {})
    assert store.numbers() == [9, 99_999_999, 100_000_000]
    store.keep_only([99_999_999, None])
    assert [path.name for path in tmp_path.iterdir()] == ["99999999"]


@settings(max_examples=50)
@given(data=st.data())
def test_any_damage_is_refused_by_name(tmp_path_factory, data):
    store = CheckpointStore(tmp_path_factory.mktemp("store"))
    first, second = (store.save(number, FILES, {"step": number}) for number in (1, 2))
    victim = second / data.draw(st.sampled_from([*FILES, "description.json"]))
    content = bytearray(victim.read_bytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "gone"] if content else ["gone"]))
    if kind == "gone":
        victim.unlink()
    elif kind == "cut":
        victim.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    else:
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        victim.write_bytes(content)
    with pytest.raises(ValueError, match=r"00000002 is (damaged|of version).*00000001 is undamaged: remove 00000002"):
        store.load_newest()
    shutil.rmtree(second)
    assert store.load_newest().path == first


def test_damage_to_the_only_one(tmp_path):
    store = CheckpointStore(tmp_path)
    (store.save(1, FILES, {}) / "c").write_bytes(b"d" * 1000)
    with pytest.raises(ValueError, match="c is not what was written; no earlier one is undamaged"):
        store.load_newest()


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("strfnet.weights.store.VERSION", 2)
    folder = CheckpointStore(tmp_path).save(1, FILES, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of version 2, wanted 1"):
        read_checkpoint(folder)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("replaced", [False, True])
def test_cut_short_before_any_disk_operation_the_store_holds_a_whole_checkpoint(tmp_path, monkeypatch, replaced):
    names = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")
    for operation in range(1, 100):
        store = CheckpointStore(tmp_path / str(operation))
        for number in (1, 2):
            store.save(number, FILES, {"old": True})
        left = operation

        def fatal(call):
            def counted(*arguments, **named):
                nonlocal left
                left -= 1
                if left <= 0:  # nothing happens any more, as after a kill
                    raise Killed
                return call(*arguments, **named)

            return counted

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(os, name, fatal(getattr(os, name)))
            try:
                store.save(2 if replaced else 3, FILES, {"old": False})
                store.keep_only([2 if replaced else 3])
            except Killed:
                pass
        if left > 0:
            assert operation > 8
            return
        assert store.load_newest().files == FILES
        store.clean()
        assert not list(store.folder.glob(".*"))
        store.save(3, FILES, {"old": False})
        assert store.load_newest().path.name == "00000003"
    pytest.fail("save did not end")


def test_description_comes_last_and_files_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    seen = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append("rename"), rename(a, b)))
    CheckpointStore(tmp_path).save(1, FILES, {})
    part = str(Path(seen[0]).parent)
    assert re.fullmatch(r"\.strfnet-[0-9a-f]{16}\.part", Path(part).name) and Path(part).parent == tmp_path
    assert seen == [*(f"{part}/{name}" for name in [*FILES, "description.json"]), part, "rename", str(tmp_path)]


def test_description_is_json_for_people_too(tmp_path):
    whole = json.loads((CheckpointStore(tmp_path).save(1, {"c": b"c"}, {"step": 3}) / "description.json").read_text())
    digest = "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6"  # of "c", by sha256sum
    assert whole["description"] == {"version": 1, "sha256": {"c": digest}, "step": 3}


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, b"old")

    def fail(handle):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
