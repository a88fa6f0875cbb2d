"""Names that are looked up, and what to say of one that is not there."""

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str]) -> str:
    """The known name that is spelt most like this one."""
    return difflib.get_close_matches(str(name), list(known), n=1, cutoff=0)[0]


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """A line that says that there is no such name, and which is the nearest."""
    return f"there is no {kind} {name!r}, the nearest is {nearest(name, known)!r}"


def check_name(kind: str, name: object, known: Iterable[str]) -> None:
    """Raises: ValueError for a name that is not known, with the nearest one."""
    known = list(known)
    if name not in known:
        raise ValueError(unknown(kind, name, known))


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises: ValueError if argument ``name`` has a value that is not one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
