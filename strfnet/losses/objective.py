"""The objective of both papers: cross-entropy over identities plus a batch-hard triplet loss."""

from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.losses.triplet import BatchHardTriplet


class Objective(NamedTuple):
    """The total loss, to call ``backward`` on, and its two parts; all are scalars."""

    total: Tensor
    identity: Tensor
    triplet: Tensor


class Scored(Protocol):
    """The output of a network in training, such as a ``ReIDOutput``."""

    @property
    def embedding(self) -> Tensor: ...
    @property
    def feature(self) -> Tensor: ...
    @property
    def logits(self) -> Tensor | None: ...


class ReIDLoss(nn.Module):
    """Cross-entropy of the logits plus a triplet loss of the feature before, or the embedding after, the BN neck.

    Args:
        triplet: the triplet loss.
        mined_on: where triplets are mined, "feature" or "embedding".
        smoothing: label smoothing of the cross-entropy, from 0 to below 1.
        weight: of the triplet loss.

    Raises: ValueError for output without logits (a network in evaluation, or without a classifier).
    """

    def __init__(
        self, triplet: BatchHardTriplet, *, mined_on: str, smoothing: float = 0.0, weight: float = 1.0
    ) -> None:
        super().__init__()
        if mined_on not in ("feature", "embedding"):
            raise ValueError(f'mined_on must be "feature" or "embedding", got {mined_on!r}')
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        if not weight >= 0:
            raise ValueError(f"weight must be at least 0, got {weight}")
        self.triplet, self.mined_on, self.smoothing, self.weight = triplet, mined_on, smoothing, weight

    def forward(self, output: Scored, labels: Tensor) -> Objective:
        if output.logits is None:
            raise ValueError("output has no logits: the network must be in training and have a classifier")
        identity = F.cross_entropy(output.logits.float(), labels, label_smoothing=self.smoothing)
        triplet = self.triplet(output.feature if self.mined_on == "feature" else output.embedding, labels)
        return Objective(identity + self.weight * triplet, identity, triplet)

    def extra_repr(self) -> str:
        return f"mined_on={self.mined_on!r}, smoothing={self.smoothing}, weight={self.weight}"


def strf_loss(*, mined_on: str = "embedding", smoothing: float = 0.0) -> ReIDLoss:
    """The loss of STRF: cosine triplets with a margin of 0.3 on the embedding.

    Source: the poster of STRF names cross-entropy and batch-hard cosine triplets. The margin and where they are mined
    are those of AP3D, on which its baselines build.
    """
    return ReIDLoss(BatchHardTriplet("cosine", 0.3), mined_on=mined_on, smoothing=smoothing)


def nvan_loss(*, mined_on: str = "feature", smoothing: float = 0.0) -> ReIDLoss:
    """The loss of NVAN's published code: Euclidean triplets with a soft margin on the feature before the BN neck."""
    return ReIDLoss(BatchHardTriplet("euclidean", None), mined_on=mined_on, smoothing=smoothing)
