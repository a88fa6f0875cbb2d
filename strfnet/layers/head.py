"""From feature maps to an embedding and logits: pooling, BN neck, identity classifier."""

from typing import Literal, NamedTuple, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.system.names import check_choice

Pooling = Literal["mean", "max", "max_mean"]


class ReIDOutput(NamedTuple):
    """Output of every network of `strfnet.create_model`, in training and in evaluation.

    Attributes:
        embedding: (b, d), the feature behind the BN neck, by which tracklets are compared.
        feature: (b, d), the pooled feature before the neck.
        logits: (b, k), scores of the identities, in training; None in evaluation or without a classifier.
    """

    embedding: Tensor
    feature: Tensor
    logits: Tensor | None


class Head(nn.Module):
    """Pooling over the clip, a batch norm as BN neck, and a linear classifier of identities.

    Args:
        channels: number of channels of the maps, c.
        num_classes: number of training identities. None: no classifier.
        pooling: "mean" or "max" over frames and pixels; "max_mean": maximum over pixels, mean over frames.
        neck_bias: train the neck's bias; otherwise it stays zero.
        classifier_bias: whether the classifier has a bias.

    Shape: (b, c, t, h, w) -> `ReIDOutput` of (b, c), (b, c) and (b, num_classes).
    Source: BN neck, Luo et al., Bag of Tricks, CVPR Workshops 2019, arXiv:1903.07071. NVAN pools by the mean and
    freezes the neck's bias; AP3D and STRF pool by "max_mean" and train it. Both start the classifier at N(0, 0.001).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int | None,
        *,
        pooling: Pooling = "mean",
        neck_bias: bool = True,
        classifier_bias: bool = True,
    ) -> None:
        super().__init__()
        check_choice("pooling", pooling, get_args(Pooling))
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
        check_clip(x, self.channels)
        feature = self.pool(x)
        embedding = self.neck(feature)
        logits = self.classifier(embedding) if self.training and self.classifier is not None else None
        return ReIDOutput(embedding, feature, logits)

    def pool(self, x: Tensor) -> Tensor:
        """Pools (b, c, t, h, w) to (b, c)."""
        if self.pooling == "mean":
            return x.mean(dim=(2, 3, 4))
        if self.pooling == "max":
            return x.amax(dim=(2, 3, 4))
        maxima = F.max_pool2d(flatten_time(x), x.shape[3:])  # ten times as fast as a reduction over two axes
        return unflatten_time(maxima, x.shape[2]).mean(dim=(2, 3, 4))

    def extra_repr(self) -> str:
        return f"{self.channels}, pooling={self.pooling!r}"
