"""Cases of the speed benchmark: the non-local block alone, and its time by the length of a clip."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from cases import ERROR, Settings, awake, normal
from figures import Figure
from interleaved import SHORTEST, difference
from restatements import restate

from strfnet import NonLocalBlock

CHANNELS, HEIGHT, WIDTH = 512, 32, 16  # of layer2 at 256 x 128
FORMS: dict[str, tuple[dict[str, Any], int, int, float]] = {  # options, batch, frames, goal
    "block": ({}, 1, 8, 1.35),
    "block, batch 4": ({}, 4, 8, 1.4),
    "block, 16 stripes": ({"stripes": 16}, 1, 8, 1.25),
    "block, dot": ({"pairing": "dot"}, 1, 8, 5.0),
    "block, T = 32": ({}, 1, 32, 1.6),
}
BATCHED = "block, batch 4"
GROWTH = {"block": (4, 8, 16), "nvan": (4, 8)}


def woken_block(channels: int, settings: Settings, **options: Any) -> NonLocalBlock:
    """A block in evaluation that is not the identity."""
    torch.manual_seed(0)
    block = NonLocalBlock(channels, **options)
    with torch.no_grad():
        for parameter in block.norm.parameters():  # type: ignore[union-attr]
            parameter.uniform_(0.5, 1.5)
        block.norm.running_mean.normal_(std=0.1)  # type: ignore[union-attr]
        block.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    return block.to(settings.device).eval()


def block(case: str, settings: Settings) -> list[Figure]:
    """One form of the block: each computation gets its clip in the memory order that it works in."""
    options, batch, frames, goal = FORMS[case]
    channels = CHANNELS if settings.judged else 32
    ours = woken_block(channels, settings, **options)
    theirs = restate(ours)
    clip = normal(settings, batch, channels, frames if settings.judged else 2, HEIGHT, WIDTH)
    rows = clip.contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode():
        apart = difference(ours(rows), theirs(clip))
        calls = {"published": partial(theirs, clip), "eager": partial(ours, rows)}
        shortest = SHORTEST if batch * frames == 8 else 0  # longer ones need no repeating, and are warm by now
        timings = settings.time(calls, shortest=shortest)
    ratio = timings.ratio("published", "eager")
    return [
        Figure(case, "eager: output differs", apart, goal=ERROR, at_most=True),
        Figure.spread(case, "eager: published takes", ratio, "x", goal=settings.judge(goal)),
        *(Figure.spread(case, name, timings.of(name), "s") for name in calls),
    ]


def growth(subject: str, settings: Settings) -> list[Figure]:
    """Seconds of the block or of NVAN for clips of more and more frames, for the plot; nothing is judged."""
    case, figures = f"growth of {subject}", []
    channels = CHANNELS if settings.judged else 32
    ours = woken_block(channels, settings) if subject == "block" else awake(f"nvan_{settings.depth}", settings)
    theirs = restate(ours)
    for t in GROWTH[subject] if settings.judged else (4,):
        shape = (1, channels, t, HEIGHT, WIDTH) if subject == "block" else (1, 3, t, *settings.frame)
        clip = normal(settings, *shape)
        rows = clip.contiguous(memory_format=torch.channels_last_3d)
        with torch.inference_mode():
            calls = {"published": partial(theirs, clip), "eager": partial(ours, rows)}
            timings = replace(settings, rounds=2, most=2).time(calls)
        figures += [Figure.spread(case, f"{name}, T = {t}", timings.of(name), "s") for name in calls]
    return figures
