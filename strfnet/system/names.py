"""Checks of names, with errors that suggest the nearest one."""

import difflib
from collections.abc import Iterable


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
    """Raises: ValueError if a path is an empty text, which would name the working directory."""
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{name} is {value!r}, wanted a path")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises: ValueError if argument ``name`` has a value that is not one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
