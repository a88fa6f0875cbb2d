"""Operating points against scikit-learn and plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from strategies import normal

from strfnet.evaluation import cosine_distances, euclidean_distances, operating_point, operating_points_by_cameras
from strfnet.evaluation.verification import OperatingPoint


def people(seed, queries=12, items=40, identities=5, levels=None):
    """Embeddings around one centre a person, with cameras; on a coarse grid for ties."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(identities, 6))
    who = [rng.integers(identities, size=count).tolist() for count in (queries, items)]
    cameras = [rng.integers(3, size=count).tolist() for count in (queries, items)]
    vectors = [centres[of] + rng.normal(size=(len(of), 6)) for of in who]
    if levels:
        vectors = [np.round(v * levels) / levels + 1e-3 for v in vectors]
    return *(torch.tensor(v, dtype=torch.float32) for v in vectors), *who, *cameras


def pairs(query, gallery, q, g, qc, gc, distance="cosine", self_match=None):
    """Labels and distances of all pairs that count, by plain loops; distances as the library rounds them."""
    matrix = (cosine_distances if distance == "cosine" else euclidean_distances)(query.double(), gallery.double())
    found = []
    for row in range(len(q)):
        for column in range(len(g)):
            same = q[row] == g[column]
            removed = same and (qc[row] == gc[column] or (self_match and self_match[row] == column))
            if not removed and q[row] != -1 and g[column] != -1:
                found.append((same, float(matrix[row, column])))
    labels, distances = zip(*found, strict=True)
    distances = np.array(distances)
    if distance == "cosine":
        distances = np.round(distances * 2**30) / 2**30
    return np.array(labels), distances.astype(np.float32)


def point(data, **options):
    query, gallery, q, g, qc, gc = data
    return operating_point(query, gallery, q, g, query_cameras=qc, gallery_cameras=gc, **options)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6), levels=st.sampled_from([None, 1]), rate=st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.9])
)
def test_it_agrees_with_scikit_learn(seed, levels, rate):
    data = people(seed, levels=levels)
    labels, distances = pairs(*data)
    found = point(data, false_positive_rate=rate, byte_budget=4000)
    false, true, _ = roc_curve(labels, -distances, drop_intermediate=False)
    assert found.area == pytest.approx(roc_auc_score(labels, -distances), abs=1e-12)
    reached = false <= rate
    assert found.true_positive_rate == pytest.approx(true[reached].max(), abs=1e-12)
    assert found.false_positive_rate == pytest.approx(false[reached].max(), abs=1e-12)
    corners = set(zip(np.round(false, 12), np.round(true, 12), strict=True))
    assert set(zip(*np.round(found.roc, 12), strict=True)) <= corners
    assert np.interp(0.5, *found.roc) == pytest.approx(np.interp(0.5, false, true), abs=1e-12)
    assert found.equal_error_rate == pytest.approx(np.interp(0, false + true - 1, false), abs=1e-9)
    accepted = distances <= found.threshold
    assert (
        accepted[~labels].mean() == found.false_positive_rate and accepted[labels].mean() == found.true_positive_rate
    )


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_rates_thresholds_and_d_prime_in_plain_loops(distance):
    data = people(3)
    labels, distances = pairs(*data, distance)
    found = point(data, false_positive_rate=0.05, distance=distance, byte_budget=1000)  # in several tiles
    genuine, impostors = distances[labels].astype(float), distances[~labels].astype(float)
    assert (found.genuine, found.impostors) == (len(genuine), len(impostors))
    spread = math.sqrt((genuine.var() + impostors.var()) / 2)
    assert found.d_prime == pytest.approx((impostors.mean() - genuine.mean()) / spread, rel=1e-6)
    allowed = math.floor(0.05 * len(impostors))
    first_refused = sorted(impostors)[allowed]
    assert found.threshold == pytest.approx(first_refused, rel=1e-6) and found.threshold < first_refused + 1e-7
    assert found.true_positive_rate == np.mean([value < first_refused - 1e-7 for value in genuine])
    low, high = found.true_positive_interval
    assert 0 <= low < found.true_positive_rate < high <= 1
    assert f"TPR {100 * found.true_positive_rate:.2f}" in str(found)


def test_the_interval_holds_95_percent_of_the_rates_of_drawn_identities():
    angles = torch.tensor([0.1, 0.1, 0.9, 0.9, 0.9, 0.9])  # two of six queries find their person below the threshold
    gallery, who = torch.stack([angles.cos(), angles.sin()], dim=1), list(range(6))
    query = torch.tensor([[1.0, 0.0]]).expand(6, -1)
    points = [operating_point(query, gallery, who, who, false_positive_rate=0.4, seed=seed) for seed in range(9)]
    lows, highs = zip(*(found.true_positive_interval for found in points), strict=True)
    # of six draws, none hits in 8.8 % of all cases, and five or six hit in 1.8 %, which is between 1.5 and 2.5
    assert np.median(lows) == 0 and np.median(highs) == pytest.approx(4 / 6)


def test_the_equal_error_rate_is_where_both_errors_meet():
    query = torch.tensor([[1.0, 0.0]])
    angles = torch.tensor([0.1, 0.3, 0.2, 0.4])
    gallery = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = operating_point(query, gallery, [1], [1, 1, 2, 3], false_positive_rate=0.5)
    assert found.equal_error_rate == pytest.approx(0.5) and found.area == pytest.approx(0.75)
    apart = operating_point(query, gallery, [1], [1, 2, 1, 3])
    assert apart.equal_error_rate == 0 and apart.true_positive_rate == 1 and apart.false_positive_rate == 0
    same = operating_point(query, query.expand(4, -1), [1], [1, 1, 2, 3])
    assert same.equal_error_rate == 0.5 and math.isnan(same.d_prime) and same.true_positive_rate == 0
    assert same.threshold == -math.inf


def test_junk_the_query_itself_and_its_camera_are_left_out():
    query, gallery, q, g, qc, gc = people(5)
    g[:3], q[0], g[4], gc[4] = [-1] * 3, g[5], q[1], qc[1]
    selves = [5, *[None] * 11]
    labels, distances = pairs(query, gallery, q, g, qc, gc, self_match=selves)
    found = point((query, gallery, q, g, qc, gc), self_match=selves)
    assert (found.genuine, found.impostors) == (labels.sum(), (~labels).sum())
    assert found.area == pytest.approx(roc_auc_score(labels, -distances), abs=1e-12)


def test_each_pair_of_cameras_has_its_own_point():
    query, gallery, q, g, qc, gc = people(7, queries=40, items=80)
    points = operating_points_by_cameras(query, gallery, q, g, query_cameras=qc, gallery_cameras=gc)
    assert set(points) == {(a, b) for a in range(3) for b in range(3) if a != b}
    rows, columns = [n for n, c in enumerate(qc) if c == 2], [n for n, c in enumerate(gc) if c == 0]
    alone = operating_point(query[rows], gallery[columns], [q[n] for n in rows], [g[n] for n in columns])
    assert points[2, 0].threshold == alone.threshold and isinstance(alone, OperatingPoint)


def test_what_cannot_be_computed_is_named():
    query, gallery = normal(2, 4), normal(3, 4)
    with pytest.raises(ValueError, match="false_positive_rate is 1"):
        operating_point(query, gallery, [1, 2], [1, 2, 3], false_positive_rate=1)
    with pytest.raises(ValueError, match="0 genuine and 6 impostor pairs, wanted both"):
        operating_point(query, gallery, [1, 2], [3, 4, 5])
    with pytest.raises(ValueError, match="6 genuine and 0 impostor pairs"):
        operating_point(query, gallery, [1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="2 and 3 embeddings of 1 and 3 identities"):
        operating_point(query, gallery, [1], [1, 2, 3])
