"""Entry points for ``torch.hub.load``, which gets this repository where strfnet is not installed."""

from typing import Any

from strfnet import create_model as _create_model
from strfnet import list_models

__all__ = ["list_models", "strfnet"]

dependencies = ["torch", "torchvision", "einops", "numpy", "safetensors"]


def strfnet(name: str = "strf_p3dc_resnet50", **options: Any) -> Any:
    """A network for video person re-identification by its name; see `strfnet.create_model`.

    Args:
        name: one of ``torch.hub.load(..., "list_models")``.
        options: ``num_classes``, ``weights`` or ``pretrained``, as `create_model` takes them.
    """
    return _create_model(name, **options)
