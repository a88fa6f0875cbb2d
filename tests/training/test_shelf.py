"""Checkpoints that appear whole, and are refused if a bit of them has changed."""

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strfnet.system.files import write_whole
from strfnet.weights.store import checkpoints, describe, keep, newest, put, sweep, take

FILES = {"a.safetensors": bytes(range(256)), "b.safetensors": b"", "c": b"c" * 1000}


def test_what_is_put_is_taken(tmp_path):
    folder = put(tmp_path / "shelf", 12, FILES, {"loss": 0.1})
    assert folder == tmp_path / "shelf" / "00000012"
    facts, files = take(folder)
    assert files == FILES and facts["loss"] == 0.1 and facts["version"] == 1
    assert describe(folder) == facts
    assert newest(tmp_path / "shelf") == (folder, facts, files)
    assert newest(tmp_path / "none") is None and checkpoints(tmp_path / "none") == []


def test_numbers_are_sorted_as_numbers_and_replaced(tmp_path):
    for number in (9, 100_000_000, 99_999_999, 9):
        put(tmp_path, number, {"x": str(number).encode()}, {})
    assert [int(path.name) for path in checkpoints(tmp_path)] == [9, 99_999_999, 100_000_000]
    keep(tmp_path, [99_999_999, None])
    assert [path.name for path in tmp_path.iterdir()] == ["99999999"]


@settings(max_examples=200)
@given(data=st.data())
def test_any_damage_is_refused_by_name(tmp_path_factory, data):
    shelf = tmp_path_factory.mktemp("shelf")
    first, second = (put(shelf, number, FILES, {"step": number}) for number in (1, 2))
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
    with pytest.raises(ValueError, match=r"00000002 is (damaged|of version).*00000001 is whole: remove 00000002"):
        newest(shelf)
    shutil.rmtree(second)
    assert newest(shelf)[0] == first


def test_damage_to_the_only_one(tmp_path):
    (put(tmp_path, 1, FILES, {}) / "c").write_bytes(b"d" * 1000)
    with pytest.raises(ValueError, match="c is not what was written; no other is whole"):
        newest(tmp_path)


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("strfnet.weights.store.VERSION", 2)
    folder = put(tmp_path, 1, FILES, {})
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of version 2, wanted 1"):
        take(folder)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("replaced", [False, True])
def test_cut_short_before_any_disk_operation_the_shelf_holds_a_whole_checkpoint(tmp_path, monkeypatch, replaced):
    names = ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir")
    for operation in range(1, 100):
        shelf = tmp_path / str(operation)
        for number in (1, 2):
            put(shelf, number, FILES, {"old": True})
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
                put(shelf, 2 if replaced else 3, FILES, {"old": False})
                keep(shelf, [2 if replaced else 3])
            except Killed:
                pass
        if left > 0:
            assert operation > 8
            return
        assert newest(shelf)[2] == FILES
        sweep(shelf)
        assert not list(shelf.glob(".*"))
        put(shelf, 3, FILES, {"old": False})  # what was left behind is in nobody's way
        assert newest(shelf)[0].name == "00000003"
    pytest.fail("put never came to its end")


def test_description_comes_last_and_files_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    seen = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: (seen.append(os.readlink(f"/proc/self/fd/{handle}")), fsync(handle))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (seen.append("rename"), rename(a, b)))
    put(tmp_path, 1, FILES, {})
    part = str(tmp_path / ".00000001.part")
    assert seen == [*(f"{part}/{name}" for name in [*FILES, "description.json"]), part, "rename", str(tmp_path)]


def test_description_is_json_for_people_too(tmp_path):
    whole = json.loads((put(tmp_path, 1, {"c": b"c"}, {"step": 3}) / "description.json").read_text())
    digest = "2e7d2c03a9507ae265ecf5b5356885a53393a2029d241394997265a1a25aefc6"  # of "c", by sha256sum
    assert whole["description"] == {"version": 1, "sha256": {"c": digest}, "step": 3}


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_whole(path, b"old")

    def fail(handle):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
