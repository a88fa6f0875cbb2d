"""Values that would be read as something else than what is written, on the command line and in its YAML files."""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import yaml

from strfnet.system.reading import read_regular

SEXAGESIMAL = r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"
OCTAL = r"[-+]?0[0-9_]+"


def check_words(words: Sequence[str]) -> None:
    """Checks the arguments of a command, and the files that ``--config`` names as far as they can be read.

    Raises: ValueError for an empty value, which as a path is the working directory, and for numbers of YAML 1.1 that
    look like others: 1:30 is 90 and, in a file, 010 is 8; for aliases in a file, which may stand for billions of
    values.
    """
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for name, value in pairwise(["", *parts]):
        _check(name.removeprefix("--") or "the command", value, SEXAGESIMAL)
        if name == "--config" and Path(value).is_file():
            for key, scalar in _scalars(Path(value)):
                _check(f"{key} in {value}", scalar, f"{SEXAGESIMAL}|{OCTAL}")


def _check(name: str, value: str, misread: str) -> None:
    if not value.strip():
        raise ValueError(f"{name} is {value!r}, wanted a value")
    if re.fullmatch(misread, value):
        raise ValueError(f"{name} is {value}, which YAML reads as another number; wanted it in decimal digits")


def _scalars(file: Path) -> Iterator[tuple[str, str]]:
    """The values of a YAML file, each with its key; of quoted ones those that are blank."""
    key, is_key = "a value", False
    try:
        for token in yaml.scan(read_regular(file)):
            if isinstance(token, yaml.AliasToken):
                raise ValueError(f"{file} has the alias *{token.value}, wanted the value itself")
            if isinstance(token, yaml.ScalarToken) and is_key:
                key = token.value
            elif isinstance(token, yaml.ScalarToken) and (token.plain or not token.value.strip()):
                yield key, token.value
            is_key = isinstance(token, yaml.KeyToken)
    except yaml.YAMLError:  # the parser reports it, with its place
        return
