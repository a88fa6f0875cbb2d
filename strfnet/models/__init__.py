"""Networks by name, and files of their weights."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.models.checkpoints import describe, load, load_official, save, save_official
    from strfnet.models.conversion import convert
    from strfnet.models.network import ReIDNetwork
    from strfnet.models.registry import create_model, list_models, options_of
    from strfnet.models.source import LoadedNetwork, Preprocessing, UnknownNetwork, find_network

__getattr__, __dir__, __all__ = lazy_names(__name__)
