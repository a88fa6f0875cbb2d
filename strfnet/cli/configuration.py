"""A command's arguments, from YAML files and the command line, as one record."""

import re
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from typing import TypeVar

from strfnet.system.names import unknown

Record = TypeVar("Record")


class WrongCall(ValueError):
    """Arguments that no record can be made of; nothing has been read or written."""


def configure(kind: type[Record], arguments: Sequence[str], *, program: str, about: str) -> Record:
    """The record that the arguments describe.

    ``--NAME VALUE`` sets a field, ``--config FILE`` those that a YAML file names, ``--print-config`` prints all of
    them as such a file and ends, as ``--help`` does. What stands later wins. Names may be written with dashes.

    Args:
        kind: a dataclass whose docstring explains its fields under "Args:".
        arguments: the words of the command line behind the command.
        program: how the command is called, for its help.
        about: a line on what it does.

    Raises: WrongCall for an unknown name (with the nearest) or a value that ``kind`` refuses; ImportError where
    jsonargparse is missing; SystemExit after help.
    """
    try:
        from jsonargparse import ArgumentError, ArgumentParser
    except ImportError as error:
        raise ImportError(f'{program} needs jsonargparse: pip install "strfnet[train]"') from error

    parser = ArgumentParser(prog=program, description=about, exit_on_error=False, print_config="--print-config")
    parser.add_argument("--config", action="config", metavar="FILE", help="YAML with values of the options below")
    parser.add_class_arguments(kind)
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    words = [re.sub(r"^--[\w-]+", lambda name: _spelt(name[0], names), word) for word in arguments]
    try:
        given = parser.parse_args(words)
    except ArgumentError as error:
        raise WrongCall(_explained(str(error), names, words)) from error
    try:
        return kind(**{name: given[name] for name in names})
    except ValueError as error:
        raise WrongCall(str(error)) from error


def _spelt(option: str, names: Sequence[str]) -> str:
    """An option with the dashes or underscores that its field has. Raises: WrongCall for one that is unknown."""
    name = option.removeprefix("--").replace("-", "_")
    if name in names or name in ("config", "help"):
        return f"--{name}"
    if name == "print_config":
        return "--print-config"
    raise WrongCall(unknown("option", name, names))


def _explained(message: str, names: Sequence[str], words: Sequence[str]) -> str:
    """A refusal of jsonargparse in one line, with the nearest name for an unknown one."""
    stray = re.search(r"Option '([^']+)' is not accepted", message)
    if stray:
        return unknown("option", stray[1], names)
    line = " ".join(message.split())
    if line.startswith(("Problems parsing config", "Unexpected config")):  # it does not say of which file
        split = [part for word in words for part in word.split("=", 1)]
        files = [path for word, path in pairwise([*split, ""]) if word == "--config"]
        return f"cannot read {' and '.join(files)}, wanted YAML such as `lr: 0.001`: {line}"
    return line
