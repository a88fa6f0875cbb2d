"""The arguments of `strfnet models`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Models:
    """List the networks known by name."""
