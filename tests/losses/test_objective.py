import math

import pytest
import torch
from strategies import wake

import strfnet
from strfnet.layers.head import ReIDOutput
from strfnet.losses.center import CenterLoss
from strfnet.losses.objective import ReIDLoss, nvan_loss, strf_loss
from strfnet.losses.triplet import BatchHardTriplet

LABELS = torch.tensor([0, 0, 1, 1])


def output():
    torch.manual_seed(0)
    return ReIDOutput(torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.randn(4, 2).double())


def cross_entropy(logits, labels, smoothing):
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.log(sum(map(math.exp, row)))
        target = [smoothing / len(row) + (1 - smoothing) * (k == label) for k in range(len(row))]
        losses.append(sum(share * (total - value) for share, value in zip(target, row, strict=True)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("build", "distance", "margin", "where"),
    [(strf_loss, "cosine", 0.3, "embedding"), (nvan_loss, "euclidean", None, "feature")],
)
def test_the_papers_losses_are_sums_of_their_parts(smoothing, build, distance, margin, where):
    given = output()
    answer = build(smoothing=smoothing)(given, LABELS)
    triplet = BatchHardTriplet(distance, margin)(getattr(given, where), LABELS)
    assert abs(answer.identity.item() - cross_entropy(given.logits, LABELS, smoothing)) < 1e-6
    torch.testing.assert_close(answer.triplet, triplet)
    torch.testing.assert_close(answer.total, answer.identity + triplet)


def test_the_weight_is_that_of_the_triplet_loss():
    answer = ReIDLoss(BatchHardTriplet(), mined_on="feature", weight=0.5)(output(), LABELS)
    torch.testing.assert_close(answer.total, answer.identity + 0.5 * answer.triplet)


def test_a_step_down_the_gradient_lowers_the_loss_of_a_real_network():
    torch.manual_seed(0)
    network = wake(strfnet.create_model("strf_p3dc_resnet18", num_classes=2)).train()
    loss, clips = strf_loss(), torch.randn(4, 3, 4, 64, 32)
    optimiser = torch.optim.SGD(network.head.parameters(), lr=1e-3)
    before = loss(network(clips), LABELS)
    before.total.backward()
    optimiser.step()
    assert loss(network(clips), LABELS).total < before.total


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mined_on": "neck"}, "mined_on must be .* got 'neck'"),
        ({"smoothing": 1.0}, "smoothing must be at least 0 and below 1, got 1.0"),
        ({"weight": -1.0}, "weight must be at least 0, got -1.0"),
    ],
)
def test_impossible_sums_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ReIDLoss(BatchHardTriplet(), **{"mined_on": "feature", **arguments})


def test_output_without_logits_is_refused():
    with pytest.raises(ValueError, match="no logits: the network must be in training"):
        strf_loss()(output()._replace(logits=None), LABELS)


def test_of_several_logits_and_embeddings_each_part_is_the_mean():
    one, other = output(), output()._replace(logits=torch.ones(4, 2).double(), embedding=torch.eye(4).double())
    loss = strf_loss(smoothing=0.1)
    apart = [loss(given, LABELS) for given in (one, other)]
    as_stripes = ReIDOutput((one.embedding, other.embedding), one.feature, torch.stack([one.logits, other.logits], 1))
    as_list = as_stripes._replace(logits=[one.logits, other.logits])
    for together in (as_stripes, as_list):
        for name in ("total", "identity", "triplet"):
            expected = sum(getattr(part, name) for part in apart) / 2
            torch.testing.assert_close(getattr(loss(together, LABELS), name), expected)


def test_class_weights_weigh_identities():
    given = output()
    loss = ReIDLoss(BatchHardTriplet(), mined_on="feature", class_weights=[1.0, 3.0])
    each = [cross_entropy(given.logits[row : row + 1], LABELS[row : row + 1], 0.0) for row in range(4)]
    expected = (each[0] + each[1] + 3 * each[2] + 3 * each[3]) / 8
    assert abs(loss(given, LABELS).identity.item() - expected) < 1e-6
    assert not loss.state_dict()
    with pytest.raises(ValueError, match="class_weights are of 3 identities, and the logits of 2"):
        ReIDLoss(BatchHardTriplet(), mined_on="feature", class_weights=[1, 1, 1])(given, LABELS)
    with pytest.raises(ValueError, match="class_weights must be one number of at least 0 for each identity"):
        ReIDLoss(BatchHardTriplet(), mined_on="feature", class_weights=[1, -1])


@pytest.mark.parametrize("metric", ["CircleLoss", "ArcFaceLoss", "CosFaceLoss", "SubCenterArcFaceLoss"])
def test_losses_of_pytorch_metric_learning_take_the_place_of_the_triplets(metric):
    kind = getattr(pytest.importorskip("pytorch_metric_learning.losses"), metric)
    torch.manual_seed(0)
    other = kind(**({"num_classes": 2, "embedding_size": 3} if "Face" in metric else {})).double()
    given = output()
    answer = ReIDLoss(other, mined_on="embedding", weight=2)(given, LABELS)
    torch.testing.assert_close(answer.triplet, other(given.embedding, LABELS))
    torch.testing.assert_close(answer.total, answer.identity + 2 * answer.triplet)


def test_the_centre_loss_pulls_features_to_the_centre_of_their_identity():
    loss, features = CenterLoss(3, 2).double(), torch.randn(4, 2).double()
    labels = torch.tensor([0, 2, 2, 0])
    expected = sum((x - loss.centers[k]).square().sum() / 2 for x, k in zip(features, labels, strict=True)) / 4
    torch.testing.assert_close(loss(features, labels), expected)
    loss(features, labels).backward()
    torch.testing.assert_close(loss.centers.grad[2], (2 * loss.centers[2] - features[1] - features[2]) / 4)
    with pytest.raises(ValueError, match=r"features must be \(n, 2\), got \(4, 3\)"):
        loss(torch.zeros(4, 3).double(), labels)


def test_the_losses_of_the_papers_do_not_smooth_by_default():
    assert [loss().smoothing for loss in (strf_loss, nvan_loss)] == [0, 0]


def test_an_identity_of_weight_zero_does_not_count():
    logits, labels = torch.randn(3, 2), torch.tensor([0, 1, 0])
    vectors = torch.zeros(3, 4)
    loss = ReIDLoss(lambda features, _: features.sum(), mined_on="feature", class_weights=[1, 0])
    expected = torch.nn.functional.cross_entropy(logits[::2], labels[::2])
    torch.testing.assert_close(loss(ReIDOutput(vectors, vectors, logits), labels).identity, expected)
