"""Random generators that depend on seed, epoch and position alone."""

from numpy import integer
from numpy.random import Generator, default_rng

_PURPOSES = {"batches": 11, "clip": 12}
_LIMIT = 2**32  # a number below it is one word of a generator's seed


def generator(purpose: str, *, seed: int, epoch: int, position: int = 0) -> Generator:
    """A new generator. Equal arguments give equal draws, others give independent ones.

    No state passes from one call to the next, so draws do not depend on the number of processes, their order, or the
    position at which a run resumes. (They may depend on the version of NumPy.)

    Args:
        purpose: "batches" for the tracklets of an epoch, "clip" for the sampling and augmentation of one clip.
        seed: of the run.
        epoch: counted from 0.
        position: of the tracklet among those of the epoch, counted from 0.

    Raises: ValueError for what is no whole number from 0 to 2^32 - 1.
    """
    for name, number in (("seed", seed), ("epoch", epoch), ("position", position)):
        if not isinstance(number, int | integer) or not 0 <= number < _LIMIT:
            raise ValueError(f"{name} is {number!r}, wanted a whole number from 0 to 2^32 - 1")
    return default_rng([_PURPOSES[purpose], seed, epoch, position])
