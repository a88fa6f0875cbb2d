import math

import pytest
import torch
from strategies import wake

import strfnet
from strfnet.layers.head import ReIDOutput
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
