"""A record from files and words; the record here is a small one of every kind of field."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from strfnet.cli.configuration import WrongCall, configure


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A walk.

    Args:
        to: where it ends.
        steps: how many.
        stride: of each, in metres.
        rest_at: steps after which one rests.
        map: a file that shows the way.
        dog: whether one comes along.

    Raises: ValueError for fewer than one step.
    """

    to: str
    steps: int = 8
    stride: float = 0.7
    rest_at: tuple[int, ...] = (3, 5)
    map: Path | None = None
    dog: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")


def walk(*words):
    return configure(Walk, words, program="walk", about="Goes for a walk.")


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "walk.yaml"
        path.write_text(text)
        return str(path)

    return write


def test_words_and_files_make_a_record_and_the_last_word_wins(file):
    path = file("to: the sea\nsteps: 9\nstride: 3e-1\nrest_at: [2]\nmap: a b.png\n")
    assert walk("--to", "x") == Walk(to="x")
    assert walk("--config", path) == Walk(to="the sea", steps=9, stride=0.3, rest_at=(2,), map=Path("a b.png"))
    assert walk("--steps", "4", "--config", path, "--to=y", "--dog", "true").steps == 9
    assert walk("--config", path, "--steps", "4", "--rest-at", "[]", "--map", "null") == Walk(
        to="the sea", steps=4, stride=0.3, rest_at=(), map=None
    )


@pytest.mark.parametrize("option", ["--rest-at", "--rest_at"])
def test_a_name_may_be_written_with_dashes(option):
    assert walk("--to", "x", option, "[1,2]").rest_at == (1, 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: to"),
        (["--to", "x", "--stepps", "3"], "there is no option 'stepps', the nearest is 'steps'"),
        (["--to", "x", "--steps", "many"], "steps"),
        (["--to", "x", "--steps", "0"], "steps must be at least 1, got 0"),
        (["--to", "x", "--steps"], "--steps: expected one argument"),
        (["--to", "x", "stray"], "unrecognized arguments: stray"),
        (["--config", "/nowhere/walk.yaml"], "/nowhere/walk.yaml"),
    ],
)
def test_a_wrong_word_is_refused(words, message):
    with pytest.raises(WrongCall, match=message) as caught:
        walk(*words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("to: x\nstep: 3\n", "there is no option 'step', the nearest is 'steps'"),
        ("to: x\nsteps: many\n", "steps"),
        ("to: x\nsteps: 0\n", "steps must be at least 1, got 0"),
        ("to: [", "walk.yaml"),
        ("- to\n", "walk.yaml"),
        ("", "walk.yaml"),
    ],
)
def test_a_wrong_file_is_refused(file, text, message):
    with pytest.raises(WrongCall, match=message) as caught:
        walk("--config", file(text))
    assert "\n" not in str(caught.value)
    with pytest.raises(WrongCall, match=message):
        walk(f"--config={file(text)}")


def test_the_printed_configuration_makes_the_same_record(file, capsys):
    with pytest.raises(SystemExit) as left:
        walk("--to", "x", "--steps", "3", "--print-config")
    assert left.value.code in (0, None)
    printed = capsys.readouterr().out
    assert walk("--config", file(printed)) == Walk(to="x", steps=3)


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit):
        walk("--help")
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("Goes for a walk.", "--config FILE", "--print-config", "where it ends.", "--rest_at", "of each, in"):
        assert word in shown


def test_without_its_library_it_says_what_to_install():
    code = "import sys; sys.modules['jsonargparse'] = None\nfrom strfnet.cli import main; sys.exit(main(['train']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'strfnet: error: strfnet train needs jsonargparse: pip install "strfnet[train]"\n'
