"""Files of weights: strfnet's own format and those of published code."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.weights.file import Weights, read_file, write_file

__getattr__, __dir__, __all__ = lazy_names(__name__)
