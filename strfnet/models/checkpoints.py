"""Networks and their weights in one file: of strfnet, which rebuilds the network, or of published code."""

import io
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.models.network import ReIDNetwork
from strfnet.models.registry import create_model, options_of
from strfnet.models.resnet import DEPTHS
from strfnet.system.files import write_atomically
from strfnet.system.references import is_reference
from strfnet.system.version import __version__
from strfnet.weights.file import Weights, check_finite, check_fit, listed, misfits, read_weights, write_file
from strfnet.weights.published import (
    AP3D,
    IMAGE,
    NETWORKS,
    PREFIX,
    Official,
    family_of,
    own_state,
    published_state,
    recognise,
)

_OPTIONAL_DICT = (dict, type(None))
_KINDS: dict[str, tuple[type, ...]] = {  # of the metadata
    "model": (str,),
    "num_classes": (int, type(None)),
    "options": (dict,),
    "facts": _OPTIONAL_DICT,
    "origin": _OPTIONAL_DICT,
}


def save(network: ReIDNetwork, path: str | Path, **facts: Any) -> None:
    """Write a network to one file atomically; `load` rebuilds it.

    The file is safetensors. Its metadata holds the name, classes and options for `create_model`, the version of
    strfnet, and a digest of all bytes. Frozen parameters and hooks are not saved.

    Args:
        network: built by `create_model`, with any weights.
        path: of the file; an existing one is replaced.
        facts: further metadata that JSON can hold, such as ``trained_on="MARS"``. The command line reads ``height``,
            ``width`` and ``interpolation`` as the preprocessing of the network.

    Raises: ValueError if weights are NaN or infinite, or if ``create_model`` builds another network by that name
    (listing the differences). An existing file is kept then.
    """
    _check_rebuilt(network)
    metadata = {
        "model": network.name,
        "num_classes": network.num_classes,
        "strfnet": __version__,
        "origin": network.origin,
        "facts": facts,
    }
    if network.options:
        metadata["options"] = network.options
    write_file(Path(path), network.state_dict(), metadata)


def load(path: str | Path, model: str | Callable[..., ReIDNetwork] | None = None) -> ReIDNetwork:
    """The network that `save` has written, on the CPU and in training mode.

    Args:
        path: of the file.
        model: the function that builds the network, or its "package.module:function", if it is a network of your
            own. A file names its function, but does not make `load` import and call it.

    Raises: ValueError naming the file and the reason, if it is damaged or was not written by `save`, or if ``model``
    is missing or builds another network.
    """
    weights = read_weights(path)
    metadata = _checked(weights, path, "; strfnet.load_official reads published files")
    name, classes, options = metadata["model"], metadata.get("num_classes"), metadata["options"]
    if is_reference(name) and model is None:
        wanted = f"load(path, model={name!r}); on the command line --model {name} --weights {path}"
        raise ValueError(f"{path} holds a network that {name} builds, which is not called by itself; wanted {wanted}")
    own = None if model is None else create_model(model, num_classes=classes, **options)
    network = own or _named(path, name, classes, options)
    check_fit(weights.tensors, network.state_dict(), f"{path} does not fit {network.name} of strfnet {__version__}")
    check_finite(weights.tensors, path)
    network.origin = metadata.get("origin")
    return _filled(network, weights.tensors)


def describe(path: str | Path) -> dict[str, Any]:
    """The metadata of a file of `save`: ``model``, ``num_classes``, ``strfnet`` (version), ``origin``, ``facts``, and
    ``options`` of `strfnet.create_model` that are not the default.

    Raises: ValueError, as `load` does.
    """
    weights = read_weights(path)
    _checked(weights, path, " and has no metadata")
    return weights.metadata or {}


def load_official(path: str | Path, name: str | None = None, **options: Any) -> ReIDNetwork:
    """A network with the weights of a published file: of STE-NVAN, AP3D, or an image ResNet.

    Names and shapes in the file tell its family, the depth, the number of classes, the places of temporal
    convolutions and non-local blocks, the length of kernels in time, and the gate of AP3D. The file of an image
    ResNet, of torchvision or timm, gives a "c2d" network, or the one named, whose units, temporal kernels and BN neck
    are then newly initialized.

    Args:
        path: of a file of ``torch.save`` or safetensors. No code in it is run.
        name: one of `strfnet.list_models`. It is needed where several networks have the same names and shapes: NVAN
            and its reductions; P3D-A, B and C.
        options: of `strfnet.create_model`, for settings that leave no trace in a file, if they are not the default:
            ``stripes``, ``window``, ``last_stride``, ``time_stride``, ``time_dilation``, ``temperature`` and, of
            AP3D's modules on P3D, ``host``.

    Raises: ValueError naming the file and the reason: it is damaged, holds no weights or weights that are not finite,
    does not fit, or needs a ``name`` (with the candidates).
    """
    weights = read_weights(path)
    if weights.metadata is not None:
        raise ValueError(f"{path} was written by strfnet.save, wanted a published file; strfnet.load reads it")
    official = recognise(weights, path)
    name = name or _only_candidate(official, options)
    image = official.family == IMAGE
    network = (
        create_model(name, num_classes=official.classes, **options) if image else _fitted(name, official, options)
    )
    own = own_state(network, official)
    beside = None if weights.beside is None else {key: _as_json(value) for key, value in weights.beside.items()}
    if not image or name in _forms(official):
        network.origin = {"family": official.family, "prefix": official.prefix, "beside": beside}
    return _filled(network, network.state_dict() | own if image else own)


def save_official(network: ReIDNetwork, path: str | Path, *, family: str | None = None) -> None:
    """Write a network atomically in the format of published code, with ``torch.save``.

    A network that `load_official` has read is written as its file was: with the same names, shapes and wrappers, and
    the same numbers beside the weights.

    Args:
        network: one that the published code has too.
        path: of the file.
        family: "STE-NVAN", "AP3D", or "image" for the image ResNet alone. Default: the family of the file that the
            network was read from, else that of its paper.

    Raises: ValueError for a network that the published code does not have, weights that are not finite, or, for
    "image", a BN neck that was trained, because the file of an image ResNet has none.
    """
    origin = network.origin or {}
    chosen = family or origin.get("family") or family_of(network)
    if chosen not in NETWORKS:
        raise ValueError(f"family must be one of {', '.join(NETWORKS)}, got {family!r}")
    state = published_state(network, chosen)
    if chosen == IMAGE:
        _check_is_image(network, len(state))
    check_finite(state, "the network")
    same = origin.get("family") == chosen
    prefix = origin["prefix"] if same else PREFIX[chosen]
    beside = origin["beside"] if same else ({} if chosen == AP3D else None)
    tensors = OrderedDict((prefix + key, value.detach().cpu().contiguous()) for key, value in state.items())
    content = tensors if beside is None else {"state_dict": tensors} | {k: _from_json(v) for k, v in beside.items()}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(Path(path), buffer.getvalue())


def _checked(weights: Weights, path: str | Path, otherwise: str) -> dict[str, Any]:
    """The metadata of a file of `save`; its digest may be forged. Raises: ValueError for other kinds of values."""
    metadata: dict[str, Any] = {"options": {}, **(weights.metadata or {})}
    if "model" not in metadata:
        raise ValueError(f"{path} was not written by strfnet.save{otherwise}")
    for name, kinds in _KINDS.items():
        if type(metadata.get(name)) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{path} is forged: {name} of its metadata is {metadata.get(name)!r}, wanted {wanted}")
    return metadata


def _named(path: str | Path, name: str, classes: int | None, options: Mapping[str, Any]) -> ReIDNetwork:
    """An empty network by the name in a file. Raises: ValueError naming the file, if there is no such network."""
    try:
        return _empty(name, classes, options)
    except (ValueError, TypeError, RuntimeError, AttributeError) as error:  # of any layer, for forged options
        what = f"{name!r} with {classes} classes and the options {dict(options)}"
        raise ValueError(f"{path} holds a network that cannot be built, {what}: {error}") from error


def _empty(name: str, classes: int | None, options: Mapping[str, Any]) -> ReIDNetwork:
    """A network on the meta device, built without drawing random numbers."""
    with torch.device("meta"):
        return create_model(name, num_classes=classes, **options)


def _fitted(name: str, official: Official, options: Mapping[str, Any]) -> ReIDNetwork:
    """An empty network by that name, with those options of the file without which it does not fit."""
    network = _empty(name, official.classes, options)
    if not _differences(network, official):
        return network
    known = options_of(name)
    read = {key: value for key, value in official.options().items() if key in known and key not in options}
    try:
        fitting = _empty(name, official.classes, {**read, **options})
    except ValueError:  # of another depth
        return network
    if _differences(fitting, official):
        return network
    for option in list(read):
        fewer = {key: value for key, value in read.items() if key != option}
        network = _empty(name, official.classes, {**fewer, **options})
        if not _differences(network, official):
            read, fitting = fewer, network
    return fitting


def _differences(network: ReIDNetwork, official: Official) -> list[str]:
    try:
        return misfits(official.tensors, published_state(network, official.family))
    except ValueError as error:
        return [str(error)]


def _filled(network: ReIDNetwork, tensors: Mapping[str, Tensor]) -> ReIDNetwork:
    """The network with these tensors as its weights, in their own dtypes."""
    network.load_state_dict(tensors, assign=True)
    return network


def _only_candidate(official: Official, options: Mapping[str, Any]) -> str:
    """The only network that a file fits. Raises: ValueError with the candidates, or with what does not fit."""
    if official.depth not in DEPTHS:
        raise ValueError(
            f"{official.source} ({official.family}) has the blocks of a {official.depth}, wanted {DEPTHS}"
        )
    forms = _forms(official)
    takes = [name for name in forms if not options.keys() - options_of(name).keys()]
    if not takes:
        raise ValueError(f"{', '.join(options)} are not options of {', '.join(forms)}; say which by its name")
    wrong = {name: _differences(_fitted(name, official, options), official) for name in takes}
    fitting = [name for name, differences in wrong.items() if not differences]
    if official.family == IMAGE or len(fitting) == 1:
        return next(iter(fitting or wrong))
    if fitting:
        raise ValueError(f"{official.source} ({official.family}) may be {', '.join(fitting)}: say which by its name")
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    what = f"is no network of {official.family} that is known"
    raise ValueError(f"{official.source} {what}; the nearest is {nearest}, but {listed(wrong[nearest])}")


def _forms(official: Official) -> list[str]:
    """The names of the networks of its family; those of AP3D without, or with, non-local blocks, as the file has."""
    names = [form.format(official.depth) for form in NETWORKS[official.family]]
    attends = "non_local" in official.options()
    return names if official.family != AP3D else [name for name in names if ("_nl_" in name) == attends]


def _check_rebuilt(network: ReIDNetwork) -> None:
    """Raises: ValueError listing what differs from the network that `create_model` builds."""
    if not isinstance(network, ReIDNetwork) or network.name is None:
        raise ValueError(f"network is {type(network).__name__}, wanted one that strfnet.create_model has built")
    if wrong := network.differences():
        call = ", ".join([repr(network.name), *(f"{key}={value!r}" for key, value in network.options.items())])
        raise ValueError(f"the network is not what strfnet.create_model({call}) builds: {listed(wrong)}")


def _check_is_image(network: ReIDNetwork, written: int) -> None:
    neck = network.head.neck
    fresh = nn.BatchNorm1d(neck.num_features).to(neck.weight)
    if any(bool((value != fresh.state_dict()[key]).any()) for key, value in neck.state_dict().items()):
        raise ValueError("the BN neck was trained, and an image file has none; name another family")
    if written + len(neck.state_dict()) != len(network.state_dict()):
        raise ValueError(f"{network.name} holds more than an image ResNet; name another family")


def _as_json(value: Any) -> Any:
    return [value.dtype.str, value.item()] if isinstance(value, np.generic) else value


def _from_json(value: Any) -> Any:
    return np.dtype(value[0]).type(value[1]) if isinstance(value, list) else value
