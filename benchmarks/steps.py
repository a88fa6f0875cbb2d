"""Cases of the speed benchmark: a training step of a network."""

import copy
from functools import partial
from typing import Any

import torch
from cases import GRADIENT_ERROR, Settings, awake, normal
from figures import Figure
from published_names import published
from restatements import restate

from strfnet.layers import choose_attention

STEP = {"p3dc_{}": (1.1, 2.2), "nvan_{}": (1.1, 1.8), "ste_nvan_{}": (1.2, 2.4)}  # in float32, in bfloat16


def training(form: str, settings: Settings) -> list[Figure]:
    """A training step of two clips, up to the feature before the neck: ours, also in bfloat16, and the published.

    Gradients are compared in float64 on one small clip with the norms in evaluation.
    """
    case = f"{form.format(settings.depth)}, training"
    network = awake(form.format(settings.depth), settings)
    apart = gradients_differ(network, settings)
    networks = {"published": restate(network).train(), "eager": network.train()}
    small, half = settings.half, copy.deepcopy(network)
    choose_attention(half, dtype=torch.bfloat16, training=True)  # as in training with --precision bf16
    calls = {name: partial(step, each, settings) for name, each in networks.items()}
    halves = {
        "published": partial(step, networks["published"], small),
        "bfloat16 autocast": partial(step, half, small, half=True),
    }
    timings = settings.time(calls | halves if small is settings else calls)
    half_timings = timings if small is settings else small.time(halves)
    goals = settings.judge(STEP[form][0]), small.judge(STEP[form][1])
    ratio = half_timings.ratio("published", "bfloat16 autocast")
    return [
        Figure(case, "gradients in float64 differ", apart, goal=GRADIENT_ERROR, at_most=True),
        Figure.spread(case, "eager: published takes", timings.ratio("published", "eager"), "x", goal=goals[0]),
        Figure.spread(case, "bfloat16 autocast: published takes", ratio, "x", goal=goals[1]),
        *(Figure.spread(case, name, timings.of(name), "s") for name in timings.seconds),
    ]


def step(network: Any, settings: Settings, *, half: bool = False) -> None:
    """Forward and backward of two clips, weighed by random numbers; under autocast to bfloat16 if ``half``."""
    network.zero_grad(set_to_none=True)
    clip = normal(settings, *settings.clip_shape(2))
    with torch.autocast(settings.device, torch.bfloat16, enabled=half):
        feature = network(clip).feature
    (feature.float() * normal(settings, *feature.shape, seed=2)).sum().backward()


def gradients_differ(network: Any, settings: Settings) -> float:
    """The largest difference of a gradient in float64, in parts of that parameter's largest.

    Gradients that are nothing beside the rest, such as those of a key's bias, which are zero but for rounding,
    are taken in parts of a millionth of the largest of all.
    """
    double = copy.deepcopy(network).double().eval()
    theirs = restate(double)
    clip = normal(settings, 1, 3, 4, 256, 16).double()
    cotangent = normal(settings, 1, network.head.channels, seed=2).double()
    for each in (double, theirs):
        (each(clip).feature * cotangent).sum().backward()
    ours = published(double, {name: p.grad for name, p in double.named_parameters() if p.grad is not None})
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    if ours.keys() != expected.keys():
        raise ValueError(f"gradients of {sorted(ours.keys() ^ expected.keys())} are missing on one side")
    least = 1e-6 * max(gradient.abs().max().item() for gradient in expected.values())
    return max(
        ((ours[name].view_as(gradient) - gradient).abs().max() / gradient.abs().max().clamp(min=least)).item()
        for name, gradient in expected.items()
    )
