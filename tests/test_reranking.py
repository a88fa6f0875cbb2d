import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strfnet.evaluation.ranking import rank
from strfnet.evaluation.reranking import rerank


def apart(a, b, distance):
    if distance == "euclidean":
        return math.dist(a, b)
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)


def by_hand(query, gallery, *, k1, k2, weight, distance):
    """From the definition: sets, and sums over all items, in Python's own numbers."""
    items = query.tolist() + gallery.tolist()
    n = len(items)
    d = [[0.0 if a == b else apart(items[a], items[b], distance) for b in range(n)] for a in range(n)]
    d = [[one / (max(row) or 1) for one in row] for row in d]
    near = [sorted(range(n), key=lambda other: (other != p, d[p][other], other)) for p in range(n)]

    def reciprocal(p, k):
        return {g for g in near[p][: k + 1] if p in near[g][: k + 1]}

    weights = []
    for p in range(n):
        mine = reciprocal(p, k1)
        star = set(mine)
        for q in mine:
            more = reciprocal(q, round(k1 / 2))
            if len(more & mine) >= 2 / 3 * len(more) - 1e-9:
                star |= more
        row = [math.exp(-d[p][g]) if g in star else 0.0 for g in range(n)]
        weights.append([one / sum(row) for one in row])
    means = [[sum(weights[g][j] for g in near[p][:k2]) / len(near[p][:k2]) for j in range(n)] for p in range(n)]
    answer = np.zeros((len(query), len(gallery)))
    for a in range(len(query)):
        for b in range(len(gallery)):
            pairs = list(zip(means[a], means[len(query) + b], strict=True))
            jaccard = 1 - sum(map(min, pairs)) / sum(map(max, pairs))
            answer[a, b] = (1 - weight) * jaccard + weight * d[a][len(query) + b]
    return answer


@settings(max_examples=60)
@given(
    q=st.integers(1, 5),
    g=st.integers(1, 25),
    k1=st.integers(1, 8),
    k2=st.integers(1, 4),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    distance=st.sampled_from(["cosine", "euclidean"]),
    byte_budget=st.sampled_from([1000, 2**20]),
    seed=st.integers(0, 2**20),
)
def test_the_answer_agrees_with_the_definition(q, g, k1, k2, weight, distance, byte_budget, seed):
    generator = torch.Generator().manual_seed(seed)
    people = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    query, gallery = (
        people[torch.randint(4, (count,), generator=generator)]
        + 0.3 * torch.randn(count, 3, generator=generator, dtype=torch.float64)
        for count in (q, g)
    )
    arguments = {"k1": k1, "k2": min(k2, k1 + 1), "weight": weight, "distance": distance}
    kept = query.clone(), gallery.clone()
    got = rerank(query, gallery, **arguments, byte_budget=byte_budget)
    assert got.dtype == torch.float32 and got.shape == (q, g)
    np.testing.assert_allclose(got, by_hand(query, gallery, **arguments), atol=2e-6)
    assert torch.equal(query, kept[0]) and torch.equal(gallery, kept[1])


def test_equal_embeddings_have_finite_distances():
    got = rerank(torch.ones(2, 4), torch.ones(30, 4), k1=5, k2=2)
    assert got.isfinite().all() and rerank(torch.ones(1, 1), torch.ones(1, 1)).shape == (1, 1)


def test_a_weight_of_1_keeps_the_ranking():
    query, gallery = torch.randn(4, 8), torch.randn(50, 8)
    got = rerank(query, gallery, weight=1.0)
    expected = 1 - torch.nn.functional.normalize(query) @ torch.nn.functional.normalize(gallery).T
    torch.testing.assert_close(got.argsort(dim=1, stable=True), expected.argsort(dim=1, stable=True))


def test_views_that_lie_between_are_found_through_their_neighbours():
    # A person's views lie along a line; the far end is nearer to strangers than to the query.
    line = torch.tensor([[0.0, 0.3 * step] for step in range(6)])
    strangers = torch.tensor([[1.4, 0.0], [1.4, 0.1], [1.4, -0.1], [1.3, 0.0], [1.45, 0.05]])
    gallery = torch.cat([line[1:], strangers])
    who = [1] * 5 + [2] * 5
    before = rank(torch.cdist(line[:1], gallery), [1], who).mean_average_precision
    after = rank(rerank(line[:1], gallery, k1=3, k2=2, distance="euclidean"), [1], who).mean_average_precision
    assert before < 1 and after == 1


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"k1": 0}, "got k1=0"),
        ({"k2": 0}, "k2=0"),
        ({"k1": 3, "k2": 5}, "k2 of 1 to k1"),
        ({"weight": 1.5}, "weight=1.5"),
        ({"weight": float("nan")}, "weight=nan"),
        ({"distance": "cos"}, "distance must be one of cosine, euclidean"),
        ({"byte_budget": 0}, "byte_budget must be at least 1"),
        ({"query": torch.ones(2, 5)}, "query has width 5 and gallery 4"),
        ({"query": torch.ones(0, 4)}, "got 0 queries and 3 gallery items"),
        ({"gallery": torch.full((3, 4), torch.nan)}, "gallery holds NaN or infinity in row 0"),
        ({"gallery": torch.eye(3, 4).double() * 1e200, "distance": "euclidean"}, "too large"),
    ],
)
def test_what_cannot_be_reranked_is_refused(changed, words):
    arguments = {"query": torch.ones(2, 4), "gallery": torch.ones(3, 4)}
    with pytest.raises(ValueError, match=words):
        rerank(**(arguments | changed))


@pytest.mark.parametrize(("items", "k1"), [(1100, 20), (300, 150)])  # NumPy's partition may sort a few hundred items
def test_the_order_of_a_large_gallery_changes_no_distance(items, k1):
    generator = torch.Generator().manual_seed(0)
    query, gallery = torch.randn(3, 4, generator=generator), torch.randn(items, 4, generator=generator)
    order = torch.randperm(items, generator=generator)
    torch.testing.assert_close(rerank(query, gallery[order], k1=k1), rerank(query, gallery, k1=k1)[:, order])
