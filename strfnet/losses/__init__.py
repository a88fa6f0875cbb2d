"""Losses. They depend on torch alone, for use in any training loop."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.losses.center import CenterLoss
    from strfnet.losses.objective import Objective, ReIDLoss, nvan_loss, strf_loss
    from strfnet.losses.triplet import BatchHardTriplet

__getattr__, __dir__, __all__ = lazy_names(__name__)
