"""Comparison of a network with the one that its name or its function builds."""

import re
from typing import Any

from torch import nn

from strfnet.weights.file import misfits


def differences(network: nn.Module, rebuilt: nn.Module) -> list[str]:
    """Returns what differs in modules, their settings, and the names and shapes of their weights; not the values."""
    theirs, ours = dict(rebuilt.named_modules()), dict(network.named_modules())
    wrong = [f"{path} is {'gone' if path in theirs else 'new'}" for path in theirs.keys() ^ ours.keys()]
    for path in theirs.keys() & ours.keys():
        mine, other = _made_of(ours[path]), _made_of(theirs[path])
        wrong += [
            f"{path}.{key} is {mine[key]!r}, not {other.get(key)!r}" for key in mine if mine[key] != other.get(key)
        ]
    return sorted(wrong) + misfits(network.state_dict(), rebuilt.state_dict())


def _made_of(module: nn.Module) -> dict[str, Any]:
    """A module's class and settings, in which modules of equal parameters may differ."""
    return {"class": type(module).__name__} | {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, int | float | str | tuple | None) and not re.match("_|training$|name$", key)
    }
