"""Parameters, operations and activation memory of a network, from shapes alone."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.profiler.counting import profile
    from strfnet.profiler.memory import ActivationMemory, activation_memory
    from strfnet.profiler.report import Profile

__getattr__, __dir__, __all__ = lazy_names(__name__)
