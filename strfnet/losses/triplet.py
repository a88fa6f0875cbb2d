"""Batch-hard triplet loss: every anchor with its farthest positive and its nearest negative."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.system.names import check_number

DISTANCES = ("euclidean", "cosine")


class BatchHardTriplet(nn.Module):
    """The mean over anchors of the margin by which the hardest positive is farther than the hardest negative.

    ``max(0, d_pos - d_neg + margin)``, or ``log(1 + exp(d_pos - d_neg))`` with a soft margin. Pairs are mined
    without gradient; only the distances of mined pairs have one. No step depends on a value, so a GPU is not waited
    for, and ``torch.compile`` makes one graph of it.

    An anchor without a positive is its own positive, at distance zero, and counts. A batch without negatives (one
    identity, one feature, or none) has a loss of exactly zero, with zero gradients. Of equally hard
    pairs the first in the batch is used.

    Args:
        distance: "euclidean", or "cosine": 1 - cos.
        margin: of the hinge; None for the soft margin.

    Shape: features (n, d) and labels (n,) of whole numbers to a scalar, computed in float32 or higher precision.
    Raises: ValueError for features or labels of another shape or kind.
    Source: Hermans et al., In Defense of the Triplet Loss, 2017, arXiv:1703.07737. NVAN uses "euclidean" with a soft
    margin on the feature before the BN neck, AP3D and STRF "cosine" with a margin of 0.3 on the embedding after it.
    """

    def __init__(self, distance: str = "cosine", margin: float | None = 0.3) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, got {distance!r}")
        check_number("margin", margin, least=0, none="the soft margin")
        self.distance, self.margin = distance, margin

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        losses = self.per_anchor(features, labels)
        return losses.mean() if len(losses) else losses.sum()

    def per_anchor(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss of every anchor, (n,)."""
        _check(features, labels)
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        if not len(labels):
            return features.sum(dim=1)
        same = labels[:, None] == labels
        with torch.no_grad():
            distances = _all_distances(features, self.distance, double=has_float64(features.device.type))
            positive = distances.masked_fill(~same, -torch.inf).argmax(dim=1)  # itself only without others
            negative = distances.masked_fill(same, torch.inf).argmin(dim=1)
        farthest, nearest = self._between(features, (positive, negative))
        gap = farthest.masked_fill(same.sum(dim=1) == 1, 0) - nearest
        losses = F.softplus(gap) if self.margin is None else (gap + self.margin).relu()
        return losses.masked_fill(same.all(dim=1), 0)

    def _between(self, features: Tensor, several: Sequence[Tensor]) -> list[Tensor]:
        """The distances of the features to those in other rows; ``vector_norm`` has gradient zero at zero."""
        if self.distance == "euclidean":
            return [torch.linalg.vector_norm(features - features.index_select(0, rows), dim=1) for rows in several]
        # eps inside the root keeps the gradient of zeros finite
        inverse = (torch.linalg.vector_norm(features, dim=1).square() + 1e-12).rsqrt()
        products = [(features * features.index_select(0, rows)).sum(dim=1) for rows in several]
        return [
            1 - dot * inverse * inverse.index_select(0, rows) for dot, rows in zip(products, several, strict=True)
        ]

    def extra_repr(self) -> str:
        return f"{self.distance!r}, margin={self.margin}"


def has_float64(device_type: str) -> bool:
    """Whether devices of this type compute in float64; Apple's do not."""
    return device_type != "mps"


def _all_distances(features: Tensor, distance: str, *, double: bool) -> Tensor:
    """Distances of all pairs (n, n), squared if Euclidean, because mining needs only their order.

    In float64, after subtraction of the mean, a matrix product is precise enough and much faster than differences.
    Without ``double`` Euclidean ones are differences, which float32 needs.
    """
    if distance == "cosine":
        vectors = features.double() if double else features
        lengths = torch.linalg.vector_norm(vectors, dim=1).clamp(min=torch.finfo(vectors.dtype).tiny)
        return (1 - _gram(vectors) / lengths[:, None] / lengths).clamp_(min=0).to(features.dtype)
    if not double:
        return _differences(features)
    vectors = (features - features.mean(dim=0)).double()
    squares = torch.linalg.vector_norm(vectors, dim=1).square()
    return (squares[:, None] + squares - 2 * _gram(vectors)).clamp_(min=0).to(features.dtype)


def _differences(vectors: Tensor, size: int = 16) -> Tensor:
    """The squared distances of all rows, in blocks that bound the memory."""
    return torch.cat([(block[:, None] - vectors).square().sum(dim=2) for block in vectors.split(size)])


def _gram(vectors: Tensor, size: int = 32) -> Tensor:
    """The inner products of all rows; those below the diagonal are copied, which saves nearly half."""
    products = vectors.new_empty(len(vectors), len(vectors))
    for start in range(0, len(vectors), size):
        rows = slice(start, start + size)
        products[rows, start:] = vectors[rows] @ vectors[start:].T
        products[start + size :, rows] = products[rows, start + size :].T
    return products


def _check(features: Tensor, labels: Tensor) -> None:
    if not isinstance(features, Tensor):
        raise ValueError(f"features must be a tensor (n, d), got {type(features).__name__}")
    if features.ndim != 2 or not features.is_floating_point() or features.layout != torch.strided:
        layout = "" if features.layout == torch.strided else f" in the layout {features.layout}"
        raise ValueError(f"features must be (n, d) of floats, got {features.dtype} {tuple(features.shape)}{layout}")
    check_labels(labels, features.shape[0])
    if labels.device != features.device:
        raise ValueError(f"labels are on {labels.device} and features on {features.device}, wanted one device")


def check_labels(labels: Tensor, count: int) -> None:
    """Raises: ValueError unless labels are a tensor of ``count`` whole numbers."""
    if not isinstance(labels, Tensor):
        wanted = f"a tensor ({count},) of whole numbers, one a feature"
        raise ValueError(f"labels must be {wanted}, got {type(labels).__name__}: torch.tensor(labels)")
    if labels.ndim != 1 or labels.shape[0] != count or labels.is_floating_point() or labels.dtype == torch.bool:
        wanted = f"({count},) of whole numbers, one a feature"
        raise ValueError(f"labels must be {wanted}, got {labels.dtype} {tuple(labels.shape)}")
