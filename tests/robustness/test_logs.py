"""Logs that are cut, foreign, or hold any character: what is sound is read, and the file is named."""

import json
import os
import subprocess
import sys

import pytest

from strfnet.training.log import Log, read_log

LINE = b'{"kind": "step", "step": 1, "loss": 0.5}'


def test_any_character_stays_in_its_line(tmp_path):
    names = {"name": "a\u2028b\u0085c\x0b\x1cd 人 ไทย 🙂 \u00e9\u0301"}
    log = Log(tmp_path / "log.jsonl")
    for step in (1, 2):
        log.write("step", step, names)
    log.close()
    assert [line["name"] for line in read_log(tmp_path / "log.jsonl")] == [names["name"]] * 2


def test_the_locale_does_not_matter(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes('{"kind": "step", "step": 1, "name": "人é"}\n'.encode())
    script = "import sys, pathlib; from strfnet.training.log import read_log\n"
    script += f"print(ascii(read_log(pathlib.Path({str(path)!r}))))"
    variables = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert "\\u4eba\\xe9" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "tail",
    [
        LINE[:-9],
        b"\xff\xfe",
        b"[1]",
        b"null",
        b'{"step": 2}',
        b'{"kind": 3, "step": 2}',
        b"[" * 100_000,
        b"text",
        b"{}",
    ],
    ids=lambda tail: repr(tail[:20]),
)
def test_what_is_sound_is_read_and_the_file_is_named(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    path.write_bytes(LINE + b"\n" + tail + b"\n" + LINE + b"\n")
    with pytest.warns(UserWarning, match=f"{path}: 1 of 3 lines are cut or foreign"):
        assert read_log(path) == [json.loads(LINE)] * 2
    path.write_bytes(tail)
    with pytest.raises(ValueError, match=f"{path} is not the log of a run"):
        read_log(path)


def test_a_log_that_is_missing_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"cannot read the log {tmp_path}/none: No such file"):
        read_log(tmp_path / "none")
    (tmp_path / "empty").touch()
    assert read_log(tmp_path / "empty") == []
