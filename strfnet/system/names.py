"""Checks of arguments: names, with errors that suggest the nearest one, choices, counts and numbers."""

import difflib
import math
import os
from collections.abc import Iterable, Sequence
from numbers import Integral, Real


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name whose spelling is nearest."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0)[0]


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The message for a name that is not known, with the nearest one."""
    return f"there is no {kind} {name!r}, the nearest is {nearest(name, known)!r}"


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Raises: ValueError if ``name`` is not known, with the nearest one."""
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))


def check_path(name: str, value: object) -> None:
    """Raises: ValueError for what is no path, and for an empty text, which would name the working directory."""
    if not isinstance(value, str | os.PathLike) or not str(value).strip():
        raise ValueError(f"{name} is {value!r}, wanted a path")


def check_utf8(text: str, place: object) -> None:
    """Raises: ValueError if a name has bytes that are no UTF-8, so that a file of text cannot hold it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place} cannot hold {text!r}, which is no UTF-8: rename it") from error


def check_commas(columns: Sequence[str], place: str) -> None:
    """Raises: ValueError if the first line of a CSV file separates its columns by anything else than commas."""
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and sign in columns[0]:
            raise ValueError(f"{place} separates its columns by {name}, wanted commas")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises: ValueError if argument ``name`` has a value that is not one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_count(name: str, value: object, *, least: int = 1, none: str | None = None) -> None:
    """Raises: ValueError if an argument is no whole number of at least ``least``. ``none`` is what None means."""
    if value is None and none is not None:
        return
    otherwise = "" if none is None else f", or None for {none}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number of at least {least}{otherwise}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}{otherwise}, got {value}")


def check_number(name: str, value: object, *, least: float, above: bool = False, none: str | None = None) -> None:
    """Raises: ValueError if an argument is no finite number of at least ``least``, or with ``above`` greater."""
    if value is None and none is not None:
        return
    right = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not (value > least if above else value >= least):  # type: ignore[operator]
        wanted = f"{'above' if above else 'at least'} {least:g}{'' if none is None else f', or None for {none}'}"
        raise ValueError(f"{name} must be {'' if right else 'a number '}{wanted}, got {value!r}")


def check_flags(**values: object) -> None:
    """Raises: ValueError naming an argument that is neither True nor False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be True or False, got {value!r}")
