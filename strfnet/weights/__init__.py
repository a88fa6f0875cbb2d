"""Files of weights: strfnet's own format and those of published code."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.weights.file import Weights, read_weights, write_file
    from strfnet.weights.store import CheckpointStore, read_checkpoint

__getattr__, __dir__, __all__ = lazy_names(__name__)
