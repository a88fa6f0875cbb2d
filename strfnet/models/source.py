"""A network and its preprocessing, from a training run, a weights file, a model name, ``walkers`` or a function."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from torch import Tensor, nn

from strfnet.data.choices import Interpolation
from strfnet.models.checkpoints import load, load_official
from strfnet.models.network import ReIDNetwork
from strfnet.models.registry import check_options, create_model, list_models
from strfnet.models.resnet import DEPTHS, cached_weights
from strfnet.system.names import check_choice, check_path, unknown
from strfnet.system.references import call, is_reference
from strfnet.weights.file import SHIPPED, WALKERS, Weights, check_fit, find_file, listed, misfits, read_weights
from strfnet.weights.published import fill

CLASSIFIER = "head.classifier."


class UnknownNetwork(ValueError):
    """A source that is no run, no file, no model name and no function."""

    exit_code = 2  # of the command line: a wrong call


@dataclass(frozen=True)
class Preprocessing:
    """How frames are resized for a network. Their normalization is always that of ImageNet.

    Args:
        height: height of a frame in pixels.
        width: width of a frame in pixels.
        interpolation: "bilinear" or "bicubic".
    """

    height: int = 256
    width: int = 128
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        for name, value in (("height", self.height), ("width", self.width)):
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of pixels of at least 1, got {value!r}")
        check_choice("interpolation", self.interpolation, get_args(Interpolation))

    @classmethod
    def recorded(cls, values: Mapping[str, Any] | None, source: object) -> "Preprocessing":
        """Returns that of a file's metadata. Raises: ValueError naming the file for a value that is none."""
        try:
            return cls().updated(values or {})
        except ValueError as error:
            raise ValueError(f"{source} records a preprocessing that is none: {error}") from error

    def updated(self, values: Mapping[str, Any]) -> "Preprocessing":
        """Returns a copy with other values, such as those of a recipe; None and other names are ignored."""
        names = [name for name in vars(self) if values.get(name) is not None]
        return replace(self, **{name: values[name] for name in names})

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


@dataclass(frozen=True)
class LoadedNetwork:
    """A network on the CPU, with what is known of it.

    Args:
        network: the network, in training mode.
        name: its model name, or the source that built it.
        preprocessing: from its training, where that is recorded; else the default.
        weights: where its weights come from, in words.
        trained: whether its weights are those of a re-identification network.
        metadata: the recipe of the run, or the metadata of the file; empty if there is none.
    """

    network: nn.Module
    name: str
    preprocessing: Preprocessing = Preprocessing()
    weights: str = "random weights"
    trained: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)


def find_network(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    best: bool = False,
    num_classes: int | None = None,
    backbone: str | None = "cached",
    options: Mapping[str, Any] | None = None,
) -> LoadedNetwork:
    """Returns the network that a source names, with its weights and its preprocessing.

    Args:
        source: one of

            - the folder of a run: its network at the newest checkpoint, a `ReIDNetwork` without its classifier;
            - a weights file of `strfnet.save`, or a published one that fits a single network;
            - a name of `strfnet.list_models`, with ``weights``, or else without trained weights;
            - "walkers": the network whose weights are shipped with strfnet;
            - "package.module:function": a function that returns a module; it may take ``num_classes``.

            A ``Path`` is always a folder or a file. The function that a run was trained by is imported and called.
        weights: weights for a model name or a function: a file (ours or published), the folder of a run, or
            "walkers".
        best: load the weights of a run's best evaluation instead of the newest.
        num_classes: classes of the classifier of a model name or a function; None for no classifier. A classifier of
            the weights for another number is left out, with a warning.
        backbone: weights of the 2-D backbone of a model name without ``weights``, by their torchvision name.
            "cached" takes those that torch.hub has downloaded before, if any; None starts at random.
        options: of a model name, see `strfnet.create_model`, or of a function. Default: those that ``weights`` were
            saved with, if they are of the same name.

    Raises: `UnknownNetwork` if ``source`` is nothing of these. ValueError naming the source and the reason if it
    cannot be loaded, or if ``weights``, ``best`` or ``num_classes`` do not apply to it.
    """
    check_path("source", source)
    if weights is not None:
        check_path("weights", weights)
    text, path = str(source), Path(source)
    named = not isinstance(source, Path)
    if best and not path.is_dir():
        raise ValueError(f"best is true, but {text} is not a training run: only a run has best weights")
    if named and text in list_models():
        options = _options_of(weights, text) if options is None else options
        return _from_name(text, weights, num_classes, backbone, options)
    if named and not path.exists() and is_reference(text):
        options = _options_of(weights, text) if options is None else options
        return _from_function(text, weights, num_classes, options)
    if options:
        raise ValueError(f"options are {options}, but {text} has options of its own")
    if weights is not None or num_classes is not None:
        raise ValueError(f"weights are {weights} and num_classes {num_classes}, but {text} has weights of its own")
    if path.is_dir():
        return _from_run(path, best)
    if path.is_file():
        return _from_file(path)
    if named and text == WALKERS:
        return _from_file(next(SHIPPED.glob(f"*_{WALKERS}.safetensors")))
    if not named:
        raise UnknownNetwork(f"{text} does not exist, wanted the folder of a training run or a weights file")
    wanted = f"a run, a weights file, {WALKERS!r} or package.module:function"
    raise UnknownNetwork(f"{unknown('model', text, list_models())}; wanted a model name, {wanted}")


def _options_of(weights: str | Path | None, name: str) -> Mapping[str, Any]:
    """The options of the network whose weights these are, if its name is the same."""
    if weights is None or str(weights) == WALKERS:
        return {}
    metadata = read_weights(weights).metadata or {}
    saved = metadata.get("recipe", metadata)
    return (saved.get("options") or {}) if saved.get("model") == name else {}


def _from_name(
    name: str,
    weights: str | Path | None,
    num_classes: int | None,
    backbone: str | None,
    options: Mapping[str, Any],
) -> LoadedNetwork:
    if weights is None:
        if backbone == "cached":
            backbone = cached_weights(next(depth for depth in DEPTHS if depth in name))
        network = create_model(name, num_classes=num_classes, weights=backbone, **options)
        words = f"torchvision's {backbone} in the 2-D backbone" if backbone else "random weights"
        return LoadedNetwork(network, name, weights=words)
    backbone = None if backbone == "cached" else backbone
    network = create_model(name, num_classes=num_classes, weights=backbone, **options)
    file = find_file(weights, name)
    found = read_weights(file)
    check_options(network, found.metadata, file)
    metadata = _facts(found)
    fill(network, file)
    shipped = str(weights) == WALKERS
    words = f"{WALKERS}, shipped with strfnet, trained on synthetic walkers" if shipped else str(weights)
    return LoadedNetwork(network, name, Preprocessing().updated(metadata), words, True, metadata)


def _from_run(run: Path, best: bool) -> LoadedNetwork:
    from strfnet.training.run_directory import read_run  # needs accelerate, which is optional

    recipe, tensors = read_run(run, best=best)
    if is_reference(recipe.model):
        classes = (read_weights(run, best=best).metadata or {}).get("classes")
        network = _from_function(recipe.model, None, classes, recipe.options).network
        if isinstance(network, ReIDNetwork):
            network.head.classifier = None
    else:
        try:
            network = create_model(recipe.model, num_classes=None, **(recipe.options or {}))
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(f"{run} is of a network that cannot be built: {error}") from error
    _load(network, tensors, run)
    metadata = recipe.to_json()
    words = f"the {'best' if best else 'newest'} checkpoint of the run {run}"
    return LoadedNetwork(network, recipe.model, Preprocessing.recorded(metadata, run), words, True, metadata)


def _from_file(path: Path) -> LoadedNetwork:
    metadata = read_weights(path).metadata
    network = load_official(path) if metadata is None else load(path)
    network.head.classifier = None
    metadata = (metadata or {}).get("facts") or {}
    preprocessing = Preprocessing.recorded(metadata, path)
    return LoadedNetwork(network, str(network.name), preprocessing, str(path), True, metadata)


def _from_function(
    source: str, weights: str | Path | None, num_classes: int | None, options: Mapping[str, Any] | None
) -> LoadedNetwork:
    network = call(source, num_classes, options or {})
    if not isinstance(network, nn.Module):
        raise ValueError(f"{source!r} returned {type(network).__name__}, wanted a torch.nn.Module")
    if isinstance(network, ReIDNetwork):
        network.name, network.options = source, dict(options or {})
    if weights is None:
        return LoadedNetwork(network, source, weights=f"as built by {source}", trained=True)
    found = read_weights(weights)
    _load(network, found.tensors, weights)
    metadata = _facts(found)
    return LoadedNetwork(network, source, Preprocessing.recorded(metadata, weights), str(weights), True, metadata)


def _facts(weights: Weights) -> Mapping[str, Any]:
    """The recipe of a run, or the metadata that a file was saved with."""
    metadata = weights.metadata or {}
    return metadata.get("recipe") or metadata.get("facts", {})


def _load(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Loads a state dict. A classifier that does not fit is left out, with a warning if the network has another."""
    wanted = network.state_dict()
    if isinstance(network, ReIDNetwork):
        given, own = ({key: state[key] for key in state if key.startswith(CLASSIFIER)} for state in (tensors, wanted))
        if wrong := misfits(given, own):
            if given and own:
                what = f"the classifier in {source} does not fit ({listed(wrong)})"
                warnings.warn(f"{what}: it is left out, and a new one is initialised at random", stacklevel=4)
            tensors = {key: value for key, value in tensors.items() if key not in given} | own
    check_fit(tensors, wanted, f"{source} does not fit {type(network).__name__}", dtypes=True)
    network.load_state_dict(tensors)
