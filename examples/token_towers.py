"""DINOv2's and CLIP's visual towers for recipes, with a unit over time behind some of their blocks.

strfnet train --config examples/recipes/dinov2.yaml --out runs/dinov2    # small, on synthetic walkers; or clip.yaml
strfnet train --model examples.token_towers:clip --options '{"timm": {"pretrained": true}}' \
    --data people --format folder --out runs/clip

Run these lines in the folder that holds examples/. The towers are timm's (extra `timm`). The class tokens of a clip's
frames are averaged.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from timm import create_model
from torch import Tensor

import strfnet
from strfnet.layers import Head
from strfnet.models import ReIDNetwork

PLACES = ("blocks.3", "blocks.6", "blocks.9")


def dinov2(
    num_classes: int | None = None,
    unit: Any = "temporal_attention",
    places: Sequence[str] = PLACES,
    timm: Mapping[str, Any] | None = None,
) -> ReIDNetwork:
    """DINOv2-small for frames of 252 x 126 pixels. ``timm`` are further settings for timm's ``create_model``."""
    return build("vit_small_patch14_dinov2", num_classes, unit, places, {"img_size": (252, 126), **(timm or {})})


def clip(
    num_classes: int | None = None,
    unit: Any = "temporal_attention",
    places: Sequence[str] = PLACES,
    timm: Mapping[str, Any] | None = None,
) -> ReIDNetwork:
    """CLIP ViT-B/16 for frames of 256 x 128 pixels. ``timm`` are further settings for timm's ``create_model``."""
    return build("vit_base_patch16_clip_224", num_classes, unit, places, {"img_size": (256, 128), **(timm or {})})


def build(
    name: str, num_classes: int | None, unit: Any, places: Sequence[str], settings: Mapping[str, Any]
) -> ReIDNetwork:
    """Returns a tower of timm with a unit behind the blocks ``places``, or without one if ``unit`` is None."""
    tower: Any = create_model(name, num_classes=0, **settings)
    inflated = strfnet.inflate(tower, unit=unit, places=() if unit is None else places, output=as_maps)
    return ReIDNetwork(inflated, Head(tower.num_features, num_classes))


def as_maps(vectors: Tensor) -> Tensor:
    """Returns vectors (n, d) as maps of one pixel, (n, d, 1, 1)."""
    return vectors[:, :, None, None]
