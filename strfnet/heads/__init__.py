"""Heads: from feature maps to an embedding and logits."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.heads.head import Head, ReIDOutput

__getattr__, __dir__, __all__ = lazy_names(__name__)
