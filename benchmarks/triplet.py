"""The batch-hard triplet loss against a loop over anchors: forward and backward, in turns, on one thread.

    python benchmarks/triplet.py             # half a minute
    python benchmarks/triplet.py --quick     # a small batch; only outputs are checked

The loop computes the distances of all pairs and then, for each anchor, the farthest positive and the nearest
negative, as published code does. Times are process CPU time. Exits 1 if losses or gradients differ or the
goal is missed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from strfnet.losses.triplet import BatchHardTriplet

GOAL = 4.0  # times as fast at 64 identities x 4 tracklets x 2048
FORMS: dict[str, tuple[str, float | None]] = {
    "euclidean, soft margin": ("euclidean", None),
    "cosine, margin 0.3": ("cosine", 0.3),
}


def looped(features: Tensor, labels: Tensor, distance: str, margin: float | None) -> Tensor:
    """Anchor by anchor, from a matrix of all distances with a graph."""
    if distance == "cosine":
        unit = F.normalize(features)
        distances = 1 - unit @ unit.T
    else:
        squares = features.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    losses = []
    for anchor in range(len(labels)):
        same = labels == labels[anchor]
        gap = distances[anchor][same].max() - distances[anchor][~same].min()
        losses.append(F.softplus(gap) if margin is None else (gap + margin).relu())
    return torch.stack(losses).mean()


def step(loss: Callable[[Tensor, Tensor], Tensor], features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient."""
    features.grad = None
    value = loss(features, labels)
    value.backward()
    return value.detach(), torch.zeros_like(features) if features.grad is None else features.grad


def compared(form: tuple[str, float | None], identities: int, width: int, rounds: int, turns: int) -> dict:
    """Milliseconds of CPU time of a step, ours and the loop's, and whether they answer alike."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(identities).repeat_interleave(4)
    centres = torch.randn(identities, width, generator=generator).repeat_interleave(4, dim=0)
    features = (centres + torch.randn(len(labels), width, generator=generator)).requires_grad_()
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "strfnet": BatchHardTriplet(*form),
        "loop": partial(looped, distance=form[0], margin=form[1]),
    }
    (ours, our_grad), (theirs, their_grad) = (step(loss, features, labels) for loss in losses.values())
    alike = torch.allclose(ours, theirs, rtol=1e-4) and torch.allclose(our_grad, their_grad, rtol=1e-3, atol=1e-6)
    milliseconds: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(rounds):
        for name, loss in losses.items():
            began = time.process_time()
            for _ in range(turns):
                step(loss, features, labels)
            milliseconds[name].append(1000 * (time.process_time() - began) / turns)
    medians = {name: statistics.median(each) for name, each in milliseconds.items()}
    return {"alike": alike, "milliseconds": milliseconds, "ratio": medians["loop"] / medians["strfnet"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--quick", action="store_true", help="a small batch; speed is not judged")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sizes = (8, 64) if given.quick else (64, 2048)
    rounds, turns = (2, 1) if given.quick else (9, 5)
    results = {name: compared(form, *sizes, rounds, turns) for name, form in FORMS.items()}
    reached = {
        "losses and gradients agree": all(result["alike"] for result in results.values()),
        f"the loop takes at least {GOAL:g} times as long": all(
            result["ratio"] >= GOAL for result in results.values()
        ),
    }
    if given.quick:
        reached.popitem()
    if given.json:
        print(json.dumps({"results": results, "reached": reached}, indent=2))
        return 0 if all(reached.values()) else 1
    print(f"{sizes[0]} identities x 4 x {sizes[1]}, forward and backward, one thread, CPU time of a step")
    print(f"{'form':24}{'rule':10}{'median (ms)':>12}{'least .. most':>18}{'times strfnet':>15}")
    for form, result in results.items():
        for name, each in result["milliseconds"].items():
            span = f"{min(each):.2f} .. {max(each):.2f}"
            ratio = result["ratio"] if name == "loop" else 1.0
            print(f"{form:24}{name:10}{statistics.median(each):12.2f}{span:>18}{ratio:15.2f}")
    print()
    for goal, kept in reached.items():
        print(f"{'reached' if kept else 'MISSED ':8} {goal}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
