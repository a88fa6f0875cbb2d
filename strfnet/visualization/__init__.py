"""Figures of attention, rankings and training, and the HTML report."""

from typing import TYPE_CHECKING

from strfnet.system.lazy import lazy_names

if TYPE_CHECKING:
    from strfnet.visualization.attention import attention_of, masks_of
    from strfnet.visualization.curves import draw_cmc, draw_training
    from strfnet.visualization.figures import draw_attention, draw_masks, draw_match, draw_ranked_lists
    from strfnet.visualization.matching import MatchedRegions, match_regions
    from strfnet.visualization.page import png
    from strfnet.visualization.ranked_items import RankedItem, ranked_list, ranked_lists
    from strfnet.visualization.report import ReportFigure, Section, report_page
    from strfnet.visualization.search_results import draw_search
    from strfnet.visualization.thumbnails import ReportItem, ReportTracklet, report_lists

__getattr__, __dir__, __all__ = lazy_names(__name__)
