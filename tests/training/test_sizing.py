"""Recipes sized to the training data."""

from dataclasses import fields, replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from strfnet.data.identities import identity_batches
from strfnet.training import Recipe, sized

DERIVED = [one.name for one in fields(Recipe) if "derived" in one.metadata]


def people(identities, tracklets):
    return [identity for identity in range(identities) for _ in range(tracklets)]


def test_data_of_the_size_of_mars_have_the_recipe_of_ap3d():
    recipe, line = sized(Recipe(), DERIVED, people(625, 13))
    assert recipe == Recipe() and "625 identities, a median of 13 tracklets each" in line


@pytest.mark.parametrize(
    ("identities", "tracklets", "pretrained", "wanted"),
    [
        (
            5,
            11,
            True,
            {"identities": 5, "batches": "distinct", "epochs": 50, "milestones": (12, 25, 37)},
        ),
        (5, 11, False, {"epochs": 120, "evaluate_every": 10}),
        (2, 1, True, {"identities": 2, "tracklets": 2, "batch": 4, "epochs": 100}),
        (50, 5, True, {"identities": 8, "tracklets": 4, "batches": "groups", "epochs": 30, "evaluate_every": 3}),
        (100, 3, True, {"tracklets": 3, "batch": 24, "epochs": 60, "milestones": (15, 30, 45)}),
    ],
)
def test_few_people_make_small_batches_and_fewer_epochs(identities, tracklets, pretrained, wanted):
    recipe, _ = sized(Recipe(), DERIVED, people(identities, tracklets), pretrained=pretrained)
    assert {name: getattr(recipe, name) for name in wanted} == wanted


def test_what_is_given_is_kept():
    recipe = Recipe(lr=0.01, epochs=7, milestones=(2,))
    assert sized(recipe, (), people(5, 2)) == (recipe, "")
    fixed, line = sized(recipe, {"evaluate_every", "height"}, people(5, 2))
    assert fixed == replace(recipe, evaluate_every=1) and line.startswith("evaluate_every 1: sized to 5 identities")
    for some, wanted in (({"batch": 12, "identities": 3}, (12, 3, 4)), ({"batch": 12}, (12, 3, 4))):
        recipe, line = sized(Recipe.of(some), {*DERIVED} - some.keys(), people(5, 9))
        assert (recipe.batch, recipe.identities, recipe.tracklets) == wanted and "batch 12" not in line
    with pytest.raises(ValueError, match="batch must be 3 identities x 4 tracklets = 12, got 13"):
        sized(replace(Recipe(), batch=13, identities=13, tracklets=1), {"identities", "tracklets"}, people(5, 9))


@example([1, 8, 8, 8, 8, 1, 8, 8, 8], True)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=70), st.booleans())
def test_every_size_trains_for_a_hundred_steps_and_is_evaluated(counts, pretrained):
    labels = [identity for identity, count in enumerate(counts) for _ in range(count)]
    recipe, _ = sized(Recipe(), DERIVED, labels, pretrained=pretrained)
    assert 2 <= recipe.identities <= len(counts) and 2 <= recipe.tracklets <= 4
    size = {"identities": recipe.identities, "tracklets": recipe.tracklets, "form": recipe.batches, "seed": 0}
    steps = sum(len(identity_batches(labels, **size, epoch=epoch)) for epoch in range(recipe.epochs))
    assert steps >= 100 and 1 <= recipe.evaluate_every <= 10 and max(recipe.milestones) < recipe.epochs
