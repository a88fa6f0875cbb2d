"""Queries that are missing, and rows that are no test tracklets, are refused by name."""

import numpy as np
import pytest
import torch

from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.evaluation import PROTOCOLS, evaluate, rank, rank_embeddings, rerank
from strfnet.visualization import RankedItem, draw_ranked_lists, ranked_list, report_lists

FOLDER = PROTOCOLS["folder"]
TEST = tuple(Tracklet((np.zeros((8, 4, 3), np.uint8),), one, camera) for one in "ab" for camera in "12")
DATA = DataSet("d", (), TEST, (0, 2), (0, 1, 2, 3))


@pytest.mark.parametrize("draw", [draw_ranked_lists, report_lists])
@pytest.mark.parametrize("row", [-1, 4, 9])
def test_a_row_that_is_no_tracklet_is_named(draw, row):
    for lists in ({row: []}, {0: [RankedItem(row, 0.5, "right")]}):
        with pytest.raises(ValueError, match=f"row is {row}, wanted one of 4 test tracklets of d, from 0"):
            draw(DATA, lists)


@pytest.mark.parametrize("count", [0, 2, 5])
def test_embeddings_of_other_tracklets_are_refused(count):
    with pytest.raises(ValueError, match=f"got {count} embeddings, wanted one for each of 4 test tracklets"):
        ranked_list(torch.zeros(count, 3), DATA, FOLDER, 0, count=2)


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (3, 0), (0, 0)])
def test_no_queries_and_no_gallery_are_named(queries, gallery):
    one, other = torch.zeros(queries, 4), torch.zeros(gallery, 4)
    with pytest.raises(ValueError, match="at least 1 of both"):
        rank(one @ other.T, range(queries), range(gallery))
    with pytest.raises(ValueError, match="at least 1 of both"):
        rank_embeddings(one, other, range(queries), range(gallery))
    with pytest.raises(ValueError, match="at least 1 of both"):
        rerank(one, other)


def test_a_data_set_without_queries_is_named():
    for data, reason in (
        (DataSet("d", (), TEST, (), (0, 1)), "query"),
        (DataSet("d", (), TEST, (0,), ()), "gallery"),
    ):
        with pytest.raises(ValueError, match=f"protocol folder leaves no {reason} of d"):
            evaluate(torch.randn(4, 3), data, FOLDER)
        with pytest.raises(ValueError, match=f"protocol folder leaves no {reason} of d"):
            ranked_list(torch.randn(4, 3), data, FOLDER, 1, count=3)
