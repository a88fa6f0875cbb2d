"""A backbone on clips followed by a head."""

from typing import Any

from torch import Tensor, nn

from strfnet.layers.clip import check_clip, in_channels_last
from strfnet.layers.head import Head, ReIDOutput


class ReIDNetwork(nn.Module):
    """Computes embeddings of clips. Feature maps are in channels-last order throughout the network.

    Args:
        backbone: maps clips to feature maps, (b, c, t, h, w).
        head: maps feature maps to an embedding and logits.

    Attributes:
        name: the name for `strfnet.create_model`; None for a network built otherwise.
        origin: metadata of the published file that its weights were read from, for `strfnet.save_official`; or None.

    Shape: (b, 3, t, h, w) to a `ReIDOutput`.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.name: str | None = None
        self.origin: dict[str, Any] | None = None

    def forward(self, clip: Tensor) -> ReIDOutput:
        check_clip(clip, name="clip")
        return self.head(self.backbone(in_channels_last(clip)))
