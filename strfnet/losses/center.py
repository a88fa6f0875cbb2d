"""Centre loss: the distance of features to a trained centre of their identity."""

import torch
from torch import Tensor, nn

from strfnet.losses.triplet import check_labels
from strfnet.system.names import check_count


class CenterLoss(nn.Module):
    """Half the mean squared distance of features to the centre of their identity; the centres are trained.

    Args:
        num_classes: number of identities, k.
        channels: length of the features, d.

    Shape: features (n, d) and labels (n,) in 0..k - 1 to a scalar.
    Raises: ValueError for numbers below 1, or features of another length.
    Source: Wen et al., A Discriminative Feature Learning Approach, ECCV 2016. Ours: the centres follow their gradient
    in the optimizer that they are given to, and start at N(0, 1).
    """

    def __init__(self, num_classes: int, channels: int) -> None:
        super().__init__()
        check_count("num_classes", num_classes)
        check_count("channels", channels)
        self.centers = nn.Parameter(torch.randn(num_classes, channels))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        if features.ndim != 2 or features.shape[1] != self.centers.shape[1]:
            raise ValueError(f"features must be (n, {self.centers.shape[1]}), got {tuple(features.shape)}")
        check_labels(labels, features.shape[0])
        return (features - self.centers[labels]).square().sum(dim=1).mean() / 2

    def extra_repr(self) -> str:
        return f"{self.centers.shape[0]}, {self.centers.shape[1]}"
