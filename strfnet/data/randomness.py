"""Randomness that depends on a seed, an epoch and a place in it, and on nothing else."""

from numpy import integer
from numpy.random import Generator, default_rng

_PURPOSES = {"batches": 11, "clip": 12}
_LIMIT = 2**32  # numbers below it are one word each of what a generator is made from


def generator(purpose: str, *, seed: int, epoch: int, position: int = 0) -> Generator:
    """A new generator for one purpose: the same arguments give the same draws, others give unrelated ones.

    Nothing is carried from one call to the next, so it does not matter how many processes draw, in which
    order, or where a run that was stopped goes on. (NumPy may draw differently in another version.)

    Args:
        purpose: "batches" for an epoch's choice of tracklets, "clip" for all that happens to one tracklet.
        seed: of the run.
        epoch: counted from 0.
        position: of the tracklet among those of the epoch, counted from 0.

    Raises: ValueError for a number below 0 or from 2^32 on, or none.
    """
    for name, number in (("seed", seed), ("epoch", epoch), ("position", position)):
        if not isinstance(number, int | integer) or not 0 <= number < _LIMIT:
            raise ValueError(f"{name} is {number!r}, wanted a whole number from 0 to 2^32 - 1")
    return default_rng([_PURPOSES[purpose], seed, epoch, position])
