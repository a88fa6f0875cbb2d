"""Training by a recipe, on one process or many, with exact resumption."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.training.distributed import gather_rows, join
    from strfnet.training.log import read_log
    from strfnet.training.loop import Diverged
    from strfnet.training.lora import adapt_inflated
    from strfnet.training.recipe import Recipe
    from strfnet.training.run_directory import Outcome, read_run
    from strfnet.training.sizing import sized
    from strfnet.training.trainer import identity_labels, train

__getattr__, __dir__, __all__ = lazy_names(__name__)
