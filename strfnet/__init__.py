"""Layers, networks and honest cost tables for video person re-identification.

The names below are loaded when they are first asked for, so that importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from strfnet.checkpoints import load, load_official, save, save_official
    from strfnet.deployment import optimize
    from strfnet.inflation import deflate, inflate
    from strfnet.layers.appearance import AP3DA, AP3DB, AP3DC, AP3DI, AppearancePreserving
    from strfnet.layers.attention_mask import FAM
    from strfnet.layers.factorization import FFM
    from strfnet.layers.non_local import NonLocalBlock
    from strfnet.layers.reduction import TemporalReduction
    from strfnet.layers.strf import STRF
    from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC
    from strfnet.models import create_model, list_models
    from strfnet.profiler import profile
    from strfnet.splicing import splice
    from strfnet.streaming import Stream

__version__ = "0.1.0"

# Each name, and the module that holds it.
_HOME = {
    "AP3DA": "layers.appearance",
    "AP3DB": "layers.appearance",
    "AP3DC": "layers.appearance",
    "AP3DI": "layers.appearance",
    "AppearancePreserving": "layers.appearance",
    "C2D": "layers.temporal",
    "FAM": "layers.attention_mask",
    "FFM": "layers.factorization",
    "I3D": "layers.temporal",
    "NonLocalBlock": "layers.non_local",
    "P3DA": "layers.temporal",
    "P3DB": "layers.temporal",
    "P3DC": "layers.temporal",
    "STRF": "layers.strf",
    "Stream": "streaming",
    "TemporalReduction": "layers.reduction",
    "create_model": "models",
    "deflate": "inflation",
    "inflate": "inflation",
    "list_models": "models",
    "load": "checkpoints",
    "load_official": "checkpoints",
    "optimize": "deployment",
    "profile": "profiler",
    "save": "checkpoints",
    "save_official": "checkpoints",
    "splice": "splicing",
}

__all__ = [
    "AP3DA",
    "AP3DB",
    "AP3DC",
    "AP3DI",
    "C2D",
    "FAM",
    "FFM",
    "I3D",
    "P3DA",
    "P3DB",
    "P3DC",
    "STRF",
    "AppearancePreserving",
    "NonLocalBlock",
    "Stream",
    "TemporalReduction",
    "create_model",
    "deflate",
    "inflate",
    "list_models",
    "load",
    "load_official",
    "optimize",
    "profile",
    "save",
    "save_official",
    "splice",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'strfnet' has no attribute {name!r}")
    value = getattr(import_module(f"strfnet.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
