"""Networks and their weights as one file: ours, which rebuilds them, and those of published code."""

import io
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.layers.clip import channels_last
from strfnet.models.network import ReIDNetwork
from strfnet.models.registry import create_model
from strfnet.models.resnet import DEPTHS
from strfnet.system.files import write_whole
from strfnet.version import __version__
from strfnet.weights.file import check_finite, listed, misfits, read_file, write_file
from strfnet.weights.published import (
    AP3D,
    FORMS,
    IMAGE,
    PREFIX,
    Official,
    family_of,
    own_state,
    published_state,
    recognise,
)


def save(network: ReIDNetwork, path: str | Path, **facts: Any) -> None:
    """Write a network into one file, from which `load` rebuilds it; whole or not at all.

    The file is safetensors with a description in its metadata: the name and classes by which `create_model` builds
    the network, the version of strfnet, and a digest of every bit. Frozen parameters and hooks are not kept.

    Args:
        network: one of `create_model`, whatever its weights are now.
        path: of the file; one that is there is replaced.
        facts: what else is to be known, such as ``trained_on="MARS"``; anything that JSON can hold. By ``height``,
            ``width`` and ``interpolation`` the command line shows frames to the network if it is told no others.

    Raises: ValueError if weights are NaN or infinite, or if ``create_model`` builds another network by that name,
    naming what differs; a file at ``path`` is as it was then.
    """
    _check_rebuilt(network)
    description = {
        "model": network.name,
        "num_classes": _classes(network),
        "strfnet": __version__,
        "origin": network.origin,
        "facts": facts,
    }
    write_file(Path(path), network.state_dict(), description)


def load(path: str | Path) -> ReIDNetwork:
    """The network that `save` has written, on the CPU and in training mode, as `create_model` gives one.

    Raises: ValueError naming the file and the reason, if a bit of it has changed or it is not one of ours.
    """
    weights = read_file(Path(path))
    if weights.description is None:
        raise ValueError(f"{path} was not written by strfnet.save; strfnet.load_official reads published files")
    told = weights.description
    network = _empty(told["model"], told["num_classes"])
    if wrong := misfits(weights.tensors, network.state_dict()):
        raise ValueError(f"{path} does not fit {told['model']} of strfnet {__version__}: {listed(wrong)}")
    check_finite(weights.tensors, path)
    network.origin = told["origin"]
    return _filled(network, weights.tensors)


def describe(path: str | Path) -> dict[str, Any]:
    """What a file of ours says of itself: ``model``, ``num_classes``, ``strfnet`` (version), ``origin``, ``facts``.

    Raises: ValueError, as `load` does.
    """
    description = read_file(Path(path)).description
    if description is None:
        raise ValueError(f"{path} was not written by strfnet.save and has no description")
    return description


def load_official(path: str | Path, name: str | None = None) -> ReIDNetwork:
    """A network with the weights of a published file: STE-NVAN's, AP3D's, or an image ResNet's.

    The family and the depth are known by the names in the file, and the number of classes by its classifier. An
    image file, of torchvision or timm, makes a "c2d" network, or any other whose units, temporal kernels and neck
    then start as new.

    Args:
        path: of a file of ``torch.save`` or safetensors; nothing in it is run.
        name: one of `strfnet.list_models`, needed where several have the same names and shapes: NVAN and its
            reductions; P3D-A, B and C.

    Raises: ValueError naming the file and the reason: damaged, not weights, not finite, all that does not fit, or
    the candidates where ``name`` is needed.
    """
    weights = read_file(Path(path))
    if weights.description is not None:
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
    """Write a network as published code does, with ``torch.save``; whole or not at all.

    A network that `load_official` has read is written as its file was: the same names and shapes, under the same
    wrappers, with the same numbers beside.

    Args:
        network: of a form that the published code has.
        path: of the file.
        family: "STE-NVAN", "AP3D", or "image" for the image ResNet alone; None for that of the file that the
            network comes from, or of its own papers.

    Raises: ValueError for a form that the published code does not have, for weights that are not finite, or for
    a neck that is no longer new in a network that would be written as an image file, which has none.
    """
    origin = network.origin or {}
    chosen = family or origin.get("family") or family_of(network)
    if chosen not in FORMS:
        raise ValueError(f"family must be one of {', '.join(FORMS)}, got {family!r}")
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
    write_whole(Path(path), buffer.getvalue())


def _empty(name: str, classes: int | None) -> ReIDNetwork:
    """A network without memory for its weights, and without a random number drawn."""
    with torch.device("meta"):
        return create_model(name, num_classes=classes)


def _filled(network: ReIDNetwork, tensors: Mapping[str, Tensor]) -> ReIDNetwork:
    """The network with these very tensors, in the dtypes that they have."""
    network.load_state_dict(tensors, assign=True)
    channels_last(network)
    return network


def _only_candidate(official: Official) -> str:
    """The one network that a file fits. Raises: ValueError with the candidates, or with what does not fit."""
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
    return [form.format(official.depth) for form in FORMS[official.family]]


def _classes(network: ReIDNetwork) -> int | None:
    return None if network.head.classifier is None else network.head.classifier.out_features


def _check_rebuilt(network: ReIDNetwork) -> None:
    """Raises: ValueError naming what is not as `create_model` builds it."""
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
    """A module's class and settings, by which two of the same parameters may differ."""
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
        raise ValueError("the neck is not new, and an image file has none; name another family")
    if written + len(neck.state_dict()) != len(network.state_dict()):
        raise ValueError(f"{network.name} holds more than an image network; name another family")


def _as_json(value: Any) -> Any:
    return [value.dtype.str, value.item()] if isinstance(value, np.generic) else value


def _from_json(value: Any) -> Any:
    return np.dtype(value[0]).type(value[1]) if isinstance(value, list) else value
