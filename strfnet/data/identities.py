"""The batches of an epoch: several tracklets of each of several identities, for the triplet loss."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from strfnet.data.randomness import generator
from strfnet.system.names import check_choice

Rows = NDArray[np.int64]


def identity_batches(
    labels: Sequence[int], *, identities: int, tracklets: int, form: str = "every_identity", seed: int, epoch: int
) -> list[list[int]]:
    """All batches of an epoch, P identities with K tracklets each: a pure function of the arguments.

    Published results use one of three divisions:

    - "every_identity": each identity is drawn once in the epoch, in random order, with K of its tracklets drawn with
      replacement. An incomplete last batch is dropped. On MARS, 625 identities make 78 batches of 8. Source: the code
      of STE-NVAN and CF-AAN.
    - "groups": the tracklets of each identity are shuffled and divided into groups of K, the rest is dropped; of
      fewer than K, K are drawn with replacement. All groups are shuffled, and P consecutive ones make a batch, so an
      identity may occur in it several times. Batches of a single identity and an incomplete last batch are dropped.
      Source: the code of AP3D and BiCnet-TKS.
    - "distinct": the same groups, but each batch has P different identities, drawn uniformly among those with groups
      left. The epoch ends when fewer than P have any. Source: torchreid, fast-reid.

    The number of batches varies between epochs with the last two. An epoch of "groups" may have none if there are few
    tracklets.

    Args:
        labels: the identity of each row, as whole numbers.
        identities: P.
        tracklets: K.
        form: one of the three divisions.
        seed: of the run.
        epoch: counted from 0.

    Returns: batches of P times K rows of ``labels``; rows of one identity or group are consecutive.
    Raises: ValueError for labels that are not whole numbers, P or K below 1, P above the number of identities, P = 1
    with "groups" (which drops all batches), another form, or an invalid seed or epoch.
    """
    of_identity = _rows(labels)
    check_choice("form", form, _FORMS)
    if not 1 <= identities <= len(of_identity):
        raise ValueError(f"identities is {identities}, wanted 1 to {len(of_identity)}, as many as the labels name")
    if tracklets < 1:
        raise ValueError(f"tracklets is {tracklets}, wanted at least 1 of each identity")
    if form == "groups" and identities == 1:
        raise ValueError("identities is 1, wanted at least 2: batches of a single identity are dropped")
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
    """The rows of one identity in random groups of ``size``; the rest is dropped. Too few rows are repeated."""
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
