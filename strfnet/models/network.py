"""A backbone on clips followed by a head."""

from typing import Any

from torch import Tensor, nn

from strfnet.layers.head import Head, ReIDOutput


class ReIDNetwork(nn.Module):
    """Computes embeddings of clips.

    Args:
        backbone: maps clips to feature maps, (b, c, t, h, w).
        head: maps feature maps to an embedding and logits.

    Attributes:
        name: the name for `strfnet.create_model`; None for a network built otherwise.
        options: the options for `strfnet.create_model` that differ from the defaults of the name.
        origin: metadata of the published file that its weights were read from, for `strfnet.save_official`; or None.

    Shape: (b, 3, t, h, w) to a `ReIDOutput`.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.name: str | None = None
        self.options: dict[str, Any] = {}
        self.origin: dict[str, Any] | None = None

    def forward(self, clip: Tensor) -> ReIDOutput:
        return self.head(self.backbone(clip))
