"""A backbone on clips followed by a head."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.random import fork_rng

from strfnet.inflation.ragged import refuse_lengths
from strfnet.layers.clip import check_clip, in_channels_last
from strfnet.layers.head import Head, ReIDOutput
from strfnet.system.references import is_reference
from strfnet.weights.rebuilt import differences


class ReIDNetwork(nn.Module):
    """Computes embeddings of clips. Feature maps are in channels-last order throughout the network.

    Clips of unequal lengths make one batch with ``network(clip, lengths)``, ``lengths`` (b,): only the first
    ``lengths[i]`` frames of clip i exist, the others may hold anything.

    Args:
        backbone: maps clips to feature maps, (b, c, t, h, w). For ragged clips it is called as
            ``backbone(clip, lengths=lengths, return_lengths=True)`` and returns maps and their lengths.
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

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier, which is the last linear layer of a module in its place; None without one."""
        layers = () if self.head.classifier is None else self.head.classifier.modules()
        rows = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)]
        return rows[-1] if rows else None

    def differences(self, options: Mapping[str, Any] | None = None) -> list[str]:
        """Returns what differs from the network that `strfnet.create_model` builds by the name and options.

        The options are its own by default.
        """
        from strfnet.models.registry import create_model  # which builds networks of this class

        if self.name is None:
            return ["it has no name"]
        with fork_rng([]), nullcontext() if is_reference(self.name) else torch.device("meta"):
            rebuilt = create_model(
                self.name, num_classes=self.num_classes, **(self.options if options is None else options)
            )
        return differences(self, rebuilt)

    def forward(self, clip: Tensor, lengths: Tensor | None = None) -> ReIDOutput:
        check_clip(clip, name="clip")
        if isinstance(clip, Proxy):
            clip, lengths = refuse_lengths(clip, lengths), None
        clip = in_channels_last(clip)
        if lengths is None:
            return self.head(self.backbone(clip))
        maps, lengths = self.backbone(clip, lengths=lengths, return_lengths=True)
        return self.head(maps, lengths)
