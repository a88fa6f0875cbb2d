"""Which tracklets make up the batches of an epoch: some of each of several identities, for the triplet loss."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from strfnet.data.randomness import generator

Rows = NDArray[np.int64]


def identity_batches(
    labels: Sequence[int], *, identities: int, tracklets: int, form: str = "every_identity", seed: int, epoch: int
) -> list[list[int]]:
    """All batches of an epoch, P identities with K tracklets each: a pure function of the arguments.

    The forms, of which the published numbers come from:

    - "every_identity": each identity fills one place of the epoch, with K of its tracklets drawn with
      replacement; identities come in random order, and those left over for an incomplete batch are dropped.
      Source: the code of STE-NVAN and CF-AAN. On MARS, 625 identities make 78 batches of 8.
    - "groups": the tracklets of each identity are shuffled and cut into groups of K, the rest is dropped; of
      fewer than K, K are drawn with replacement. All groups are shuffled, and P in a row are a batch, in
      which one identity may so fill several places. A batch of a single identity is skipped, groups left over
      for an incomplete batch are dropped. Source: the code of AP3D and BiCnet-TKS.
    - "distinct": the same groups, but each batch takes them from P different identities, drawn uniformly
      among those that have any left; the epoch ends when fewer than P have. Source: torchreid, fast-reid.

    With the last two, epochs differ in their number of batches, if little; in a small data set an epoch of
    "groups" may be without any.

    Args:
        labels: whose tracklet each row is, as whole numbers.
        identities: P, places for identities in a batch.
        tracklets: K, tracklets in each place.
        form: one of the three.
        seed: of the run.
        epoch: counted from 0.

    Returns: rows of ``labels``, P times K a batch, tracklets of one place side by side.
    Raises: ValueError for labels that are no whole numbers, P or K below 1, P above the number of identities,
    one identity a batch in "groups" (which would skip them all), another form, or a bad seed or epoch.
    """
    of_identity = _rows(labels)
    if form not in _FORMS:
        raise ValueError(f"form is {form!r}, wanted one of {', '.join(_FORMS)}")
    if not 1 <= identities <= len(of_identity):
        raise ValueError(f"identities is {identities}, wanted 1 to {len(of_identity)}, as many as the labels name")
    if tracklets < 1:
        raise ValueError(f"tracklets is {tracklets}, wanted at least 1 of each identity")
    if form == "groups" and identities == 1:
        raise ValueError("identities is 1, wanted at least 2: batches of a single identity are skipped")
    rng = generator("batches", seed=seed, epoch=epoch)
    batches = _FORMS[form](of_identity, identities, tracklets, rng)
    return [np.concatenate(batch).tolist() for batch in batches]


def _every_identity(of_identity: list[Rows], identities: int, tracklets: int, rng: Generator) -> Iterator[list[Rows]]:
    drawn = [rng.choice(of_identity[one], tracklets) for one in rng.permutation(len(of_identity))]
    for start in range(0, len(drawn) - identities + 1, identities):
        yield drawn[start : start + identities]


def _groups(of_identity: list[Rows], identities: int, tracklets: int, rng: Generator) -> Iterator[list[Rows]]:
    groups = [
        (identity, group)
        for identity, rows in enumerate(of_identity)
        for group in _shuffled_groups(rows, tracklets, rng)
    ]
    order = rng.permutation(len(groups))
    for start in range(0, len(groups) - identities + 1, identities):
        batch = [groups[at] for at in order[start : start + identities]]
        if len({identity for identity, _ in batch}) > 1:
            yield [group for _, group in batch]


def _distinct(of_identity: list[Rows], identities: int, tracklets: int, rng: Generator) -> Iterator[list[Rows]]:
    left = {identity: _shuffled_groups(rows, tracklets, rng) for identity, rows in enumerate(of_identity)}
    while len(left) >= identities:
        chosen = rng.choice(list(left), identities, replace=False).tolist()
        yield [left[identity].pop() for identity in chosen]
        left = {identity: groups for identity, groups in left.items() if groups}


_FORMS = {"every_identity": _every_identity, "groups": _groups, "distinct": _distinct}


def _shuffled_groups(rows: Rows, size: int, rng: Generator) -> list[Rows]:
    """One identity's rows in random groups of ``size``, the rest dropped; one group with repeats if too few."""
    if len(rows) < size:
        return [rng.choice(rows, size)]
    shuffled = rng.permutation(rows)
    return [shuffled[start : start + size] for start in range(0, len(rows) - size + 1, size)]


def _rows(labels: Sequence[int]) -> list[Rows]:
    """The rows of each identity, identities in the order of their labels."""
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values) or values.dtype.kind not in "iu":
        raise ValueError(f"labels are {values.dtype} {values.shape}, wanted a list of whole numbers, at least one")
    order = np.argsort(values, kind="stable")
    ends = np.flatnonzero(np.diff(values[order])) + 1
    return np.split(order, ends)
