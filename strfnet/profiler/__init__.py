"""Parameters and operations of a network, counted on the meta device."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.profiler.counting import profile
    from strfnet.profiler.report import Profile

__getattr__, __dir__, __all__ = lazy_names(__name__)
