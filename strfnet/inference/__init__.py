"""Embeddings of many tracklets, and of live tracks."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.inference.embedder import Embedder
    from strfnet.inference.embedding import embed
    from strfnet.inference.embedding_file import Embeddings, load_embeddings, save_embeddings
    from strfnet.inference.index import Gallery, add_to_index, open_gallery
    from strfnet.inference.pool import StreamPool
    from strfnet.inference.search import Hit, check_query, search_gallery, searched_rows
    from strfnet.inference.search_settings import SearchSettings
    from strfnet.inference.shards import Shards
    from strfnet.inference.stream import Stream

__getattr__, __dir__, __all__ = lazy_names(__name__)
