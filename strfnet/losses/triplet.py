"""Batch-hard triplet loss: every anchor against its farthest positive and its nearest negative."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.distances import cosine_distances, euclidean_distances

DISTANCES = {"euclidean": euclidean_distances, "cosine": cosine_distances}


class BatchHardTriplet(nn.Module):
    """The mean over anchors of how much farther the hardest positive lies than the hardest negative.

    ``max(0, d_pos - d_neg + margin)``, or ``log(1 + exp(d_pos - d_neg))`` with a soft margin. Pairs are mined
    without a graph, and only the distances of mined pairs are formed with one.

    One answer for odd batches: an anchor without a positive is its own, at distance zero, and counts; a batch
    in which no anchor has a negative (one identity, one feature, none) has a loss of exactly zero, with
    gradients of zero. Of equally hard pairs the first in the batch is taken.

    Args:
        distance: "euclidean", or "cosine": 1 - cos.
        margin: of the hinge, or None for the soft margin.

    Shape: features (n, d) and labels (n,) of whole numbers to a scalar; computed in float32 at least.
    Raises: ValueError for features or labels of another shape or kind.
    Source: Hermans et al., In Defense of the Triplet Loss, 2017; NVAN takes "euclidean" with a soft margin on
    the feature before the neck, AP3D and STRF "cosine" with a margin of 0.3 on the embedding behind it.
    """

    def __init__(self, distance: str = "cosine", margin: float | None = 0.3) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
        if margin is not None and not margin >= 0:
            raise ValueError(f"margin must be at least 0, or None for the soft margin, got {margin}")
        self.distance, self.margin = distance, margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        losses = self.per_anchor(features, labels)
        return losses.mean() if len(losses) else losses.sum()

    def per_anchor(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of every anchor, (n,)."""
        _check(features, labels)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        same = labels[:, None] == labels
        lonely = same.sum(dim=1) == 1
        if not len(labels) or bool(same.all()):
            return features.sum(dim=1) * 0
        with torch.no_grad():
            distances = DISTANCES[self.distance](features, features)
            positive = distances.masked_fill(~same, -torch.inf).argmax(dim=1)  # itself only if no other is apart
            negative = distances.masked_fill(same, torch.inf).argmin(dim=1)
        farthest = self._between(features, features[positive]).masked_fill(lonely, 0)
        gap = farthest - self._between(features, features[negative])
        return F.softplus(gap) if self.margin is None else (gap + self.margin).relu()

    def _between(self, features: Tensor, others: Tensor) -> Tensor:
        """The distance of each feature from the other in its row; eps inside the roots keeps gradients finite."""
        if self.distance == "cosine":
            return 1 - (_unit(features) * _unit(others)).sum(dim=1)
        return ((features - others).square().sum(dim=1) + 1e-12).sqrt()

    def extra_repr(self) -> str:
        return f"{self.distance!r}, margin={self.margin}"


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-12).sqrt()


def _check(features: Tensor, labels: Tensor) -> None:
    if features.ndim != 2 or not features.is_floating_point():
        raise ValueError(f"features must be (n, d) of floats, got {features.dtype} {tuple(features.shape)}")
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        wanted = f"({len(features)},) of whole numbers, one a feature"
        raise ValueError(f"labels must be {wanted}, got {labels.dtype} {tuple(labels.shape)}")
    if labels.device != features.device:
        raise ValueError(f"labels are on {labels.device} and features on {features.device}, wanted one device")
