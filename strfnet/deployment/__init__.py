"""Faster forms of a network, and files for other runtimes."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.deployment.deployed import Deployed, Trial
    from strfnet.deployment.exported import open_exported
    from strfnet.deployment.exporting import Exported, export
    from strfnet.deployment.fusion import fuse, fuse_batch_norms, merge_projections, merge_shortcuts
    from strfnet.deployment.in_place import add_in_place, chunk_attention, norms_in_place
    from strfnet.deployment.optimizer import optimize
    from strfnet.deployment.verification import Check
    from strfnet.deployment.winograd import use_winograd
    from strfnet.system.compat import allow_tf32

__getattr__, __dir__, __all__ = lazy_names(__name__)
