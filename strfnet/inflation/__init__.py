"""2-D networks turned into networks on clips, and units spliced into them."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.inflation.inflated import Inflated
    from strfnet.inflation.inflation import deflate, inflate
    from strfnet.inflation.splicing import splice, unsplice

__getattr__, __dir__, __all__ = lazy_names(__name__)
