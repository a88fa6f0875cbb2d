"""Synthetic walkers: data sets that are a pure function of a seed."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.data.synthetic.rendering import render
    from strfnet.data.synthetic.walker_files import write_mars, write_walkers
    from strfnet.data.synthetic.walker_set import draw_gait_set, draw_set
    from strfnet.data.synthetic.walkers import (
        Camera,
        Coarse,
        Dynamic,
        Fine,
        Nuisances,
        Static,
        Walker,
        draw_camera,
        draw_walker,
    )

__getattr__, __dir__, __all__ = lazy_names(__name__)
