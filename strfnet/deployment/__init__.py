"""Faster forms of a network, and files for other runtimes."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.deployment.exported import open_exported
    from strfnet.deployment.exporting import Check, Exported, export
    from strfnet.deployment.fusion import fold_norms
    from strfnet.deployment.optimizer import Deployed, optimize

__getattr__, __dir__, __all__ = lazy_names(__name__)
