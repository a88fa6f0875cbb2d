"""The command line: one parser, each command a call of public functions."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.cli.parser import main

__getattr__, __dir__, __all__ = lazy_names(__name__)
