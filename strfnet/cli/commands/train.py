"""`strfnet train`."""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from strfnet.cli.commands.inputs import read
from strfnet.cli.commands.output import note, say
from strfnet.cli.options.train import Train
from strfnet.data import DataSet, join_training, read_data_set
from strfnet.data.tracklet import check_labelled
from strfnet.evaluation import PROTOCOLS, check_matches, evaluate_protocols
from strfnet.inference import Embedder
from strfnet.losses import nvan_loss, strf_loss
from strfnet.models import LoadedNetwork, Preprocessing, find_network
from strfnet.training import Recipe, identity_labels, sized, train
from strfnet.weights.file import CHECKPOINTS, WALKERS
from strfnet.weights.store import CheckpointStore


def run(call: Train) -> None:
    data_set = read(call.recipe)
    if call.recipe.more_data:
        others = [entry.split(":", 1) for entry in call.recipe.more_data]
        data_set = join_training(
            data_set, [read_data_set(format, path, complete=call.recipe.complete) for format, path in others]
        )
    check_labelled(data_set.train or data_set.test, "training")
    recipe, found, lines = start(call, data_set)
    make_loss = {"strf": strf_loss, "nvan": nvan_loss}[recipe.loss]
    mined = {} if recipe.mined_on is None else {"mined_on": recipe.mined_on}
    objective = make_loss(smoothing=recipe.smoothing, **mined)
    protocol = PROTOCOLS[recipe.protocol]
    preprocessing = Preprocessing().updated(vars(recipe))

    def evaluate(network: torch.nn.Module) -> dict[str, float]:
        embedder = Embedder(
            network, recipe.model, preprocessing, recipe.batch, recipe.workers, max_pixels=recipe.max_pixels
        )
        (result,) = evaluate_protocols(embedder.embed, data_set, [protocol])
        ranks = {f"R{k}": float(result.cmc[k - 1]) for k in (1, 5, 10) if k <= len(result.cmc)}
        return {"mAP": result.mean_average_precision, **ranks}

    evaluated = True
    try:
        check_matches(data_set, protocol)
    except ValueError as error:
        evaluated = False
        lines.append(f"the run is not evaluated: {error}")
    for line in lines:
        note(f"strfnet: {line}")
    outcome = train(
        found.network,
        objective,
        data_set.train,
        recipe,
        call.out,
        evaluate=evaluate if evaluated else None,
        data_changed=call.data_changed,
    )
    say(f"{outcome}\n{protocol.name}: {protocol.about}" if evaluated else f"{outcome}")


def start(call: Train, data_set: DataSet) -> tuple[Recipe, LoadedNetwork, list[str]]:
    """The complete recipe of a run, and the network that it starts from.

    Fields that the call does not give are those of the run that it resumes. A new run takes model and size of frames
    from its weights, and sizes batches, epochs and evaluations to the data (see `strfnet.training.sized`).

    Returns: both, and lines that say what was chosen or left out.
    Raises: ValueError for weights that cannot be read or do not fit.
    """
    labels, recipe = identity_labels(data_set.train), _with_weights_apart(call.recipe)
    classes = max(labels) + 1
    earlier = CheckpointStore(call.out / CHECKPOINTS).load_newest()
    if earlier is not None:
        before = Recipe.from_json(earlier.metadata["recipe"])
        given = {name: value for name, value in vars(recipe).items() if name not in call.unsaid}
        kept = {name: getattr(before, name) for name in call.unsaid if name != "batch"}
        recipe = Recipe.of(given | kept | {"options": recipe.options or before.options})
        found = _network(recipe, recipe.model, classes)  # its weights are in the checkpoint
        return replace(recipe, options=_options(found)), found, []
    weights, model = recipe.start_from, recipe.model
    if weights is not None and str(weights) != WALKERS and not weights.exists():
        wanted = f"a weights file, the folder of a run, {WALKERS}, or torchvision's such as IMAGENET1K_V1"
        raise ValueError(f"weights are {str(weights)!r}, wanted {wanted}")
    if weights is not None and "model" in call.unsaid:
        named = find_network(WALKERS if str(weights) == WALKERS else weights)
        model, recipe = named.name, replace(recipe, options=recipe.options or _options(named))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        found = _network(recipe, model, classes, recipe.weights, weights)
    derived: dict[str, Any] = {"model": model, **vars(found.preprocessing)}
    recipe = replace(recipe, **{name: value for name, value in derived.items() if name in call.unsaid})
    recipe, chosen = sized(
        replace(recipe, options=_options(found)), call.unsaid, labels, pretrained=weights is not None
    )
    lines = [f"starting from {found.weights}", *(str(one.message) for one in caught), chosen]
    return recipe, found, [line for line in lines if line]


def _network(
    recipe: Recipe, model: str, classes: int, backbone: str | None = None, weights: Path | None = None
) -> LoadedNetwork:
    torch.manual_seed(recipe.seed)
    return find_network(model, weights=weights, num_classes=classes, backbone=backbone, options=recipe.options)


def _options(found: LoadedNetwork) -> dict[str, Any] | None:
    """The options of a network that differ from its defaults."""
    return getattr(found.network, "options", None) or None


def _with_weights_apart(recipe: Recipe) -> Recipe:
    """The recipe with weights of a whole network as ``start_from``, and ``weights`` only those of torchvision.

    Raises: ValueError for both.
    """
    weights = recipe.weights
    if weights is None or re.fullmatch(r"(\w+_Weights\.)?[A-Z0-9_]+", weights):
        return recipe
    if recipe.start_from is not None:
        raise ValueError(f"weights are {weights!r} and start_from is {recipe.start_from}, wanted one of the two")
    return replace(recipe, weights=None, start_from=Path(weights))
