"""The published names of our parameters, so that published code and its restatements take the same weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from strfnet.weights.published import published_name


def published(network: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values by parameter name, such as gradients, under published names."""
    return {published_name(network, key): value for key, value in values.items()}


def published_state(network: Any) -> dict[str, Tensor]:
    """The state dict of a network or of a `NonLocalBlock` under the published names; the values are not copied.

    Kernels keep our shapes, which differ from the published ones by axes of length one.
    """
    return published(network, network.state_dict())
