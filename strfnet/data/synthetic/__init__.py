"""Synthetic walkers: data sets drawn from a seed."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.data.synthetic.walker_set import draw_set, write_mars
    from strfnet.data.synthetic.walkers import Camera, Walker, draw_camera, draw_walker, render, write_walkers

__getattr__, __dir__, __all__ = lazy_names(__name__)
