"""Names that are looked up, and what to say of one that is not there."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is spelt most like this one."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0)[0]


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises: ValueError for a name that is not known, with the nearest one."""
    known = list(known)
    if name not in known:
        raise ValueError(f"there is no {kind} {name!r}, the nearest is {nearest(name, known)!r}")
