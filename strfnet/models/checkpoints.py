"""Networks and their weights in one file: of strfnet, which rebuilds the network, or of published code."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.models.network import ReIDNetwork
from strfnet.models.registry import create_model
from strfnet.models.resnet import DEPTHS
from strfnet.system.files import write_atomically
from strfnet.system.version import __version__
from strfnet.weights.file import check_finite, check_fit, listed, misfits, read_weights, write_file
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


def save(network: ReIDNetwork, path: str | Path, **facts: Any) -> None:
    """Write a network to one file atomically; `load` rebuilds it.

    The file is safetensors. Its metadata holds the name and classes for `create_model`, the version of strfnet, and a
    digest of all bytes. Frozen parameters and hooks are not saved.

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
        "num_classes": _classes(network),
        "strfnet": __version__,
        "origin": network.origin,
        "facts": facts,
    }
    write_file(Path(path), network.state_dict(), metadata)


def load(path: str | Path) -> ReIDNetwork:
    """The network that `save` has written, on the CPU and in training mode.

    Raises: ValueError naming the file and the reason, if it is damaged or was not written by `save`.
    """
    weights = read_weights(path)
    metadata = weights.metadata or {}
    if "model" not in metadata:
        raise ValueError(f"{path} was not written by strfnet.save; strfnet.load_official reads published files")
    network = _empty(metadata["model"], metadata["num_classes"])
    check_fit(weights.tensors, network.state_dict(), f"{path} does not fit {network.name} of strfnet {__version__}")
    check_finite(weights.tensors, path)
    network.origin = metadata["origin"]
    return _filled(network, weights.tensors)


def describe(path: str | Path) -> dict[str, Any]:
    """The metadata of a file of `save`: ``model``, ``num_classes``, ``strfnet`` (version), ``origin``, ``facts``.

    Raises: ValueError, as `load` does.
    """
    metadata = read_weights(path).metadata or {}
    if "model" not in metadata:
        raise ValueError(f"{path} was not written by strfnet.save and has no metadata")
    return metadata


def load_official(path: str | Path, name: str | None = None) -> ReIDNetwork:
    """A network with the weights of a published file: of STE-NVAN, AP3D, or an image ResNet.

    Family and depth follow from the names in the file, the number of classes from its classifier. The file of an
    image ResNet, of torchvision or timm, gives a "c2d" network, or the one named, whose units, temporal kernels and
    BN neck are then newly initialized.

    Args:
        path: of a file of ``torch.save`` or safetensors. No code in it is run.
        name: one of `strfnet.list_models`. It is needed where several networks have the same names and shapes: NVAN
            and its reductions; P3D-A, B and C.

    Raises: ValueError naming the file and the reason: it is damaged, holds no weights or weights that are not finite,
    does not fit, or needs a ``name`` (with the candidates).
    """
    weights = read_weights(path)
    if weights.metadata is not None:
        raise ValueError(f"{path} was written by strfnet.save, wanted a published file; strfnet.load reads it")
    official = recognise(weights, path)
    name = name or _only_candidate(official)
    image = official.family == IMAGE
    network = create_model(name, num_classes=official.classes) if image else _empty(name, official.classes)
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


def _empty(name: str, classes: int | None) -> ReIDNetwork:
    """A network on the meta device, built without drawing random numbers."""
    with torch.device("meta"):
        return create_model(name, num_classes=classes)


def _filled(network: ReIDNetwork, tensors: Mapping[str, Tensor]) -> ReIDNetwork:
    """The network with these tensors as its weights, in their own dtypes."""
    network.load_state_dict(tensors, assign=True)
    return network


def _only_candidate(official: Official) -> str:
    """The only network that a file fits. Raises: ValueError with the candidates, or with what does not fit."""
    if official.depth not in DEPTHS:
        raise ValueError(
            f"{official.source} ({official.family}) has the blocks of a {official.depth}, wanted {DEPTHS}"
        )
    wrong = {}
    for name in _forms(official):
        network = _empty(name, official.classes)
        wrong[name] = misfits(official.tensors, published_state(network, official.family))
    fitting = [name for name, differences in wrong.items() if not differences]
    if official.family == IMAGE or len(fitting) == 1:
        return next(iter(fitting or wrong))
    if fitting:
        raise ValueError(f"{official.source} ({official.family}) may be {', '.join(fitting)}: say which by its name")
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    what = f"is no network of {official.family} that is known"
    raise ValueError(f"{official.source} {what}; the nearest is {nearest}, but {listed(wrong[nearest])}")


def _forms(official: Official) -> list[str]:
    return [form.format(official.depth) for form in NETWORKS[official.family]]


def _classes(network: ReIDNetwork) -> int | None:
    return None if network.head.classifier is None else network.head.classifier.out_features


def _check_rebuilt(network: ReIDNetwork) -> None:
    """Raises: ValueError listing what differs from the network that `create_model` builds."""
    if not isinstance(network, ReIDNetwork) or network.name is None:
        raise ValueError(f"network is {type(network).__name__}, wanted one that strfnet.create_model has built")
    rebuilt = dict(_empty(network.name, _classes(network)).named_modules())
    here = dict(network.named_modules())
    wrong = [f"{path} is {'gone' if path in rebuilt else 'new'}" for path in rebuilt.keys() ^ here.keys()]
    for path in rebuilt.keys() & here.keys():
        ours, theirs = _made_of(here[path]), _made_of(rebuilt[path])
        wrong += [
            f"{path}.{key} is {ours[key]!r}, not {theirs.get(key)!r}" for key in ours if ours[key] != theirs.get(key)
        ]
    wrong += misfits(network.state_dict(), _empty(network.name, _classes(network)).state_dict())
    if wrong:
        raise ValueError(
            f"the network is not what strfnet.create_model({network.name!r}) builds: {listed(sorted(wrong))}"
        )


def _made_of(module: nn.Module) -> dict[str, Any]:
    """A module's class and settings, in which modules of equal parameters may differ."""
    settings = {
        key: value for key, value in vars(module).items() if isinstance(value, int | float | str | tuple | None)
    }
    left_out = ("training", "name")
    return {"class": type(module).__name__} | {
        key: value for key, value in settings.items() if key not in left_out and not key.startswith("_")
    }


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
