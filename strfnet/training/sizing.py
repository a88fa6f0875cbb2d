"""Batches, epochs and evaluations for the size of a training set."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import count
from statistics import mean, median_low
from typing import Any

from strfnet.data.identities import identity_batches
from strfnet.training.recipe import Recipe

FEW, MANY = 50, 100  # identities: below the first batches are distinct; from the second on, epochs are AP3D's
STEPS = 100  # at least, of a run


def sized(
    recipe: Recipe, names: Collection[str], labels: Sequence[int], *, pretrained: bool = False
) -> tuple[Recipe, str]:
    """Sizes fields of a recipe to the training data. The rules are ours; with MARS they give AP3D's recipe.

    - ``identities`` and ``tracklets``: P is at most 8 and at most the number of identities; K is at most 4 and at
      most the median of their tracklets, and at least 2. ``batch`` is P times K.
    - ``batches``: "distinct" with fewer than 50 identities, "groups" otherwise.
    - ``epochs``: 240, with fewer than 100 identities 120; a quarter with pretrained weights; but at least 100 steps.
    - ``milestones``: after each quarter of the epochs but the last.
    - ``evaluate_every``: a tenth of the epochs, from 1 to 10.

    Args:
        recipe: its other fields are kept.
        names: of the fields to size; other names are ignored.
        labels: the identity of each training tracklet, see `identity_labels`.
        pretrained: whether training starts from the weights of a whole network.

    Returns: the recipe, and a line with what was chosen and why; the line is empty if nothing was.
    """
    chosen: dict[str, Any] = {}

    def choose(name: str, value: Any) -> Any:
        """The value of a field, which is ``value`` if the field is sized."""
        if name in names:
            chosen[name] = value
        return chosen.get(name, getattr(recipe, name))

    counts = Counter(labels)
    usual, batch = median_low(counts.values()), None if "batch" in names else recipe.batch
    given = batch is not None and "identities" not in names
    tracklets = choose("tracklets", max(1, recipe.batch // recipe.identities) if given else min(4, max(2, usual)))
    identities = choose("identities", min(8, max(2, len(counts))) if batch is None else max(1, batch // tracklets))
    choose("batch", identities * tracklets)
    choose("batches", "distinct" if len(counts) < FEW else "groups")
    recipe = replace(recipe, **chosen)
    steps = list(_steps(recipe, labels))
    whole = (240 if len(counts) >= MANY else 120) // (4 if pretrained else 1)
    epochs = choose("epochs", max(whole, len(steps)))
    choose("milestones", tuple(sorted({epochs * quarter // 4 for quarter in (1, 2, 3)} - {0})))
    choose("evaluate_every", min(10, max(1, epochs // 10)))
    recipe = replace(recipe, **chosen)
    if recipe.schedule != "steps":
        chosen.pop("milestones", None)  # which nothing depends on
    values = ", ".join(f"{name} {list(v) if isinstance(v, tuple) else v}" for name, v in chosen.items())
    start = "pretrained weights" if pretrained else "weights that are not pretrained"
    usually = f"a median of {usual} tracklets each, {round(mean(steps or [0]), 1):g} steps an epoch"
    why = f"{len(counts)} identities, {usually}, {start}"
    return recipe, f"{values}: sized to {why}" if chosen else ""


def _steps(recipe: Recipe, labels: Sequence[int]) -> Iterator[int]:
    """Optimizer steps of the first epochs, which have at least `STEPS` together, or none at all."""
    if recipe.identities > len(set(labels)):
        return  # which the training refuses
    size: dict[str, Any] = {"identities": recipe.identities, "tracklets": recipe.tracklets, "form": recipe.batches}
    whole = 0
    for epoch in count():
        batches = len(identity_batches(labels, **size, seed=recipe.seed, epoch=epoch))
        steps = math.ceil(batches / recipe.accumulate)
        steps = min(steps, recipe.steps_per_epoch or steps)
        whole += steps
        yield steps
        if whole >= STEPS or not whole:
            return
