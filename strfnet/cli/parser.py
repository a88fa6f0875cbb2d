"""The command line: arguments in, one call, one line per error. Heavy imports stay inside the commands."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

from strfnet.system.names import unknown
from strfnet.version import __version__

WRONG_CALL, FAILED, INTERRUPTED, PIPE_CLOSED = 2, 1, 130, 141  # exit codes; the last two as shells count signals

CONFIGURED = {
    "train": "train a network on a data set, or go on with a run that was stopped",
    "evaluate": "rank the queries of a data set against its gallery, by one protocol or by all",
    "embed": "turn tracklets into a file of vectors",
    "show": "pictures of what a network attends to and finds, and a report of an evaluation",
    "export": "write a network as a file for other programs, checked before it is kept",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if it failed, 2 for a wrong call, 130 for Ctrl-C.

    Training that is told to stop saves first; then it returns 130 for Ctrl-C and 143 for SIGTERM.
    """
    try:
        try:
            code = _run(sys.argv[1:] if argv is None else list(argv))
        except SystemExit as stop:  # argparse, after --help or a wrong call
            code = int(stop.code or 0)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes once more on its way out: into nothing, for who listened has gone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = PIPE_CLOSED
    except KeyboardInterrupt:
        print("strfnet: interrupted", file=sys.stderr)
        code = INTERRUPTED
    return code


def _run(argv: list[str]) -> int:
    arguments = _parse(argv)
    try:
        arguments.command(arguments)
    except BrokenPipeError:
        raise
    except Exception as error:
        if arguments.debug:
            raise
        kind = "" if isinstance(error, (ValueError, OSError, ImportError)) else f"{type(error).__name__}: "
        print("strfnet: error:", kind + " ".join(str(error).split()), file=sys.stderr)
        return FAILED
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    """The arguments; a wrong call ends here with exit code 2 and the nearest name."""
    parser, commands = _parsers()
    name = next((word for word in argv if not word.startswith("-")), None)
    if name is not None and name not in commands:
        parser.error(unknown("command", name, commands))
    if name in CONFIGURED:
        behind = argv[argv.index(name) + 1 :]
        words = [word for word in behind if word != "--debug"]
        return argparse.Namespace(
            command=_configured, name=name, words=words, parser=commands[name], debug="--debug" in argv
        )
    chosen = commands[name] if name else parser
    # Before argparse, which would first miss the argument whose name was misspelt.
    options = re.findall(r"--[a-z]+", parser.format_help() + chosen.format_help())
    for word in (word.partition("=")[0] for word in argv):
        if word.startswith("--") and word not in ["--", *options]:
            chosen.error(unknown("option", word, options))
    return parser.parse_args(argv)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole command line, and the part of each command by its name."""
    parser = argparse.ArgumentParser("strfnet", description="Networks for video person re-identification.")
    parser.add_argument("--version", action="version", version=f"strfnet {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    models = commands.add_parser("models", help="list the networks that are known by name")
    models.set_defaults(command=_models)

    profile = commands.add_parser("profile", help="what a network costs: parameters and multiply-adds")
    profile.add_argument("model", metavar="NAME", help="one of `strfnet models`")
    profile.add_argument(
        "--clip",
        type=_positive,
        nargs=5,
        default=(1, 3, 8, 256, 128),
        metavar=tuple("BCTHW"),
        help="shape of the clip (default: 1 3 8 256 128)",
    )
    profile.add_argument("--depth", type=_count, default=2, metavar="N", help="levels of modules shown (default: 2)")
    profile.add_argument("--json", action="store_true", help="print JSON, with all modules, instead of a table")
    profile.set_defaults(command=_profile, parser=profile)

    convert = commands.add_parser("convert", help="a run or published weights into a file of ours, or back")
    convert.add_argument(
        "source",
        metavar="IN",
        help="a file of ours, of published code or of an image ResNet, or the folder of a run",
    )
    convert.add_argument(
        "target", metavar="OUT", help="ours if it ends in .safetensors, else as published code writes"
    )
    convert.add_argument("--name", metavar="NAME", help="which network, where its published names do not tell")
    convert.set_defaults(command=_convert, parser=convert)

    for name, about in CONFIGURED.items():
        commands.add_parser(name, help=about, usage=f"strfnet {name} [--config FILE] [--NAME VALUE ...]")

    for command in commands.choices.values():
        command.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    return parser, commands.choices


def _models(arguments: argparse.Namespace) -> None:
    from strfnet.models import list_models

    print("\n".join(list_models()))


def _profile(arguments: argparse.Namespace) -> None:
    import torch

    from strfnet.models import create_model
    from strfnet.profiler import profile

    _check_model(arguments)
    with torch.device("meta"):  # shapes suffice
        network = create_model(arguments.model)
    report = profile(network, tuple(arguments.clip))
    print(report.to_json() if arguments.json else report.table(depth=arguments.depth))


def _convert(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from strfnet.models import list_models
    from strfnet.models.checkpoints import convert

    if arguments.name is not None and arguments.name not in list_models():
        arguments.parser.error(unknown("model", arguments.name, list_models()))
    print(convert(Path(arguments.source), Path(arguments.target), name=arguments.name))


def _configured(arguments: argparse.Namespace) -> None:
    """A command whose many arguments may come from files."""
    from strfnet.cli import commands
    from strfnet.cli.configuration import WrongCall, configure

    kind, run = commands.COMMANDS[arguments.name]
    try:
        program = f"strfnet {arguments.name}"
        words = _with_values(kind, arguments.words)
        run(configure(kind, words, program=program, about=CONFIGURED[arguments.name]))
    except WrongCall as error:
        arguments.parser.error(str(error))


def _with_values(kind: type, words: Sequence[str]) -> list[str]:
    """The words of a call in which an option that is yes or no, such as ``--masks``, may stand without a value."""
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(kind) if field.type in (bool, "bool")}
    return [
        f"{word}=true" if word.replace("_", "-") in flags and after.startswith("--") else word
        for word, after in pairwise([*words, "--"])
    ]


def _check_model(arguments: argparse.Namespace) -> None:
    from strfnet.models import list_models

    if arguments.model not in list_models():
        arguments.parser.error(unknown("model", arguments.model, list_models()))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)
