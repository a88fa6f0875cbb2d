"""Rankings, their metrics, and evaluation protocols."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.evaluation.distances import StreamedDistances, cosine_distances, euclidean_distances, unit_length
    from strfnet.evaluation.evaluation import (
        Evaluation,
        evaluate,
        evaluate_protocols,
        gallery_of,
        mean_over_splits,
        queries_of,
        table,
    )
    from strfnet.evaluation.matching import check_matches
    from strfnet.evaluation.nearest import nearest_items
    from strfnet.evaluation.protocols import PROTOCOLS, Protocol, protocols_of
    from strfnet.evaluation.ranking import Ranking, rank, rank_embeddings
    from strfnet.evaluation.reranking import rerank
    from strfnet.evaluation.verification import OperatingPoint, operating_point, operating_points_by_cameras

__getattr__, __dir__, __all__ = lazy_names(__name__)
