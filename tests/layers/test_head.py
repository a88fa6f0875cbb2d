import pytest
import torch
from hypothesis import given
from strategies import clips, wake

from strfnet.layers.head import Head


@given(clip=clips(channels=3))
def test_pooling_agrees_with_loops(clip):
    for b, frames in enumerate(clip.transpose(1, 2)):
        for c in range(3):
            places = [[v for row in frame[c].tolist() for v in row] for frame in frames]
            everything = [v for frame in places for v in frame]
            expected = {
                "mean": sum(everything) / len(everything),
                "max": max(everything),
                "max_mean": sum(map(max, places)) / len(places),
            }
            for pooling, value in expected.items():
                pooled = Head(3, None, pooling=pooling).double().pool(clip)
                assert abs(pooled[b, c].item() - value) < 1e-12, pooling


def test_the_embedding_is_the_neck_of_the_feature_and_logits_are_its_classifier():
    clip = torch.randn(4, 6, 2, 3, 3)
    head = wake(Head(6, 5))
    answer = head.train()(clip)
    feature = answer.feature
    normed = (feature - feature.mean(0)) / (feature.var(0, unbiased=False) + head.neck.eps).sqrt()
    torch.testing.assert_close(answer.embedding, normed * head.neck.weight + head.neck.bias)
    torch.testing.assert_close(answer.logits, answer.embedding @ head.classifier.weight.T + head.classifier.bias)
    assert head.eval()(clip).logits is None


def test_frozen_and_absent_biases():
    head = Head(6, 5, neck_bias=False, classifier_bias=False)
    assert not head.neck.bias.requires_grad and head.neck.bias.abs().sum() == 0
    assert head.classifier.bias is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pooling": "avg"}, "pooling must be one of mean, max, max_mean, gem, attention, got 'avg'"),
        ({"num_classes": 0}, "num_classes must be at least 1, or None for no classifier, got 0"),
    ],
)
def test_impossible_heads_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Head(**{"channels": 6, "num_classes": 5, **arguments})
