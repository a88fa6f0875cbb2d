import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strfnet.evaluation.distances import StreamedDistances, cosine_distances, euclidean_distances

BOTH = pytest.mark.parametrize("distances", [cosine_distances, euclidean_distances])


def cosine_by_hand(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def euclidean_by_hand(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


@settings(deadline=None)
@given(n=st.integers(0, 4), m=st.integers(1, 30), d=st.integers(1, 5), seed=st.integers(0, 99))
def test_distances_agree_with_loops_over_pairs(n, m, d, seed):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.randn(count, d, generator=generator) for count in (n, m))
    for distances, by_hand in ((cosine_distances, cosine_by_hand), (euclidean_distances, euclidean_by_hand)):
        expected = [[by_hand(a, b) for b in gallery.tolist()] for a in query.tolist()]
        got = distances(query, gallery)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, torch.tensor(expected).view(n, m), rtol=1e-5, atol=1e-6)


def test_a_small_spread_under_a_large_offset_is_kept():
    spread = torch.randn(40, 64) / 16  # exact when the offset is taken off again
    spread = (spread * 1024).round() / 1024
    expected = euclidean_distances(spread, spread)
    torch.testing.assert_close(euclidean_distances(spread + 4096, spread + 4096), expected)


def test_nearly_parallel_vectors_keep_their_order():
    angles = torch.tensor([1e-4, 2e-4, 3e-4], dtype=torch.float64)
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1).float()
    got = cosine_distances(torch.tensor([[1.0, 0.0]]), gallery)
    torch.testing.assert_close(got, (angles**2 / 2)[None].float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("length", [1e-30, 1e-8, 1.0, 1e30])
def test_cosine_does_not_see_lengths(length):
    query, gallery = torch.randn(3, 8), torch.randn(5, 8)
    torch.testing.assert_close(cosine_distances(query * length, gallery), cosine_distances(query, gallery))


def test_cosine_knows_same_right_and_opposite_directions():
    got = cosine_distances(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    torch.testing.assert_close(got, torch.tensor([[0.0, 1.0, 2.0]]))


def test_cosine_distances_do_not_leave_their_range_by_rounding():
    wide = 1 + torch.rand(20, 4096, generator=torch.Generator().manual_seed(0))
    assert cosine_distances(wide, wide).min() >= 0 and cosine_distances(wide, -wide).max() <= 2


def test_a_vector_of_zeros_is_one_away_from_everything_with_a_finite_gradient():
    query = torch.zeros(1, 4, requires_grad=True)
    got = cosine_distances(query, torch.cat([torch.randn(3, 4), torch.zeros(1, 4)]))
    torch.testing.assert_close(got, torch.ones(1, 4))
    got.sum().backward()
    assert query.grad.isfinite().all()


@BOTH
def test_half_precision_is_computed_in_float32(distances):
    query, gallery = 300 * torch.randn(3, 64), 300 * torch.randn(4, 64)
    got = distances(query.half(), gallery.half())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, distances(query.half().float(), gallery.half().float()))
    assert distances(query.double(), gallery).dtype == torch.float64


@BOTH
def test_autocast_does_not_lower_the_precision(distances):
    query, gallery = torch.randn(3, 64), torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = distances(query, gallery)
    torch.testing.assert_close(got, distances(query, gallery))


@BOTH
def test_gradients_are_right_and_finite_for_duplicates(distances):
    query, gallery = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(distances, (query.requires_grad_(), gallery.requires_grad_()))
    same = torch.ones(3, 4, requires_grad=True)
    distances(same, same).sum().backward()
    assert same.grad.isfinite().all()


@BOTH
def test_nan_stays_in_its_row_and_column(distances):
    query, gallery = torch.randn(3, 4), torch.randn(30, 4)
    expected = distances(query, gallery)
    query[1, 2] = gallery[5, 0] = torch.nan
    got = distances(query, gallery)
    keep = torch.ones(3, 30, dtype=torch.bool)
    keep[1], keep[:, 5] = False, False
    assert got[~keep].isnan().all()
    torch.testing.assert_close(got[keep], expected[keep])


@BOTH
@pytest.mark.parametrize(
    ("query", "gallery", "message"),
    [
        (torch.ones(3), torch.ones(2, 3), r"query is \(3,\)"),
        (torch.ones(2, 3), torch.ones(1, 2, 3), r"gallery is \(1, 2, 3\)"),
        (torch.ones(2, 3), torch.ones(2, 3).long(), r"gallery is .* of torch.int64"),
        (torch.ones(2, 0), torch.ones(2, 0), r"query is \(2, 0\)"),
        (torch.ones(2, 3), torch.ones(2, 4), "query has width 3 and gallery 4"),
        (torch.ones(2, 3), torch.ones(2, 3, device="meta"), "gallery on meta"),
    ],
)
def test_what_cannot_be_compared_is_refused(distances, query, gallery, message):
    with pytest.raises(ValueError, match=message):
        distances(query, gallery)


@pytest.mark.parametrize(("width", "budget"), [(1, 1000), (64, 10**5), (2048, 2**25)])
def test_a_tile_with_its_two_sides_fills_the_byte_budget(width, budget):
    side = StreamedDistances(torch.ones(1, width), torch.ones(1, width), byte_budget=budget).side
    assert 24 * side**2 + 2 * 8 * width * side <= budget < 24 * (side + 1) ** 2 + 2 * 8 * width * (side + 1)
