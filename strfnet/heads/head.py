"""From feature maps to an embedding and logits: pooling, batch-norm neck, identity classifier."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time

POOLINGS = ("mean", "max", "max_mean")


class ReIDOutput(NamedTuple):
    """What every network of `strfnet.create_model` returns, in training and in evaluation.

    Attributes:
        embedding: (b, d), the feature after the neck, by which tracklets are compared.
        feature: (b, d), the pooled feature before the neck.
        logits: (b, k), scores of the identities, in training; None in evaluation or without a classifier.
    """

    embedding: Tensor
    feature: Tensor
    logits: Tensor | None


class Head(nn.Module):
    """Feature maps pooled over the clip, a batch norm as a neck, and a classifier of identities.

    Args:
        channels: c of the maps.
        num_classes: identities to tell apart in training; None for no classifier.
        pooling: "mean" or "max" over frames and places; "max_mean": maximum over places, mean over frames.
        neck_bias: whether the neck's bias is trained; otherwise it stays zero.
        classifier_bias: whether the classifier has one.

    Shape: (b, c, t, h, w) to a `ReIDOutput` with (b, c), (b, c) and (b, num_classes).
    Source: neck of Luo et al., Bag of Tricks, CVPR Workshops 2019. NVAN pools by the mean and freezes the neck's
    bias; AP3D and STRF pool by "max_mean" and train it, both starting the classifier at N(0, 0.001).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int | None,
        *,
        pooling: str = "mean",
        neck_bias: bool = True,
        classifier_bias: bool = True,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, got {pooling!r}")
        if num_classes is not None and num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, or None for no classifier, got {num_classes}")
        self.channels, self.pooling = channels, pooling
        self.neck = nn.BatchNorm1d(channels)
        self.neck.bias.requires_grad_(neck_bias)
        self.classifier = None
        if num_classes is not None:
            self.classifier = nn.Linear(channels, num_classes, bias=classifier_bias)
            nn.init.normal_(self.classifier.weight, std=0.001)
            if classifier_bias:
                nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> ReIDOutput:
        check_clip(x, self.channels, weight=self.neck.weight)
        feature = self.pool(x)
        embedding = self.neck(feature)
        logits = self.classifier(embedding) if self.training and self.classifier is not None else None
        return ReIDOutput(embedding, feature, logits)

    def pool(self, x: Tensor) -> Tensor:
        """(b, c, t, h, w) to (b, c)."""
        if self.pooling == "mean":
            return x.mean(dim=(2, 3, 4))
        if self.pooling == "max":
            return x.amax(dim=(2, 3, 4))
        maxima = F.max_pool2d(flatten_time(x), x.shape[3:])  # ten times as fast as a reduction over two axes
        return unflatten_time(maxima, x.shape[2]).mean(dim=(2, 3, 4))

    def extra_repr(self) -> str:
        return f"{self.channels}, pooling={self.pooling!r}"
