"""The objective of both papers: cross-entropy over identities plus a batch-hard triplet loss."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.losses.triplet import BatchHardTriplet, check_labels
from strfnet.system.names import check_number


class Objective(NamedTuple):
    """The total loss, to call ``backward`` on, and its two parts; all are scalars."""

    total: Tensor
    identity: Tensor
    triplet: Tensor


class Scored(Protocol):
    """The output of a network in training, such as a ``ReIDOutput``. Each may be one tensor or several."""

    @property
    def embedding(self) -> Tensor | Sequence[Tensor]: ...
    @property
    def feature(self) -> Tensor | Sequence[Tensor]: ...
    @property
    def logits(self) -> Tensor | Sequence[Tensor] | None: ...


class ReIDLoss(nn.Module):
    """Cross-entropy of the logits plus a triplet loss of the feature before, or the embedding after, the BN neck.

    Of several logits, features or embeddings (of the stripes of a head, or of several heads), each part is the mean
    of their losses.

    Args:
        triplet: the triplet loss, or another loss of features (n, d) and labels (n,), such as those of
            pytorch-metric-learning.
        mined_on: where triplets are mined, "feature" or "embedding".
        smoothing: label smoothing of the cross-entropy, from 0 to below 1.
        weight: of the triplet loss.
        class_weights: weight of each identity in the cross-entropy, (k,). Default: all are equal.

    Shape: logits (n, k), (n, parts, k) or a sequence of (n, k); features and embeddings (n, d) or a sequence of them;
    labels (n,).
    Raises: ValueError for output without logits (a network in evaluation, or without a classifier), or for
    ``class_weights`` that are negative or of another number than the logits.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        triplet: Callable[[Tensor, Tensor], Tensor],
        *,
        mined_on: str,
        smoothing: float = 0.0,
        weight: float = 1.0,
        class_weights: Tensor | Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if mined_on not in ("feature", "embedding"):
            raise ValueError(f'mined_on must be "feature" or "embedding", got {mined_on!r}')
        check_number("smoothing", smoothing, least=0)
        if smoothing >= 1:
            raise ValueError(f"smoothing must be at least 0 and below 1, got {smoothing}")
        check_number("weight", weight, least=0)
        if not callable(triplet):
            raise ValueError(f"triplet must be a loss of features and labels, got {triplet!r}")
        self.triplet, self.mined_on, self.smoothing, self.weight = triplet, mined_on, smoothing, weight
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        if weights is not None and (weights.ndim != 1 or not bool((weights >= 0).all())):
            raise ValueError(f"class_weights must be one number of at least 0 for each identity, got {class_weights}")
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, output: Scored, labels: Tensor) -> Objective:
        if output.logits is None:
            raise ValueError("output has no logits: the network must be in training and have a classifier")
        mined = output.feature if self.mined_on == "feature" else output.embedding
        identity = _mean([self._cross_entropy(logits, labels) for logits in _parts(output.logits)])
        triplet = _mean([self.triplet(vectors, labels) for vectors in _parts(mined)])
        return Objective(identity + self.weight * triplet, identity, triplet)

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        check_labels(labels, logits.shape[0])
        if logits.shape[0] == 0:
            raise ValueError("logits and labels are of 0 clips, wanted at least 1")
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise ValueError(f"class_weights are of {len(weights)} identities, and the logits of {logits.shape[1]}")
        return F.cross_entropy(
            logits.float(),
            labels,
            weight=None if weights is None else weights.to(logits.device),
            label_smoothing=self.smoothing,
        )

    def extra_repr(self) -> str:
        return f"mined_on={self.mined_on!r}, smoothing={self.smoothing}, weight={self.weight}"


def _parts(values: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """Several tensors as they are; one of three axes, (n, parts, k), by its parts."""
    if not isinstance(values, Tensor):
        return values
    return [values] if values.ndim == 2 else values.unbind(1)


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).mean()


def strf_loss(*, mined_on: str = "embedding", smoothing: float = 0.0) -> ReIDLoss:
    """The loss of STRF: cosine triplets with a margin of 0.3 on the embedding.

    Source: the poster of STRF names cross-entropy and batch-hard cosine triplets. The margin and where they are mined
    are those of AP3D, on which its baselines build.
    """
    return ReIDLoss(BatchHardTriplet("cosine", 0.3), mined_on=mined_on, smoothing=smoothing)


def nvan_loss(*, mined_on: str = "feature", smoothing: float = 0.0) -> ReIDLoss:
    """The loss of NVAN's published code: Euclidean triplets with a soft margin on the feature before the BN neck."""
    return ReIDLoss(BatchHardTriplet("euclidean", None), mined_on=mined_on, smoothing=smoothing)
