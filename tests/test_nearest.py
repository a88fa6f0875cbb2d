"""The nearest items equal those of a sorted matrix of distances, whatever the blocks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import normal

from strfnet.evaluation import StreamedDistances, nearest, nearest_items


def sorted_matrix(query, gallery, count, distance="cosine", allowed=None):
    """Distances and rows in ascending order, ties by row."""
    matrix = np.empty((len(query), len(gallery)), np.float64)
    for i, one in enumerate(query.double().numpy()):
        for j, other in enumerate(gallery.double().numpy()):
            if distance == "euclidean":
                matrix[i, j] = np.float32(np.sqrt(((one - other) ** 2).sum()))
            else:
                lengths = np.linalg.norm(one) * np.linalg.norm(other)
                cosine = one @ other / lengths if lengths else 0.0
                matrix[i, j] = np.float32(np.round(np.clip(1 - cosine, 0, 2) * 2**30) / 2**30)
    if allowed is not None:
        matrix[:, ~allowed.numpy()] = np.inf
    rows = np.argsort(matrix, axis=1, kind="stable")[:, : min(count, np.isfinite(matrix[0]).sum())]
    return np.take_along_axis(matrix, rows, axis=1), rows


@given(
    seed=st.integers(0, 99),
    distance=st.sampled_from(["cosine", "euclidean"]),
    count=st.integers(1, 40),
    budget=st.sampled_from([1, 1000, 2**26]),
    masked=st.booleans(),
    queries=st.integers(1, 3),
    cached=st.sampled_from([1, 200, 2**22]),
)
def test_the_nearest_items_are_those_of_the_sorted_matrix(seed, distance, count, budget, masked, queries, cached):
    query, gallery = normal(queries, 5, seed=seed), normal(30, 5, seed=seed + 100)
    gallery[7:11] = gallery[20]  # ties
    gallery[12] = query[-1]
    allowed = torch.arange(30) % 3 > 0 if masked else None
    settings = {"distance": distance, "allowed": allowed}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_CACHED", cached)
        distances, rows = nearest_items(query, gallery, count, byte_budget=budget, **settings)
    expected, wanted = sorted_matrix(query, gallery, count, **settings)
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_allclose(distances, expected, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 20_000, 2**26])
def test_items_closer_than_float32_can_tell_are_in_exact_order(budget):
    # Nearly parallel vectors: products in float32 are wrong in their order.
    gallery = 1 + 1e-4 * normal(500, 64, seed=1)
    query = 1 + 1e-4 * normal(2, 64, seed=2)
    distances, rows = nearest_items(query, gallery, 20, byte_budget=budget)
    expected, wanted = sorted_matrix(query, gallery, 20)
    assert (np.argsort(-(query @ gallery.T).numpy(), axis=1)[:, :20] != wanted).any()
    np.testing.assert_array_equal(rows, wanted)
    np.testing.assert_array_equal(distances, expected)


def test_equal_items_come_in_the_order_of_rows_and_lengths_do_not_matter():
    gallery = torch.ones(1000, 8) * torch.logspace(-20, 20, 1000)[:, None]
    distances, rows = nearest_items(torch.ones(1, 8), gallery, 5, byte_budget=5000)
    assert rows.tolist() == [[0, 1, 2, 3, 4]] and (distances == 0).all()


def test_distances_equal_those_that_rankings_use():
    query, gallery = normal(4, 32, seed=3), normal(50, 32, seed=4)
    gallery[9] = 0
    ((_, _, tile),) = StreamedDistances(query, gallery).tiles()
    distances, rows = nearest_items(query, gallery, 50)
    np.testing.assert_array_equal(distances, np.take_along_axis(tile, rows, axis=1))


def test_unit_rows_give_the_same():
    gallery = torch.nn.functional.normalize(normal(50, 32, seed=5))
    query = normal(4, 32, seed=6)
    for one, other in zip(nearest_items(query, gallery, 9, unit=True), nearest_items(query, gallery, 9), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.ones(2, 3)}, r"query is \(2, 3\) and gallery \(4, 2\), wanted \(n, d\) and \(m, d\)"),
        ({"count": 0}, "got count=0 and byte_budget=67108864, wanted at least 1"),
        ({"distance": "manhattan"}, "distance must be one of cosine, euclidean, got 'manhattan'"),
        ({"allowed": torch.ones(3, dtype=torch.bool)}, r"allowed is \(3,\) of torch.bool, wanted bool \(4,\)"),
        ({"query": torch.tensor([[1.0, 1], [1, float("nan")]])}, "query holds NaN or infinity in row 1"),
        ({"gallery": torch.tensor([[1.0, 1], [1, 1], [float("inf"), 1], [1, 1]])}, "gallery holds NaN.* in row 2"),
        ({"gallery": torch.tensor([[1.0, 1], [1e30, 1]]), "distance": "euclidean"}, "too large to compare in row 1"),
    ],
)
@pytest.mark.parametrize("budget", [2**26])
def test_bad_input_is_refused(change, message, budget):
    call = {"query": torch.ones(2, 2), "gallery": torch.ones(4, 2), "count": 2, "byte_budget": budget} | change
    with pytest.raises(ValueError, match=message):
        nearest_items(call.pop("query"), call.pop("gallery"), call.pop("count"), **call)


@pytest.mark.filterwarnings("error")
def test_a_gallery_that_one_query_cannot_be_compared_with_is_refused():
    for wrong in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"gallery holds NaN.* in row 1"):
            nearest_items(torch.ones(1, 2), torch.tensor([[1.0, 1], [wrong, -wrong], [1, 1]]), 1, unit=True)


def test_no_query_and_nothing_allowed_give_empty_results():
    assert nearest_items(torch.ones(0, 2), torch.ones(4, 2), 3)[1].shape == (0, 3)
    assert nearest_items(torch.ones(2, 2), torch.ones(4, 2), 3, allowed=torch.zeros(4, dtype=torch.bool))[
        1
    ].shape == (2, 0)
