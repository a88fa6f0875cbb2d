"""Layers, networks and cost tables for video person re-identification.

Names are imported when they are first used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names
from strfnet.system.version import __version__ as __version__

if TYPE_CHECKING:
    from strfnet.deployment.optimizer import optimize
    from strfnet.inference.stream import Stream
    from strfnet.inflation.inflation import deflate, inflate
    from strfnet.inflation.splicing import splice
    from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI, AppearancePreserving
    from strfnet.layers.fam import FAM
    from strfnet.layers.ffm import FFM
    from strfnet.layers.non_local import NonLocalBlock
    from strfnet.layers.reduction import TemporalReduction
    from strfnet.layers.strf import STRF
    from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC
    from strfnet.layers.temporal_attention import TemporalAttention
    from strfnet.models.checkpoints import load, load_official, save, save_official
    from strfnet.models.registry import create_model, list_models
    from strfnet.profiler.counting import profile

__getattr__, __dir__, __all__ = lazy_names(__name__)
