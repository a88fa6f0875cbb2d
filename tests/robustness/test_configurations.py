"""Files of options that are no text, no regular file, or large: one line that names the file, at once."""

import os

import pytest

from strfnet.cli import main

TEXT = "model: c2d_resnet8\nbatch: 8\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT.encode("utf-16"), "it is not in UTF-8"),
        (b"\xff\xfe\x00", "it is not in UTF-8"),
        (b"#" * (2**20 + 1), "wanted at most 1048576"),
        (f"{TEXT}---\n{TEXT}".encode(), "wanted YAML such as"),
        (b"", "wanted YAML such as"),
        (b"- a\n", "wanted YAML such as"),
        (None, "it is a pipe"),
    ],
    ids=["utf-16", "bytes", "large", "two documents", "empty", "list", "pipe"],
)
def test_a_configuration_that_is_none_is_one_line_with_its_name(tmp_path, capsys, content, reason):
    path = tmp_path / "options.yaml"
    if content is None:
        os.mkfifo(path) if os.name == "posix" else pytest.skip("pipes are files on POSIX alone")
    else:
        path.write_bytes(content)
    assert main(["evaluate", "--config", str(path)]) == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: strfnet evaluate") and str(path) in error and reason in error


@pytest.mark.parametrize(
    ("text", "words", "error"),
    [
        ("rerank: perhaps\n", [], "rerank is 'perhaps', wanted true or false"),
        ("bacth: 8\n", [], "there is no option '--bacth', the nearest is '--batch'"),
        ("precision: bd16\n", ["--batch", "4"], "there is no precision 'bd16', the nearest is 'bf16'"),
        ("clips*: all_frames:8\n", [], "there is no option '--clips*', the nearest is '--clips'"),
        ("model: c2d_resnet8\nclips: all_frames\n", [], "clips is 'all_frames', wanted a clip sampler"),
    ],
)
def test_an_error_of_a_value_in_a_configuration_names_the_file(tmp_path, capsys, text, words, error):
    path = tmp_path / "options.yaml"
    path.write_text(text)
    assert main(["evaluate", "--config", str(path), *words]) == 2
    assert f"error: {path}: {error}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--rerank", "perhaps"],
        ["--bacth", "8"],
        ["--precision=bd16"],
        ["--clips", "all_frames", "--model", "c2d_resnet8"],
    ],
)
def test_an_error_of_the_command_line_does_not_name_the_configuration(tmp_path, capsys, words):
    path = tmp_path / "options.yaml"
    path.write_text(TEXT)
    assert main(["evaluate", "--config", str(path), *words]) == 2
    assert str(path) not in capsys.readouterr().err
