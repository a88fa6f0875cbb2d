"""The settings of a search, which the command line reads without PyTorch."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """Which tracklets of a gallery are searched, and how they are ordered.

    Args:
        top: Largest number of hits.
        camera_aware: Leave out tracklets of the query's camera.
        since: Leave out tracklets that end before this time, in seconds of their video, or have no times.
        until: Leave out tracklets that begin after this time.
        expand: Average query expansion: search by the mean of the query and this many nearest tracklets.
        rerank: Re-rank this many nearest tracklets by k-reciprocal neighbours.
        threshold: Largest distance of a match; hits above it are left out, see `strfnet.evaluation.operating_point`.

    Raises: ValueError naming an argument that is out of range.
    """

    top: int = 10
    camera_aware: bool = False
    since: float | None = None
    until: float | None = None
    expand: int = 0
    rerank: int = 0
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1 or self.expand < 0:
            raise ValueError(f"top is {self.top} and expand {self.expand}, wanted at least 1 and 0")
        if self.rerank and self.rerank < self.top:
            raise ValueError(f"rerank is {self.rerank}, wanted at least top, {self.top}, or 0 for none")
        for name in ("since", "until", "threshold"):
            if math.isnan(getattr(self, name) or 0):
                raise ValueError(f"{name} is nan, wanted a number")
        if self.since is not None and self.until is not None and self.since > self.until:
            raise ValueError(f"since is {self.since} and until {self.until}, wanted since before until")
