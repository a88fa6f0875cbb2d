from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strfnet.data.identities import identity_batches

FORMS = ("every_identity", "groups", "distinct")


def mars_like():
    """As many tracklets, identities, rare and frequent ones as MARS has, and as many groups of four."""
    rng = np.random.default_rng(0)
    small = [1] + [2] * 20 + [3] * 24  # 45 identities with fewer than 4
    large = [271, *rng.multinomial(8298 - sum(small) - 271 - 4 * 579, np.ones(579) / 579).tolist()]
    counts = [*small, large[0], *(4 + more for more in large[1:])]
    # One tracklet goes from an identity to another until groups of four come to MARS' 7532 tracklets.
    at = 46
    while (groups := sum(max(1, count // 4) for count in counts)) != 1883:
        one, other = at, 46 + (at - 46 + 1) % 579
        if counts[one] > 4 and ((counts[one] % 4 != 0) == (groups < 1883)):
            counts[one], counts[other] = counts[one] - 1, counts[other] + 1
        at = other
    return rng.permutation(np.repeat(np.arange(625), counts)).tolist()


@pytest.fixture(scope="module")
def mars():
    labels = mars_like()
    counts = Counter(labels).values()
    assert (len(labels), len(counts), max(counts)) == (8298, 625, 271)
    assert sum(count == 1 for count in counts) == 1 and sum(count < 4 for count in counts) == 45
    return labels


def epoch(labels, identities, tracklets, form, seed=0, epoch=0):
    return identity_batches(labels, identities=identities, tracklets=tracklets, form=form, seed=seed, epoch=epoch)


def places(batch, labels, tracklets):
    """The identity of each place of a batch, after checking that a place shows one."""
    groups = [batch[start : start + tracklets] for start in range(0, len(batch), tracklets)]
    assert all(len({labels[row] for row in group}) == 1 for group in groups)
    return [labels[group[0]] for group in groups]


def test_an_epoch_of_mars_has_the_published_number_of_batches(mars):
    every = epoch(mars, 8, 4, "every_identity")
    groups = epoch(mars, 8, 4, "groups")
    assert len(every) == 78 and len(groups) == 235
    assert {len(batch) for batch in every + groups} == {32}
    distinct = epoch(mars, 8, 4, "distinct")
    assert 180 < len(distinct) <= 235 and {len(batch) for batch in distinct} == {32}


def test_every_identity_comes_once_and_its_tracklets_are_drawn_with_replacement(mars):
    visits, repeats, of_identity = Counter(), 0, {}
    for row, label in enumerate(mars):
        of_identity.setdefault(label, []).append(row)
    for number in range(20):
        seen = [one for batch in epoch(mars, 8, 4, "every_identity", epoch=number) for one in places(batch, mars, 4)]
        assert len(seen) == len(set(seen)) == 624
        visits.update(seen)
    assert len(visits) == 625 and len(set(visits.values())) > 1  # another one is left over each time
    drawn = Counter()
    for number in range(3000):
        (batch,) = epoch([5, 5, 5], 1, 2, "every_identity", epoch=number)
        drawn[tuple(batch)] += 1
        repeats += batch[0] == batch[1]
    assert len(drawn) == 9 and all(count == pytest.approx(3000 / 9, abs=90) for count in drawn.values())


@given(
    labels=st.lists(st.integers(-3, 5), min_size=1, max_size=60),
    identities=st.integers(1, 4),
    tracklets=st.integers(1, 5),
    form=st.sampled_from(FORMS),
    seed=st.integers(0, 5),
)
def test_batches_keep_the_rules_of_their_form(labels, identities, tracklets, form, seed):
    counts = Counter(labels)
    identities = min(identities, len(counts))
    if form == "groups" and identities == 1:
        return
    batches = epoch(labels, identities, tracklets, form, seed=seed)
    assert all(type(row) is int and 0 <= row < len(labels) for batch in batches for row in batch)
    assert all(len(batch) == identities * tracklets for batch in batches)
    seen = [places(batch, labels, tracklets) for batch in batches]
    visits = Counter(one for batch in seen for one in batch)
    if form == "every_identity":
        assert len(batches) == len(counts) // identities and set(visits.values()) <= {1}
        return
    assert all(visits[one] <= max(1, count // tracklets) for one, count in counts.items())
    rows = Counter(row for batch in batches for row in batch)
    assert all(count == 1 or counts[labels[row]] < tracklets for row, count in rows.items())  # no tracklet twice
    groups = sum(max(1, count // tracklets) for count in counts.values())
    if form == "groups":
        assert all(len(set(batch)) > 1 for batch in seen)
        assert len(batches) <= groups // identities
    else:
        assert all(len(set(batch)) == identities for batch in seen)
        left = [one for one, count in counts.items() if visits[one] < max(1, count // tracklets)]
        assert len(left) < identities  # it went on while it could


@pytest.mark.parametrize("form", ["groups", "distinct"])
def test_what_divides_is_used_up(form):
    labels = [0, 1, 2, 3] * 3
    for number in range(20):
        batches = epoch(labels, 2, 3, form, epoch=number)
        assert sorted(row for batch in batches for row in batch) == list(range(12))


def test_groups_are_dropped_and_skipped_only_as_said():
    labels = [0] * 9 + [1] * 5 + [2] * 2  # groups of 2: four, two and one, and a tracklet left over twice
    lengths, shared, dropped = Counter(), 0, Counter()
    for number in range(300):
        batches = epoch(labels, 2, 2, "groups", epoch=number)
        lengths[len(batches)] += 1
        dropped.update(set(range(16)) - {row for batch in batches for row in batch})
        shared += sum(len(set(places(batch, labels, 2))) == 2 for batch in batches)
    # Seven groups are three batches and one left over; batches that show 0 or 1 alone are skipped.
    assert set(lengths) == {0, 1, 2, 3} and shared == sum(count * length for length, count in lengths.items())
    assert set(dropped) == set(range(16))  # each tracklet is left out at times
    three = [
        places(batch, labels, 2) for number in range(50) for batch in epoch(labels, 3, 2, "groups", epoch=number)
    ]
    assert any(sorted(batch) == [0, 0, 1] for batch in three)  # one identity in two places


def test_an_epoch_of_groups_may_be_empty():
    labels = [0] * 8 + [1] * 2
    assert {len(epoch(labels, 2, 2, "groups", epoch=number)) for number in range(60)} == {0, 1}


def test_pairs_of_tracklets_and_of_identities_are_alike():
    labels = [0] * 3 + [1] * 3 + [2] * 3
    for form in ("groups", "distinct"):
        partners, order = Counter(), Counter()
        for number in range(1500):
            batch = epoch(labels, 2, 2, form, epoch=number)[0]
            order[tuple(places(batch, labels, 2))] += 1
            for pair in (batch[:2], batch[2:]):
                partners[tuple(sorted(row % 3 for row in pair))] += 1
        assert len(order) == 6 and all(count == pytest.approx(250, abs=80) for count in order.values())
        assert len(partners) == 3 and all(count == pytest.approx(1000, abs=140) for count in partners.values())


def test_distinct_draws_identities_whatever_their_share_of_the_tracklets():
    labels = [0] * 40 + [1] * 2 + [2] * 2 + [3] * 2
    first = Counter(
        one for n in range(1000) for one in places(epoch(labels, 2, 2, "distinct", epoch=n)[0], labels, 2)
    )
    assert all(first[one] == pytest.approx(500, abs=90) for one in range(4))


@pytest.mark.parametrize("form", FORMS)
def test_an_epoch_is_a_pure_function_of_labels_seed_and_number(form):
    labels = [row % 7 for row in range(60)]
    once = epoch(labels, 3, 2, form, seed=4, epoch=5)
    assert once == epoch(labels, 3, 2, form, seed=4, epoch=5)
    assert once == epoch(np.array(labels, np.uint8), 3, 2, form, seed=4, epoch=5)
    assert once != epoch(labels, 3, 2, form, seed=4, epoch=6)
    assert once != epoch(labels, 3, 2, form, seed=5, epoch=5)
    assert labels == [row % 7 for row in range(60)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": [0.0, 1.0]}, "labels are float64"),
        ({"labels": [True, False]}, "labels are bool"),
        ({"labels": ["a", "b"]}, r"labels are <U1 \(2,\), wanted a list of whole numbers"),
        ({"labels": [[0, 1]]}, r"labels are int64 \(1, 2\)"),
        ({"labels": []}, r"labels are float64 \(0,\)"),
        ({"labels": np.zeros(0, int)}, r"labels are int64 \(0,\)"),
        ({"identities": 5}, "identities is 5, wanted 1 to 4"),
        ({"identities": 0}, "identities is 0, wanted 1 to 4"),
        ({"identities": 1, "form": "groups"}, "identities is 1, wanted at least 2"),
        ({"tracklets": 0}, "tracklets is 0, wanted at least 1"),
        ({"form": "group"}, "form must be one of every_identity, groups, distinct, got 'group'"),
        ({"seed": -1}, "seed is -1"),
        ({"epoch": -1}, "epoch is -1"),
    ],
)
def test_batches_that_cannot_be_made_are_refused(wrong, message):
    right = {"labels": [0, 1, 2, 3, 3], "identities": 2, "tracklets": 2, "form": "distinct", "seed": 0, "epoch": 0}
    arguments = right | wrong
    with pytest.raises(ValueError, match=message):
        identity_batches(arguments.pop("labels"), **arguments)
