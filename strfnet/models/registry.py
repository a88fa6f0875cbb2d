"""Networks by name."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from strfnet.layers.temporal import I3D, P3DA, P3DB, P3DC
from strfnet.models.network import ReIDNetwork
from strfnet.models.nvan import frame_pooling_resnet, nvan_resnet, striped_nvan_resnet
from strfnet.models.resnet import DEPTHS
from strfnet.models.strf import ap3d_resnet, frame_resnet, strf_resnet, temporal_resnet
from strfnet.system.names import check_name
from strfnet.system.references import call, is_reference, keywords_of, reference_to, resolve
from strfnet.weights.file import find_file, read_weights
from strfnet.weights.published import fill

# By form: a builder from the depth, the number of classes and the weights; its keywords are the options of the form.
ARCHITECTURES: dict[str, Callable[..., ReIDNetwork]] = {
    "c2d_{}": frame_resnet,
    "strf_c2d_{}": strf_resnet,
    "c2d_nl_{}": partial(frame_resnet, non_local=None),
    "i3d_{}": partial(temporal_resnet, I3D, False),
    "strf_i3d_{}": partial(temporal_resnet, I3D, True),
    "i3d_nl_{}": partial(temporal_resnet, I3D, False, non_local=None),
    "p3da_{}": partial(temporal_resnet, P3DA, False),
    "strf_p3da_{}": partial(temporal_resnet, P3DA, True),
    "p3da_nl_{}": partial(temporal_resnet, P3DA, False, non_local=None),
    "p3db_{}": partial(temporal_resnet, P3DB, False),
    "strf_p3db_{}": partial(temporal_resnet, P3DB, True),
    "p3db_nl_{}": partial(temporal_resnet, P3DB, False, non_local=None),
    "p3dc_{}": partial(temporal_resnet, P3DC, False),
    "strf_p3dc_{}": partial(temporal_resnet, P3DC, True),
    "p3dc_nl_{}": partial(temporal_resnet, P3DC, False, non_local=None),
    "ap3d_{}": ap3d_resnet,
    "ap3d_nl_{}": partial(ap3d_resnet, non_local=None),
    "{}_fpl": frame_pooling_resnet,
    "{}_maxfpl": partial(frame_pooling_resnet, pooling="max"),
    "nvan_{}": partial(nvan_resnet, False),
    "nvan_spatial_{}": partial(striped_nvan_resnet, False),
    "nvan_temporal_{}": partial(nvan_resnet, True),
    "ste_nvan_{}": partial(striped_nvan_resnet, True, window=2),
}


def create_model(
    name: str | Callable[..., ReIDNetwork],
    *,
    num_classes: int | None = 625,
    weights: Any = None,
    pretrained: str | Path | None = None,
    **options: Any,
) -> ReIDNetwork:
    """Builds a network of the two papers, or of their baselines, by name.

    Its kernels are contiguous, so every saver takes its state dict; feature maps are in channels-last order.

    Args:
        name: one of `list_models`, e.g. "strf_p3dc_resnet50" or "ste_nvan_resnet50"; or a function of your own that
            returns a `ReIDNetwork`, or its "package.module:function". It is called with ``num_classes``, if it takes
            that, and with the options.
        num_classes: identities of the classifier; None for no classifier. Default: 625, those of MARS.
        weights: of the 2-D backbone, as torchvision takes them, e.g. "IMAGENET1K_V2"; None initialises at random.
        pretrained: weights of the whole network: the folder of a training run (its newest checkpoint), a file of
            `strfnet.save`, a published one of its family (see `strfnet.load_official`), or the file of a 2-D ResNet,
            which fills the 2-D backbone alone. A classifier for
            another number of classes is not loaded: a warning says so, and it is initialised at random. Everything
            else must fit. "walkers" names the weights shipped with strfnet for "strf_c2d_resnet8", trained on
            synthetic walkers for examples and figures, and of no use on people.
        options: settings of the published code other than its default, where the network has them (`options_of`):
            ``places``, ``non_local``, ``stripes``, ``window``, ``time_kernel``, ``time_stride``, ``time_dilation``,
            ``last_stride``, ``pooling``, ``host``, ``temperature``, ``gate``; see the page on networks.

    Shape: the network takes (b, 3, t, h, w) and returns a `strfnet.layers.head.ReIDOutput`.
    Raises: ValueError for an unknown name or option, with the nearest; for a file that cannot be read or does not
    fit, or was saved from a network of the name with other options (naming each).
    """
    if weights is not None and pretrained is not None:
        raise ValueError(f"weights are {weights!r} and pretrained is {str(pretrained)!r}, wanted one of the two")
    name = reference_to(name) if callable(name) else name
    known = options_of(name)
    for option in options:
        check_name(f"option of {name}", option, (*known, "num_classes", "weights", "pretrained"))
    options = {key: _listed(value) for key, value in options.items()}
    if is_reference(name):
        if weights is not None:
            raise ValueError(f"weights are {weights!r}, but {name} builds its backbone itself; wanted None")
        network = call(name, num_classes, options)
        if not isinstance(network, ReIDNetwork):
            raise ValueError(f"{name!r} returned {type(network).__name__}, wanted a strfnet.models.ReIDNetwork")
    else:
        build, depth = _builder(name)
        network = build(depth, num_classes, weights, **options)
    network.name = name
    network.options = {key: value for key, value in options.items() if value != _listed(known[key])}
    if pretrained is not None:
        file = find_file(pretrained, name)
        check_options(network, read_weights(file).metadata, file)
        fill(network, file)
    return network


def check_options(network: ReIDNetwork, metadata: Mapping[str, Any] | None, source: object) -> None:
    """Checks that a network has the options that its weights were saved with, where these make a difference.

    Args:
        network: of `create_model`.
        metadata: of a file of `strfnet.save` or a checkpoint of a run. Those of another model are not compared.
        source: the file, for the error.

    Raises: ValueError naming each option that differs, with both values.
    """
    saved = (metadata or {}).get("recipe", metadata) or {}
    if network.name is None or saved.get("model") != network.name:
        return
    stored, known = saved.get("options") or {}, options_of(network.name)
    values = {key: [_listed(one.get(key, known[key])) for one in (stored, network.options)] for key in known}
    unequal = {key: (kept, given) for key, (kept, given) in values.items() if kept != given}
    if unequal and network.differences(stored):
        each = ", ".join(f"{key} is {given!r}, but {kept!r} in the file" for key, (kept, given) in unequal.items())
        raise ValueError(f"{source} holds {network.name} with other options: {each}; wanted those of the file")


def options_of(name: str) -> dict[str, Any]:
    """Returns the options that `create_model` takes for a network, with their defaults.

    None stands for what the network's name implies. Raises: ValueError for an unknown name, with the nearest ones.
    """
    if is_reference(name):
        return {key: value for key, value in keywords_of(resolve(name)).items() if key != "num_classes"}
    parameters = inspect.signature(_builder(name)[0]).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def _builder(name: str) -> tuple[Callable[..., ReIDNetwork], str]:
    """The builder of a form, and the depth."""
    for architecture, build in ARCHITECTURES.items():
        for depth in DEPTHS:
            if architecture.format(depth) == name:
                return build, depth
    near = difflib.get_close_matches(str(name), list_models(), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else "; strfnet.list_models() names them all"
    raise ValueError(f"there is no network {name!r}{hint}")


def _listed(value: Any) -> Any:
    """A value as JSON holds it."""
    if isinstance(value, Mapping):
        return {key: _listed(one) for key, one in value.items()}
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str) else value


def list_models() -> list[str]:
    """Returns the names that `create_model` accepts: each architecture on ResNets of 8 to 152 layers."""
    return [architecture.format(depth) for depth in DEPTHS for architecture in ARCHITECTURES]
