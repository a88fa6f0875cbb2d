"""Layers on clips, and the heads that pool their maps; they need torch and einops alone."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI, AppearancePreserving
    from strfnet.layers.attention import Attending, attention_form, choose_attention, set_attention
    from strfnet.layers.fam import FAM
    from strfnet.layers.ffm import FFM
    from strfnet.layers.head import Head, ReIDOutput
    from strfnet.layers.non_local import NonLocalBlock
    from strfnet.layers.reduction import TemporalReduction
    from strfnet.layers.strf import STRF
    from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC, TemporalConv

__getattr__, __dir__, __all__ = lazy_names(__name__)
