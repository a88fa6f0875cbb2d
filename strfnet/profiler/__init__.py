"""What a network costs: multiply-adds, elementwise operations and parameters, module by module."""

from strfnet.profiler.counting import profile
from strfnet.profiler.report import Profile

__all__ = ["Profile", "profile"]
