"""Networks by name."""

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from strfnet.models.network import ReIDNetwork
from strfnet.models.nvan import frame_pooling_resnet, nvan_resnet
from strfnet.models.resnet import DEPTHS
from strfnet.models.strf import temporal_resnet
from strfnet.weights.file import find_file
from strfnet.weights.published import fill

ARCHITECTURES: dict[str, Callable[..., ReIDNetwork]] = {
    "c2d_{}": partial(temporal_resnet, temporal="c2d"),
    "strf_c2d_{}": partial(temporal_resnet, temporal="c2d", strf=True),
    "c2d_nl_{}": partial(temporal_resnet, temporal="c2d", non_local=True),
    "i3d_{}": partial(temporal_resnet, temporal="i3d"),
    "strf_i3d_{}": partial(temporal_resnet, temporal="i3d", strf=True),
    "p3da_{}": partial(temporal_resnet, temporal="p3d_a"),
    "strf_p3da_{}": partial(temporal_resnet, temporal="p3d_a", strf=True),
    "p3db_{}": partial(temporal_resnet, temporal="p3d_b"),
    "strf_p3db_{}": partial(temporal_resnet, temporal="p3d_b", strf=True),
    "p3dc_{}": partial(temporal_resnet, temporal="p3d_c"),
    "strf_p3dc_{}": partial(temporal_resnet, temporal="p3d_c", strf=True),
    "ap3d_{}": partial(temporal_resnet, temporal="ap3d_p3d_c"),
    "ap3d_nl_{}": partial(temporal_resnet, temporal="ap3d_p3d_c", non_local=True),
    "{}_fpl": frame_pooling_resnet,
    "{}_maxfpl": partial(frame_pooling_resnet, pooling="max"),
    "nvan_{}": nvan_resnet,
    "nvan_spatial_{}": partial(nvan_resnet, striped=True),
    "nvan_temporal_{}": partial(nvan_resnet, merge_frames=True),
    "ste_nvan_{}": partial(nvan_resnet, striped=True, window=2, merge_frames=True),
}


def create_model(
    name: str, *, num_classes: int | None = 625, weights: Any = None, pretrained: str | Path | None = None
) -> ReIDNetwork:
    """Builds a network of the two papers, or of their baselines, by name.

    Its kernels are contiguous, so every saver takes its state dict; feature maps are in channels-last order.

    Args:
        name: one of `list_models`, e.g. "strf_p3dc_resnet50" or "ste_nvan_resnet50".
        num_classes: identities of the classifier; None for no classifier. Default: 625, those of MARS.
        weights: of the 2-D backbone, as torchvision takes them, e.g. "IMAGENET1K_V2"; None initialises at random.
        pretrained: weights of the whole network: the folder of a training run (its newest checkpoint), a file of
            `strfnet.save`, a published one of its family (see `strfnet.load_official`), or the file of a 2-D ResNet,
            which fills the 2-D backbone alone. A classifier for
            another number of classes is not loaded: a warning says so, and it is initialised at random. Everything
            else must fit. "walkers" names the weights shipped with strfnet for "strf_c2d_resnet8", trained on
            synthetic walkers for examples and figures, and of no use on people.

    Shape: the network takes (b, 3, t, h, w) and returns a `strfnet.layers.head.ReIDOutput`.
    Raises: ValueError for an unknown name, with the nearest ones; for a file that cannot be read or does not fit.
    """
    if weights is not None and pretrained is not None:
        raise ValueError(f"weights are {weights!r} and pretrained is {str(pretrained)!r}, wanted one of the two")
    for architecture, build in ARCHITECTURES.items():
        for depth in DEPTHS:
            if architecture.format(depth) == name:
                network = build(depth, num_classes, weights)
                network.name = name
                if pretrained is not None:
                    fill(network, find_file(pretrained, name))
                return network
    near = difflib.get_close_matches(str(name), list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; strfnet.list_models() names them all"
    raise ValueError(f"there is no network {name!r}{hint}")


def list_models() -> list[str]:
    """Returns the names that `create_model` accepts: each architecture on ResNets of 8 to 152 layers."""
    return [architecture.format(depth) for depth in DEPTHS for architecture in ARCHITECTURES]
