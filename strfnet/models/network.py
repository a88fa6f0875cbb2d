"""A backbone on clips and a head, under one roof."""

from typing import Any

from torch import Tensor, nn

from strfnet.heads.head import Head, ReIDOutput


class ReIDNetwork(nn.Module):
    """Clips to embeddings.

    Args:
        backbone: from clips to feature maps, itself on clips.
        head: from those to an embedding and logits.

    Attributes:
        name: by which `strfnet.create_model` builds it; None for one that was built otherwise.
        origin: which published file its weights were read from, for `strfnet.save_official`; None for no such.

    Shape: (b, 3, t, h, w) to a `ReIDOutput`.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.name: str | None = None
        self.origin: dict[str, Any] | None = None

    def forward(self, clip: Tensor) -> ReIDOutput:
        return self.head(self.backbone(clip))
