import math

import pytest
import torch
from hypothesis import given
from strategies import clips, wake

from strfnet.layers import FrameAttention, GeM
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
        ({"stripes": 0}, "stripes must be at least 1, or None for the whole maps, got 0"),
    ],
)
def test_impossible_heads_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Head(**{"channels": 6, "num_classes": 5, **arguments})


@given(clip=clips(channels=3))
def test_gem_is_between_the_mean_and_the_maximum(clip):
    positive = clip.abs() + 0.1
    everything = positive.flatten(2)
    by_power = {1.0: everything.mean(dim=2), 3.0: everything.pow(3).mean(dim=2).pow(1 / 3)}
    by_power[math.inf] = everything.amax(dim=2)
    for power, expected in by_power.items():
        torch.testing.assert_close(GeM(power).double()(positive), expected, rtol=1e-9, atol=0)
    large = GeM(1e4).double()(1e30 * positive)
    torch.testing.assert_close(large, 1e30 * by_power[math.inf], rtol=1e-2, atol=0)


def test_gem_trains_its_exponent_and_raises_small_values_to_eps():
    pool = GeM(2.0).double()
    clip = torch.rand(2, 3, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    pool(clip).sum().backward()
    assert pool.p.grad.abs() > 0 and torch.autograd.gradcheck(pool, (clip,))
    assert not GeM(trained=False).p.requires_grad
    assert torch.equal(GeM(2.0)(-torch.ones(1, 1, 1, 1, 1)), torch.full((1, 1), 1e-6))
    with pytest.raises(ValueError, match="p must be above 0, got 0"):
        GeM(0)


def test_attention_starts_as_the_mean_and_weighs_frames_by_their_scores():
    clip = torch.randn(2, 3, 4, 2, 2, dtype=torch.float64)
    pool = FrameAttention(3).double()
    torch.testing.assert_close(pool(clip), clip.mean(dim=(2, 3, 4)))
    wake(pool)
    for b in range(2):
        frames = [frame.mean(dim=(1, 2)) for frame in clip[b].unbind(1)]
        weights = torch.stack([torch.dot(pool.score.weight[0], frame).exp() for frame in frames])
        expected = sum(weight * frame for weight, frame in zip(weights / weights.sum(), frames, strict=True))
        torch.testing.assert_close(pool(clip)[b], expected)


@pytest.mark.parametrize(
    "pooling", ["mean", "max", "max_mean", "gem", "attention", GeM(2), lambda x: x.amax((2, 3, 4))]
)
def test_stripes_are_pooled_apart_and_each_has_its_classifier(pooling):
    head = wake(Head(6, 5, pooling=pooling, stripes=3)).eval()
    clip = torch.rand(2, 6, 2, 7, 3)  # rows 0 to 2, 3 and 4, 5 and 6
    output = head(clip)
    parts = [head.pooler(clip[:, :, :, rows]) for rows in (slice(0, 3), slice(3, 5), slice(5, 7))]
    torch.testing.assert_close(output.feature, torch.cat(parts, dim=1))
    assert output.embedding.shape == (2, 18) and output.logits is None
    logits, embeddings = head.train()(clip)[2], head(clip).embedding.unflatten(1, (3, 6))
    assert logits.shape == (2, 3, 5) and head.classifier.out_features == 5
    for part in range(3):
        torch.testing.assert_close(logits[:, part], head.classifier[part](embeddings[:, part]))


def test_a_callable_that_pools_to_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"pooling <lambda> must return \(2, 6\), got \(2, 6, 1\)"):
        Head(6, 5, pooling=lambda x: x.mean((3, 4)))(torch.randn(2, 6, 1, 3, 3))
    with pytest.raises(ValueError, match="4 stripes need as many rows at least, but x has a height of 3"):
        Head(6, 5, stripes=4)(torch.randn(2, 6, 1, 3, 3))
