"""From feature maps to an embedding and logits: pooling, BN neck, identity classifiers."""

from typing import NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from strfnet.layers.clip import bands_of, check_clip
from strfnet.layers.pooling import Pooler, Pooling, make_pooler
from strfnet.system.names import check_choice, check_count, check_flags


class ReIDOutput(NamedTuple):
    """Output of every network of `strfnet.create_model`, in training and in evaluation.

    Attributes:
        embedding: (b, d), the feature behind the BN neck, by which tracklets are compared.
        feature: (b, d), the pooled feature before the neck.
        logits: (b, k), scores of the identities, or (b, stripes, k) of a head with stripes, in training; None in
            evaluation or without a classifier.
    """

    embedding: Tensor
    feature: Tensor
    logits: Tensor | None


class Head(nn.Module):
    """Pooling over the clip, a batch norm as BN neck, and a linear classifier of identities.

    Args:
        channels: number of channels of the maps, c.
        num_classes: number of training identities, k. None: no classifier.
        pooling: "mean" or "max" over frames and pixels; "max_mean": maximum over pixels, mean over frames; "gem":
            `GeM`; "attention": `FrameAttention`; or a callable or module from (b, c, t, h, w) to (b, c), which takes
            ``lengths`` as a keyword where clips are ragged.
        stripes: pools this many horizontal stripes of the maps apart, each with a classifier of its own. Row r of h
            belongs to stripe ``r * stripes // h``. The features of the stripes, from the top, follow each other in
            the embedding. None: the whole maps.
        neck_bias: train the neck's bias; otherwise it stays zero.
        classifier_bias: whether the classifier has a bias.

    Shape: (b, c, t, h, w) -> `ReIDOutput` of (b, d), (b, d) and (b, k); d is c, or ``stripes`` times c, with logits
    (b, stripes, k).
    Raises: ValueError for an unknown pooling, less than one stripe or class, more stripes than rows, or a callable
    that returns another shape.
    Source: BN neck, Luo et al., Bag of Tricks, CVPR Workshops 2019, arXiv:1903.07071; stripes, PCB, Sun et al., ECCV
    2018, arXiv:1711.09349, without its reduction of channels. NVAN pools by the mean and freezes the neck's bias;
    AP3D and STRF pool by "max_mean" and train it. All start the classifier at N(0, 0.001).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int | None,
        *,
        pooling: Pooling | Pooler = "mean",
        stripes: int | None = None,
        neck_bias: bool = True,
        classifier_bias: bool = True,
    ) -> None:
        super().__init__()
        if isinstance(pooling, str) or not callable(pooling):
            check_choice("pooling", pooling, get_args(Pooling))
        check_count("channels", channels)
        check_count("num_classes", num_classes, none="no classifier")
        check_count("stripes", stripes, none="the whole maps")
        check_flags(neck_bias=neck_bias, classifier_bias=classifier_bias)
        self.channels, self.stripes = channels, stripes
        self.pooling = pooling if isinstance(pooling, str) else getattr(pooling, "__name__", type(pooling).__name__)
        self.pooler = make_pooler(pooling, channels) if isinstance(pooling, str) else pooling
        self.neck = nn.BatchNorm1d(channels * (stripes or 1))
        self.neck.bias.requires_grad_(neck_bias)
        self.classifier: nn.Linear | StripeClassifiers | None = None
        if num_classes is not None and stripes is None:
            self.classifier = _classifier(channels, num_classes, classifier_bias)
        elif num_classes is not None:
            self.classifier = StripeClassifiers(
                _classifier(channels, num_classes, classifier_bias) for _ in range(stripes or 1)
            )

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> ReIDOutput:
        check_clip(x, self.channels)
        if self.neck.training and isinstance(self.neck, nn.BatchNorm1d) and x.shape[0] == 1:
            raise ValueError("x is one clip, and the BN neck in training needs the spread of at least 2")
        feature = self.pool(x, lengths)
        embedding = self.neck(feature)
        logits = self.classifier(embedding) if self.training and self.classifier is not None else None
        return ReIDOutput(embedding, feature, logits)

    def pool(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Pools (b, c, t, h, w) to (b, d), over the frames that exist."""
        bands = [x] if self.stripes is None else bands_of(x, self.stripes)
        options = {} if lengths is None else {"lengths": lengths}
        pooled = [self.pooler(band, **options) for band in bands]
        for vectors in pooled:
            if self.pooling not in get_args(Pooling) and getattr(vectors, "shape", None) != x.shape[:2]:
                got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
                raise ValueError(f"pooling {self.pooling} must return {tuple(x.shape[:2])}, got {got}")
        return pooled[0] if self.stripes is None else torch.cat(pooled, dim=1)

    def extra_repr(self) -> str:
        stripes = "" if self.stripes is None else f", stripes={self.stripes}"
        return f"{self.channels}, pooling={self.pooling!r}{stripes}"


class StripeClassifiers(nn.ModuleList):
    """A classifier for each stripe: (b, stripes c) -> (b, stripes, k)."""

    @property
    def out_features(self) -> int:
        """The number of identities, k."""
        return cast(nn.Linear, self[0]).out_features

    def forward(self, embedding: Tensor) -> Tensor:
        parts = embedding.unflatten(1, (len(self), -1)).unbind(1)
        return torch.stack([classify(part) for classify, part in zip(self, parts, strict=True)], dim=1)


def _classifier(channels: int, num_classes: int, bias: bool) -> nn.Linear:
    classifier = nn.Linear(channels, num_classes, bias=bias)
    nn.init.normal_(classifier.weight, std=0.001)
    if bias:
        nn.init.zeros_(classifier.bias)
    return classifier
