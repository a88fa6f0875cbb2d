"""A backbone on clips and a head, under one roof."""

from torch import Tensor, nn

from strfnet.heads import Head, ReIDOutput


class ReIDNetwork(nn.Module):
    """Clips to embeddings.

    Args:
        backbone: from clips to feature maps, itself on clips.
        head: from those to an embedding and logits.

    Shape: (b, 3, t, h, w) to a `ReIDOutput`.
    """

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, clip: Tensor) -> ReIDOutput:
        return self.head(self.backbone(clip))
