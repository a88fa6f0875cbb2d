import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import MeanReducer
from safetensors.torch import load_file

from strfnet.losses.triplet import BatchHardTriplet

GOLDEN = load_file(Path(__file__).parents[1] / "golden" / "triplet.safetensors")
FORMS = {
    "ste_soft_euclid": ("euclidean", None),
    "ste_soft_unit_euclid": ("euclidean", None),
    "ste_margin_euclid": ("euclidean", 0.3),
    "ap3d_margin_cosine": ("cosine", 0.3),
    "ap3d_margin_euclid": ("euclidean", 0.3),
}
LOSSES = [("euclidean", None), ("euclidean", 0.3), ("cosine", None), ("cosine", 0.3)]


def close(ours, theirs):
    assert (ours - theirs).abs().max() <= 1e-5 + 2e-5 * theirs.abs().max()


@pytest.mark.parametrize("batch", ["pk", "single"])
@pytest.mark.parametrize("form", FORMS)
def test_published_losses_and_gradients_come_out(batch, form):
    features = GOLDEN[f"{batch}.features"].double().requires_grad_()
    given_to_it = F.normalize(features) if "unit" in form else features
    loss = BatchHardTriplet(*FORMS[form])
    value = loss(given_to_it, GOLDEN[f"{batch}.labels"])
    value.backward()
    close(value, GOLDEN[f"{batch}.{form}.mean"])
    close(features.grad, GOLDEN[f"{batch}.{form}.grad"].double())
    if f"{batch}.{form}.per_anchor" in GOLDEN:
        close(loss.per_anchor(given_to_it, GOLDEN[f"{batch}.labels"]), GOLDEN[f"{batch}.{form}.per_anchor"].double())


def by_hand(features, labels, distance, margin):
    """Pair by pair, in Python's own numbers."""
    rows, losses = features.tolist(), []
    for a, anchor in enumerate(rows):
        far, near = 0.0 if labels.tolist().count(labels[a]) == 1 else -math.inf, math.inf
        for o, other in enumerate(rows):
            if distance == "euclidean":
                apart = math.dist(anchor, other)
            else:
                dot = sum(x * y for x, y in zip(anchor, other, strict=True))
                apart = 1 - dot / math.hypot(*anchor) / math.hypot(*other)
            if labels[o] != labels[a]:
                near = min(near, apart)
            elif o != a:
                far = max(far, apart)
        gap = far - near
        if near == math.inf:
            losses.append(0.0)
        else:
            losses.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    return sum(losses) / len(losses)


@given(n=st.integers(1, 9), d=st.integers(1, 5), ids=st.integers(1, 4), seed=st.integers(0, 2**20))
def test_the_loss_agrees_with_loops(n, d, ids, seed):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(ids, (n,), generator=generator)
    for form in LOSSES:
        value = BatchHardTriplet(*form)(features, labels).item()
        assert abs(value - by_hand(features, labels, *form)) < 1e-5, form


@pytest.mark.parametrize("form", LOSSES)
def test_gradients_are_those_of_differences(form):
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda x: BatchHardTriplet(*form)(x, labels), features)


@pytest.mark.parametrize("form", LOSSES)
@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [5], [], [0, 0, 1]])
def test_odd_batches_have_finite_losses_and_gradients(form, labels):
    for features in (torch.randn(len(labels), 3), torch.zeros(len(labels), 3), torch.ones(len(labels), 3) * 1e3):
        features.requires_grad_()
        loss = BatchHardTriplet(*form)(features, torch.tensor(labels, dtype=torch.long))
        loss.backward()
        assert loss.isfinite() and features.grad.isfinite().all()
        if len(set(labels)) < 2:
            assert loss == 0 and not features.grad.any()


@pytest.mark.parametrize("form", LOSSES)
def test_large_and_half_precision_features_do_not_overflow(form):
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.tensor([[3e2], [-3e2], [2e2], [1.0]])
    whole = BatchHardTriplet(*form)(features, labels)
    assert whole.isfinite()
    torch.testing.assert_close(BatchHardTriplet(*form)(features.half(), labels), whole)


def test_a_small_spread_under_a_large_offset_is_seen():
    features = torch.tensor([[1e3, 0.0], [1e3, 1e-2], [1e3, 3e-2], [1e3, 4e-2]])
    loss = BatchHardTriplet("euclidean", 0.0).per_anchor(features + 0, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(loss, torch.zeros(4))
    loss = BatchHardTriplet("euclidean", 0.05).per_anchor(features, torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(loss, torch.tensor([0.03, 0.04, 0.04, 0.03]), atol=1e-4, rtol=0)


def test_float64_features_far_from_the_origin_are_mined_by_their_differences():
    features = torch.tensor([[1e6, 1e6 + step] for step in (0, 1e-3, 3e-3, 4e-3, 7e-3)], dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 1, 1])
    loss = BatchHardTriplet("euclidean", 0.01)(features, labels)
    assert abs(loss.item() - by_hand(features, labels, "euclidean", 0.01)) < 1e-8


@pytest.mark.parametrize("angles", [[0, 1e-4, 1.5e-4], [0, 1.5e-4, 1e-4]])
def test_the_larger_of_two_tiny_angles_is_mined(angles):
    features = torch.tensor([[1, angle] for angle in angles] + [[0.0, 1], [-1, 0]]).requires_grad_()
    BatchHardTriplet("cosine", 2.0).per_anchor(features, torch.tensor([0, 0, 0, 1, 1]))[0].backward()
    moved = features.grad.any(dim=1).nonzero().flatten().tolist()
    assert moved == [0, angles.index(1.5e-4), 3]


@pytest.mark.parametrize(
    ("features", "labels", "words"),
    [
        (torch.zeros(4), torch.zeros(4).long(), r"features must be \(n, d\) of floats, got torch.float32 \(4,\)$"),
        (torch.zeros(4, 2).long(), torch.zeros(4).long(), "features must be .* got torch.int64"),
        (torch.zeros(4, 2), torch.zeros(4, 1).long(), r"labels must be \(4,\) of whole numbers.*\(4, 1\)"),
        (torch.zeros(4, 2), torch.zeros(3).long(), r"labels must be \(4,\)"),
        (torch.zeros(4, 2), torch.zeros(4), "labels must be .* got torch.float32"),
    ],
)
def test_what_is_no_batch_is_refused(features, labels, words):
    with pytest.raises(ValueError, match=words):
        BatchHardTriplet()(features, labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"distance": "cos"}, "distance must be one of euclidean, cosine, got 'cos'"),
        ({"margin": -1}, "margin must be at least 0"),
    ],
)
def test_impossible_losses_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        BatchHardTriplet(**arguments)


@given(ids=st.integers(2, 5), tracklets=st.integers(2, 4), d=st.integers(2, 9), seed=st.integers(0, 2**20))
def test_pytorch_metric_learning_says_the_same(ids, tracklets, d, seed):
    features = torch.randn(ids * tracklets, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = torch.arange(ids).repeat(tracklets)
    for distance, margin in LOSSES:
        measure = CosineSimilarity() if distance == "cosine" else LpDistance(normalize_embeddings=False)
        theirs = TripletMarginLoss(
            margin=margin or 0.0, smooth_loss=margin is None, distance=measure, reducer=MeanReducer()
        )
        one, other = features.clone().requires_grad_(), features.clone().requires_grad_()
        ours = BatchHardTriplet(distance, margin)(one, labels)
        expected = theirs(other, labels, BatchHardMiner(distance=measure)(other, labels))
        ours.backward()
        expected.backward()
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("form", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_not_changed_and_batches_of_any_size_are_mined_alike(form, dtype):
    features = torch.randn(70, 5, generator=torch.Generator().manual_seed(0)).to(dtype)  # more than a block of rows
    labels = torch.arange(70) % 9
    kept = features.clone()
    value = BatchHardTriplet(*form)(features, labels).item()
    assert torch.equal(features, kept)
    assert abs(value - by_hand(features, labels, *form)) < 1e-5


@pytest.mark.parametrize("form", LOSSES)
def test_a_far_outlier_does_not_hide_who_is_nearest(form):
    near = torch.tensor([[1.0, 0.0], [1.0, 1e-3], [1.0, 4e-3], [1.0, 9e-3], [1e5, 1e5]])
    labels = torch.tensor([0, 0, 1, 1, 2])
    value = BatchHardTriplet(*form)(near, labels).item()
    assert abs(value - by_hand(near.double(), labels, *form)) < 1e-5


def test_the_loss_is_that_of_strf_by_default():
    features, labels = torch.randn(8, 4), torch.arange(8) % 4
    torch.testing.assert_close(
        BatchHardTriplet()(features, labels), BatchHardTriplet("cosine", 0.3)(features, labels)
    )
