"""The command line as records: words, files, help and errors."""

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from strfnet.cli import main
from strfnet.cli.arguments import make_parser, parse
from strfnet.cli.options import COMMANDS
from strfnet.deployment.exporting import FORMATS
from strfnet.evaluation.protocols import PROTOCOLS, ProtocolName


def evaluation(*words):
    return parse(["evaluate", *words])[1]


def network(*words):
    return evaluation("--model", "x", *words)


@pytest.fixture
def file(tmp_path):
    def write(text, name="options.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def test_words_and_files_make_a_record_and_the_last_one_wins(file):
    path = file("model: x\nbatch: 9\nweights: a b.pth\nrerank: true\nsplit: 3\n")
    call = evaluation("--config", path)
    assert (call.network.model, call.network.weights) == ("x", Path("a b.pth"))
    assert (call.inference.batch, call.rerank, call.data_set.split) == (9, True, 3)
    assert evaluation("--batch", "4", "--config", path).inference.batch == 9
    call = evaluation("--config", path, "--batch", "4", "--weights", "null", "--model=y")
    assert (call.inference.batch, call.network.weights, call.network.model) == (4, None, "y")
    lists = parse(["train", "--out", "run", "--milestones", "[]", "--per-frame", "[flip]"])[1].recipe
    assert (lists.milestones, lists.per_frame) == ((), ("flip",))
    assert parse(["profile", "c2d_resnet8", "--clip", *"12345"])[1].clip == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("option", ["--steps-per-epoch", "--steps_per_epoch", "--steps-per_epoch=3"])
def test_a_name_has_dashes_or_underscores(option):
    words = [option] if "=" in option else [option, "3"]
    assert parse(["train", "--out", "run_one", *words])[1].recipe.steps_per_epoch == 3


def test_a_flag_stands_with_or_without_a_value():
    assert network().rerank is False and network().data_set.complete is True
    for words in (["--rerank"], ["--rerank", "true"], ["--rerank=true"], ["--rerank", "--batch", "3"]):
        assert network(*words).rerank is True
    assert network("--complete", "false", "--rerank=false").data_set.complete is False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a command is missing, wanted one of models, profile,"),
        (["profil"], "strfnet: error: there is no command 'profil', the nearest is 'profile'"),
        (["profile"], "strfnet profile: error: the following arguments are required: model"),
        (["profile", "x", "--dept", "1"], "there is no option '--dept', the nearest is '--depth'"),
        (["embed", "--modell=x"], "there is no option '--modell', the nearest is '--model'"),
        (["show", "--mask"], "there is no option '--mask', the nearest is '--masks'"),
        (["profile", "x", "--clip", "1", "3", "0", "64", "32"], "clip must be five integers of at least 1, got"),
        (["profile", "x", "--clip", "1", "3"], "--clip: expected 5 arguments"),
        (["profile", "x", "--depth", "-1"], "depth must be at least 0, got -1"),
        (["profile", "x", "y"], "unrecognized arguments: y"),
        (["embed", "--model", "x"], "strfnet embed: error: the following arguments are required: out"),
        (["embed", "--model", "x", "--out", "y"], "data is missing, wanted the folder of the tracklets"),
        (["evaluate"], "trained is None and model is None, wanted one of the two"),
        (["evaluate", "--trained", "z", "--weights", "w"], "has its own"),
        (["evaluate", "--model", "x", "--best"], "wanted trained"),
        (["evaluate", "--model", "x", "--batch", "0"], "batch must be at least 1, got 0"),
        (["evaluate", "--model", "x", "--batch", "many"], "batch is 'many', wanted an integer"),
        (["evaluate", "--model", "x", "--batch"], "--batch: expected one argument"),
        (["evaluate", "--model", "x", "--rerank", "maybe"], "rerank is 'maybe', wanted true or false"),
        (["evaluate", "--model", "x", "--format", "mar"], "there is no format 'mar', the nearest is 'mars'"),
        (["evaluate", "--model", "x", "--protocol", "ap3"], "there is no protocol 'ap3', the nearest is 'ap3d'"),
        (["evaluate", "--model", "x", "--interpolation", "cubic"], "the nearest is 'bicubic'"),
        (["check", "x", "--allow", "one_frame"], "allow is one_frame, wanted a list: [one_frame]"),
        (["check", "x", "--allow", "[one_fram]"], "the nearest is 'one_frame'"),
        (["export", "--model", "x", "--out", "y", "--format", "pt"], "there is no format 'pt', the nearest is 'pt2'"),
        (["train", "--out", "x", "--schedule", "step"], "there is no schedule 'step', the nearest is 'steps'"),
        (["train", "--out", "x", "--per-frame", "[cropp]"], "there is no per_frame 'cropp', the nearest is 'crop'"),
        (["evaluate", "--config", "/nowhere/x.yaml"], "cannot read /nowhere/x.yaml"),
        (["show", "--model", "x", "--out", "y"], "wanted one or more of --masks, --attention,"),
        (["show", "--cmc", "--ranks", "--model", "x", "--out", "x.png"], "wanted a folder for ranks.png, cmc.png"),
        (["show", "--report", "--model", "x", "--out", "x.png"], "wanted a folder for report.html"),
        (["show", "--curve", "--model", "x", "--out", "y"], "only a training run has a log"),
        (["show", "--ranks", "--model", "x", "--out", "y", "--ranks-shown", "0"], "ranks_shown must be at least 1"),
        (["show", "--masks", "--model", "x", "--out", "y", "--place", "1"], "place is '1', wanted a list such as"),
    ],
)
def test_a_wrong_call_is_one_line_below_the_usage(capsys, words, message):
    assert main(words) == 2
    out, err = capsys.readouterr()
    usage, error = err.splitlines()
    assert out == "" and usage.startswith("usage: strfnet") and message in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: x\nbatsh: 3\n", "there is no option '--batsh', the nearest is '--batch'"),
        ("model: x\nbatch: many\n", "batch is 'many', wanted an integer"),
        ("model: x\nbatch: 0\n", "batch must be at least 1, got 0"),
        ("model: x\nformat: marss\n", "there is no format 'marss', the nearest is 'mars'"),
        ("model: [", "options.yaml, wanted YAML such as"),
        ("- model\n", "options.yaml, wanted YAML such as"),
        ("", "options.yaml, wanted YAML such as"),
    ],
)
def test_a_wrong_file_is_one_line(file, capsys, text, message):
    for words in (["--config", file(text)], [f"--config={file(text)}"]):
        assert main(["evaluate", *words]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("strfnet evaluate: error: ") and message in error


def test_the_printed_configuration_makes_the_same_record(file, capsys):
    words = ["train", "--out", "run", "--lr", "0.5", "--milestones", "[3]", "--format", "mars", "--data", "x"]
    assert main([*words, "--print-config"]) == 0
    printed = file(capsys.readouterr().out)
    assert parse(["train", "--config", printed]) == parse(words)


def options_of(record):
    for one in fields(record):
        hint = get_type_hints(record)[one.name]
        yield from options_of(hint) if is_dataclass(hint) else [one]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_and_names_its_default(name, capsys):
    assert main([name, "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Union" not in text and "Literal" not in text and "type:" not in text
    text = text.partition(" options: ")[2]
    for one in options_of(COMMANDS[name]):
        if not one.metadata.keys() & {"positional", "names_of_derived"}:
            (about,) = re.findall(rf" --{one.name.replace('_', '-')} (.+?)(?= --[a-z]|$)", text)[:1]
            assert len(about.split()) > 2
            assert isinstance(one.default, bool) or not isinstance(one.default, int) or f"{one.default})" in about


def test_choices_are_those_of_the_code():
    assert set(get_args(ProtocolName)) == set(PROTOCOLS)
    assert set(get_args(get_type_hints(COMMANDS["export"])["format"])) == set(FORMATS)


def test_the_summary_of_each_command_fits_a_line():
    lines = make_parser().format_help().splitlines()
    assert all(any(line.split()[:1] == [name] for line in lines) for name in COMMANDS)


def test_without_jsonargparse_it_names_the_extra():
    code = (
        "import sys; sys.modules['jsonargparse'] = None\nfrom strfnet.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run([sys.executable, "-c", code, "train"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == 'strfnet: error: the command line needs jsonargparse: pip install "strfnet[train]"\n'
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("strfnet ")
