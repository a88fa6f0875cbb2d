"""Conversion of weights between training runs, our files and published files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strfnet.models.checkpoints import load, load_official, save, save_official
from strfnet.models.network import ReIDNetwork
from strfnet.models.source import find_network
from strfnet.system.references import is_reference
from strfnet.weights.file import read_weights
from strfnet.weights.published import family_of

OURS = ".safetensors"
# Fields of a recipe that are known already, or valid on one machine.
LOCAL = ("model", "options", "data", "start_from", "workers", "device")


def convert(source: Path, target: Path, *, name: str | None = None, options: Mapping[str, Any] | None = None) -> str:
    """Converts a training run or a published file into a file of ours, or a file of ours into a published one.

    Args:
        source: a file that `load` or `load_official` reads, or the folder of a training run. Of a run, the newest
            checkpoint is taken without its classifier, whose classes are the identities of the training set; the
            recipe becomes the metadata of the file.
        target: the file to write. Its suffix is ".safetensors" if, and only if, it becomes one of ours.
        name: the model name, where several networks fit a published file (see `load_official`).
        options: of the network, for settings that a published file does not hold (see `load_official`).

    Returns: two lines: the network that was recognised, and the size of the written file.
    Raises: ValueError as those functions do, for a folder without a run, or for a ``target`` with another suffix.
    """
    run = source.is_dir()
    ours = not run and read_weights(source).metadata is not None
    if options and (run or ours):
        raise ValueError(f"options are {dict(options)}, but {source} remembers its own")
    if ours and target.suffix == OURS:
        raise ValueError(f"{source} is already a file of ours, wanted a target with another suffix, such as .pth")
    if not ours and target.suffix != OURS:
        raise ValueError(f"{target} becomes a file of ours, wanted the suffix {OURS}")
    metadata = {}
    if run:
        found = find_network(source)
        network = found.network
        metadata = {key: value for key, value in found.metadata.items() if key not in LOCAL}
    else:
        network = load(source) if ours else load_official(source, name, **(options or {}))
    if not isinstance(network, ReIDNetwork):
        wanted = "wanted a ReIDNetwork, which a file of strfnet can name"
        raise ValueError(f"{source} is the run of a network of the class {type(network).__name__}, {wanted}")
    if name not in (None, network.name):
        raise ValueError(f"{source} holds {network.name}, but name is {name!r}")
    if ours:
        save_official(network, target)
    else:
        save(network, target, **metadata)
    family = "own" if is_reference(network.name) else (network.origin or {}).get("family", family_of(network))
    classes = "no" if network.head.classifier is None else network.head.classifier.out_features
    count = sum(parameter.numel() for parameter in network.parameters())
    described = f"{network.name} ({family}), {classes} classes, {count / 1e6:.2f} M parameters"
    return f"recognised {described}\nwritten to {target}, {target.stat().st_size / 1e6:.1f} MB"
