"""The command line as records: one jsonargparse parser with a subcommand for each record of `strfnet.cli.options`."""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from strfnet.cli.options import COMMANDS
from strfnet.cli.words import check_words
from strfnet.system.names import unknown
from strfnet.system.reading import read_regular

try:
    from docstring_parser import parse as parse_docstring
    from jsonargparse import ArgumentParser, DefaultHelpFormatter
except ImportError as error:
    raise ImportError('the command line needs jsonargparse: pip install "strfnet[train]"') from error

METAVARS = {int: "N", float: "X", str: "NAME", Path: "PATH"}
WANTED = {int: "an integer", float: "a number", bool: "true or false", str: "text", Path: "a path"}
LARGEST_CONFIG = 2**20  # bytes
PRINT_CONFIG = "--print-config"


class HelpFormatter(DefaultHelpFormatter):
    """Help without types: the name, the text, and the default unless the text names it."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, **{"max_help_position": 28, **settings})

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if isinstance(action, argparse._HelpAction):
            return "Show this help and exit."
        if PRINT_CONFIG in action.option_strings:
            return "Print the configuration as YAML and exit."
        if any(action.default is value for value in (None, False, argparse.SUPPRESS)) or "Default:" in text:
            return text
        return f"{text.removesuffix('.')} (default: {_shown(action.default)})."

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if PRINT_CONFIG in action.option_strings:
            return PRINT_CONFIG
        shown = super()._format_action_invocation(action)
        return shown.partition(",")[0] if action.nargs == "+" else shown  # without --name+, which appends

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # its choices alone
            return "".join(map(self._format_action, action._get_subactions()))
        return super()._format_action(action)


class Parser(ArgumentParser):
    """A parser whose errors are one line below the usage, with the nearest known name."""

    commands: dict[str, "Parser"] = {}  # noqa: RUF012
    words: Sequence[str] = ()

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        line = " ".join(message.split())
        if missing := re.match(r"the following arguments are required: (\w+)\.", line):
            self.commands[missing[1]].error(line.replace(f"{missing[1]}.", ""))
        parser = getattr(ex, "subcommand_parser", None) or self
        parser.print_usage(sys.stderr)
        self.exit(2, f"{parser.prog}: error: {self._of_file(parser._explain(line))}\n")

    def _of_file(self, line: str) -> str:
        """An error, behind the names of the configuration files unless it names one, or an option of the words."""
        files = _config_files(self.words)
        given = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in self.words}
        named = re.match(r"(?:there is no )?(?:option ')?(?:--)?(\S[\w-]*)", line)
        if named is None or named[1].replace("-", "_") in {*given, "the"} or any(file in line for file in files):
            return line
        return ": ".join([*files, line])

    def _explain(self, line: str) -> str:
        """An error of jsonargparse in the words of the command line."""
        if stray := re.search(r"(?:unrecognized arguments: (?=--)|[Oo]ption ')([^\s'=]+)", line):
            options = [name for action in self._actions for name in action.option_strings if name.startswith("--")]
            return unknown("option", f"--{stray[1].removeprefix('--').replace('_', '-')}", options)
        if command := re.match("argument COMMAND: invalid choice: '(.*?)'", line):
            return unknown("command", command[1], COMMANDS)
        if wrong := re.match(r'Parser key "(?:\w+\.)?(\w+)".*(?:Got|Given) value: (.*)', line):
            action: Any = next(action for action in self._actions if action.dest == wrong[1])
            if action.choices_of_name and wrong[2] in action.choices_of_name:
                return f"{wrong[1]} is {wrong[2]}, wanted a list: [{wrong[2]}]"
            if action.choices_of_name:
                return unknown(wrong[1], wrong[2], action.choices_of_name)
            return f"{wrong[1]} is {wrong[2]!r}, wanted {action.wanted}"
        if line.startswith(("Problems parsing config", "Unexpected config", 'Parser key "config"')):
            return f"cannot read {' and '.join(_config_files(self.words))}, wanted YAML such as `batch: 8`: {line}"
        return line


def parse(words: Sequence[str]) -> tuple[str, Any]:
    """Returns the name of the command and its record, one of the values of `COMMANDS`.

    Names of options may be written with dashes or underscores.

    Raises: SystemExit after --help, --version and --print-config with code 0, and for a wrong call with code 2.
    """
    Parser.words = [re.sub(r"^--[\w-]+", lambda name: name[0].replace("_", "-"), word) for word in words]
    parser = make_parser()
    try:
        check_words(Parser.words)
        for file in _config_files(Parser.words):
            _check_text(file)
    except ValueError as error:
        command = next((word for word in Parser.words if word in parser.commands), None)
        parser.commands.get(str(command), parser).error(str(error))
    given = parser.parse_args(Parser.words)
    if given.command is None:
        parser.error(f"a command is missing, wanted one of {', '.join(COMMANDS)}")
    try:
        return given.command, _record(COMMANDS[given.command], given[given.command])
    except ValueError as error:
        parser.commands[given.command].error(str(error))


def make_parser() -> Parser:
    """Returns the parser of the whole command line, with the parser of each command in ``commands``."""
    settings: dict[str, Any] = {"formatter_class": HelpFormatter, "allow_abbrev": False}
    about = "Layers, networks and tools for video person re-identification."
    parser = Parser(prog="strfnet", description=about, usage="strfnet COMMAND [options]", **settings)
    parser.add_argument("--version", action="store_true", help="Print the version and exit.")
    parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
    subcommands = parser.add_subcommands(
        required=False, dest="command", title="commands", description=None, metavar="COMMAND"
    )
    for name, record in COMMANDS.items():
        about = parse_docstring(record.__doc__ or "").short_description or ""
        command = Parser(description=about, print_config=PRINT_CONFIG, **settings)
        if fields(record):
            command.add_argument("--config", action="config", metavar="FILE", help="YAML file of options.")
        _add_fields(command, record)
        subcommands.add_subcommand(name, command, help=about)
        command.prog, command.usage = f"strfnet {name}", _usage(name, command)
        parser.commands[name] = command
    return parser


def _add_fields(parser: Parser, record: Any, group: Any = None) -> None:
    """Adds an argument for each field of a record; a field that is a record itself gets a group of its own."""
    texts = {one.arg_name: " ".join(str(one.description).split()) for one in parse_docstring(record.__doc__).params}
    hints = get_type_hints(record)
    for one in fields(record):
        hint, default = hints[one.name], one.default
        if one.metadata.get("names_of_derived"):
            continue
        if is_dataclass(hint):
            _add_fields(parser, hint, parser.add_argument_group(one.name.replace("_", " ")))
            continue
        settings: dict[str, Any] = {"help": texts[one.name], "type": hint, "default": default}
        if how := one.metadata.get("derived"):
            settings["help"] = f"{settings['help'].removesuffix('.')} (default: {how} {_shown(default)})."
            settings |= {"type": hint | None, "default": None}
        kinds = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
        parts = [part for kind in kinds for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
        choices = [choice for part in parts for choice in get_args(part)]
        several = get_origin(hint) is tuple
        settings["metavar"] = METAVARS.get(kinds[0], "[A,B,...]")
        if choices and not several:
            settings["metavar"] = f"{{{','.join(choices)}}}"
        if hint is bool:
            settings |= {"nargs": "?", "const": True, "metavar": "true|false"}
        elif several and Ellipsis not in get_args(hint):
            default = list(settings["default"])
            settings |= {"nargs": len(default), "type": get_args(hint)[0], "default": default}
        elif get_origin(kinds[0]) is list:
            settings |= {"nargs": "+", "type": get_args(kinds[0])[0]}
        settings["metavar"] = one.metadata.get("metavar", settings["metavar"])
        if one.default is MISSING:
            del settings["default"]
        name = one.name
        if not one.metadata.get("positional"):
            name = f"--{one.name.replace('_', '-')}"
            settings["required"] = one.default is MISSING
        action = (group or parser).add_argument(name, **settings)
        action.choices_of_name, action.wanted = choices, WANTED.get(kinds[0], "a list such as [1,2]")


def _usage(name: str, command: Parser) -> str:
    """The command with its required arguments."""
    required = [action for action in command._actions if action.required]
    words = [" ".join([*action.option_strings[:1], str(action.metavar)]) for action in required]
    return " ".join(["strfnet", name, *words, "[options]"])


def _record(record: Any, given: Any) -> Any:
    """The record whose fields have the parsed values."""
    hints, values = get_type_hints(record), {}
    for one in fields(record):
        if is_dataclass(hints[one.name]):
            values[one.name] = _record(hints[one.name], given)
        elif one.metadata.get("names_of_derived"):
            values[one.name] = tuple(name for name in _derived(record) if given[name] is None)
        elif not ("derived" in one.metadata and given[one.name] is None):
            values[one.name] = given[one.name]
    return record.of(values) if hasattr(record, "of") else record(**values)


def _derived(record: Any) -> list[str]:
    """The fields of a record, and of records in it, that are derived if they are not given."""
    hints, names = get_type_hints(record), []
    for one in fields(record):
        if is_dataclass(hints[one.name]):
            names += _derived(hints[one.name])
        elif "derived" in one.metadata:
            names.append(one.name)
    return names


def _config_files(words: Sequence[str]) -> list[str]:
    parts = [part for word in words for part in word.split("=", 1)]
    return [file for word, file in pairwise(parts) if word == "--config"]


def _check_text(file: str) -> None:
    """Raises: ValueError for a configuration that is not text in UTF-8, a pipe, or large."""
    try:
        read_regular(file, most=LARGEST_CONFIG).decode()
    except (OSError, ValueError) as error:
        reason = "it is not in UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", error)
        raise ValueError(f"cannot read {file}: {reason}, wanted YAML such as `batch: 8`") from error


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
