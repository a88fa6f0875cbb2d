"""Ranked lists agree with the figures of the evaluation, and mark what is right, wrong and not counted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import normal

from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet
from strfnet.evaluation.distances import StreamedDistances
from strfnet.evaluation.evaluation import evaluate
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.visualization import ranked_items
from strfnet.visualization.ranked_items import ranked_list, ranked_lists

FRAME = (np.zeros((2, 2, 3), np.uint8),)


def data_of(people):
    test = tuple(
        Tracklet(FRAME, identity, camera, {"clothes": "red" if row % 3 else "blue"})
        for row, (identity, camera) in enumerate(people)
    )
    asked = tuple(row for row, (identity, _) in enumerate(people) if identity not in (JUNK, DISTRACTOR))
    return DataSet("some", (), test, asked, tuple(range(len(test))))


@pytest.mark.parametrize("protocol", ["ap3d", "torchreid", "cfaan", "ccvid_same_clothes", "ccvid_clothes_changing"])
@pytest.mark.parametrize("seed", range(4))
def test_marks_give_the_average_precision_of_the_evaluation(protocol, seed):
    people = [(1 + n % 4, "ab"[n // 4 % 2]) for n in range(16)] + [(JUNK, "a"), (DISTRACTOR, "b"), (2, None)]
    data, vectors = data_of(people), normal(19, 5, seed=seed)
    vectors[3], vectors[5] = vectors[4], vectors[4]  # ties
    data = replace(data, query=data.query[:6])
    rule = PROTOCOLS[protocol]
    precisions = evaluate(vectors, data, rule).rankings[0].average_precisions
    for query, expected in zip(data.query, precisions, strict=True):
        marks = [
            item.mark for item in ranked_list(vectors, data, rule, query, count=99) if item.mark != "not counted"
        ]
        ranks = [rank for rank, mark in enumerate(marks, start=1) if mark == "right"]
        found = np.mean([hit / rank for hit, rank in enumerate(ranks, start=1)]) if ranks else np.nan
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_the_list_is_in_order_and_says_what_each_item_is():
    data = data_of([("anna", 1), ("anna", 1), ("anna", 2), ("bert", 2), (JUNK, 2), ("anna", None)])
    vectors = torch.tensor([[0.0, 0], [1, 0], [0, 2], [3, 0], [0, 4], [5, 0]])
    found = ranked_list(vectors, data, replace(PROTOCOLS["ap3d"], distance="euclidean"), 0, count=9)
    assert [item.row for item in found] == [1, 2, 3, 4, 5]
    assert [item.mark for item in found] == ["not counted", "right", "wrong", "not counted", "right"]
    np.testing.assert_allclose([item.distance for item in found], [1, 2, 3, 4, 5], atol=1e-3)
    assert (
        ranked_list(vectors, data, PROTOCOLS["ap3d"], 2, count=2)
        == ranked_list(vectors, data, PROTOCOLS["ap3d"], 2, count=9)[:2]
    )


@pytest.mark.parametrize("protocol", ["ap3d", "torchreid", "cfaan"])
@pytest.mark.parametrize("count", [1, 4, 99])
def test_lists_of_several_queries_are_those_of_each_in_blocks_of_any_size(protocol, count, monkeypatch):
    data = data_of([(n % 5, "ab"[n // 5 % 2]) for n in range(24)] + [(JUNK, "a")])
    data = replace(data, query=data.query[:12])
    vectors, rule = normal(25, 3), PROTOCOLS[protocol]
    vectors[6], vectors[12] = vectors[4], vectors[4]  # ties
    queries = data.query[::-2]
    found = ranked_lists(vectors, data, rule, queries, count=count)
    assert list(found) == list(queries)
    monkeypatch.setattr(ranked_items, "_BYTES", 1)
    assert ranked_lists(vectors, data, rule, queries, count=count) == found
    assert {query: ranked_list(vectors, data, rule, query, count=count) for query in queries} == found
    whole = ranked_lists(vectors, data, rule, queries, count=99)
    for query, items in whole.items():
        assert found[query] == items[:count] and query not in {item.row for item in items}
        keys = [(item.distance, item.mark == "right") for item in items]
        assert keys == sorted(keys)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_of_some_queries_are_those_of_the_tiles(distance):
    streamed = StreamedDistances(normal(9, 6), normal(30, 6, seed=1), distance=distance, byte_budget=2**10)
    whole = np.empty(streamed.shape, np.float32)
    for rows, columns, tile in streamed.tiles():
        whole[rows, columns] = tile
    assert streamed.side < 9
    np.testing.assert_array_equal(streamed.of_queries([7, 0, 3]), whole[[7, 0, 3]])


def test_of_equal_distances_the_wrong_ones_come_first():
    data = data_of([("anna", 1), ("anna", 2), ("bert", 2)])
    marks = [item.mark for item in ranked_list(torch.ones(3, 2), data, PROTOCOLS["ap3d"], 0, count=2)]
    assert marks == ["wrong", "right"]


def test_what_is_no_query_is_refused():
    data = replace(data_of([("anna", 1), ("anna", 2)]), query=(0,))
    for query, count in ((1, 1), (0, 0)):
        with pytest.raises(ValueError, match=f"got query {query} and count {count}, wanted one of its queries"):
            ranked_list(torch.ones(2, 2), data, PROTOCOLS["ap3d"], query, count=count)
