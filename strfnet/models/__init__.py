"""Networks by name, and files of their weights."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.models.checkpoints import convert, describe, load, load_official, save, save_official
    from strfnet.models.network import ReIDNetwork
    from strfnet.models.registry import create_model, list_models

__getattr__, __dir__, __all__ = lazy_names(__name__)
