"""What the commands with many arguments do: for each, a record of its arguments and a function of that."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strfnet.cli.configuration import WrongCall
from strfnet.cli.showing import Showing
from strfnet.inference.embedder import Embedder, Network, is_first, make_embedder
from strfnet.system.names import check_name
from strfnet.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from strfnet.data.tracklet import DataSet
    from strfnet.evaluation.evaluation import Evaluation as Judged
    from strfnet.evaluation.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class Training(Recipe):
    """A recipe, and where its run is kept.

    Args:
        out: folder of the run, made if it is not there; a run that was stopped in it goes on.
    """

    out: Path


@dataclass(frozen=True, kw_only=True)
class Evaluation(Network):
    """A network and the data set on which it is to be judged.

    Args:
        data: folder of the data set, or its CSV file.
        format: mars, duke, ls_vid, ilids, prid, folder or csv.
        split: which of the splits, where there are several.
        complete: whether a published data set must have its published counts.
        protocol: by which rankings are made and summed up; all prints every one that is meant for such data.
        clips: frames of a tracklet to look at, in place of the protocol's: a form and a number, such as
            restricted_first:8.
        rerank: judge distances re-ranked by k-reciprocal neighbours.
        out: JSON file to write the figures into.
    """

    data: Path
    format: str = "folder"
    split: int = 0
    complete: bool = True
    protocol: str = "all"
    clips: str | None = None
    rerank: bool = False
    out: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Embedding(Network):
    """A network and the tracklets that it is to embed.

    Args:
        data: folder of the tracklets; of a data set, the tracklets of the test.
        format: folder (of one tracklet a folder, no matter how deep), or that of a data set.
        split: which of the splits, where there are several.
        complete: whether a published data set must have its published counts.
        clips: frames of a tracklet to look at: a form and a number, such as all_frames:32.
        out: safetensors file to write; until it is whole, its parts are in OUT.parts, from where the same command
            goes on.
    """

    data: Path
    out: Path
    format: str = "folder"
    split: int = 0
    complete: bool = True
    clips: str = "restricted_first:8"


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """A network and the file for other programs that it is to become.

    Args:
        out: file to write; it ends in .onnx, or in .pt2 for the other formats.
        format: onnx; pt2, a program for torch.export.load; or package, machine code by a C++ compiler.
        trained: folder of a training run whose network is taken, as it was after the newest checkpoint.
        best: take the weights of the run's best evaluation instead.
        model: without a run: one of `strfnet models`.
        weights: without a run: a file with all its weights, of ours or of published code, or walkers, which come
            with strfnet.
        height: of the frames, in pixels; null as in the training, or 256 if that is not known.
        width: of the frames, in pixels; null as in the training, or 128.
        seed: of what starts at random.
    """

    out: Path
    format: str = "onnx"
    trained: Path | None = None
    best: bool = False
    model: str | None = None
    weights: Path | None = None
    height: int | None = None
    width: int | None = None
    seed: int = 0


def train(call: Training) -> None:
    """Train by a recipe, evaluate by its protocol, and print the last epoch's figures."""
    import torch

    from strfnet.data.readers.formats import FORMATS
    from strfnet.evaluation.protocols import PROTOCOLS
    from strfnet.losses.objective import nvan_loss, strf_loss
    from strfnet.models import create_model, list_models
    from strfnet.training.state import start_from
    from strfnet.training.trainer import identity_labels, train

    recipe = Recipe(**{field.name: getattr(call, field.name) for field in fields(Recipe)})
    with _wrong_call():
        recipe.check_names({"model": list_models(), "protocol": PROTOCOLS})
        recipe.check_device()
        if recipe.format is not None:
            check_name("format", recipe.format, FORMATS)
        if (recipe.data is None) != (recipe.format is None):
            wanted = "wanted both, or neither for drawn walkers"
            raise ValueError(f"data is {recipe.data} and format is {recipe.format}, {wanted}")
    data_set = _data_set(recipe)
    torch.manual_seed(recipe.seed)
    classes = max(identity_labels(data_set.train)) + 1
    network = create_model(recipe.model, num_classes=classes, weights=recipe.weights)
    if recipe.start_from is not None:
        start_from(network, recipe.start_from)
    make_loss = {"strf": strf_loss, "nvan": nvan_loss}[recipe.loss]
    mined = {} if recipe.mined_on is None else {"mined_on": recipe.mined_on}
    objective = make_loss(smoothing=recipe.smoothing, **mined)
    protocol = PROTOCOLS[recipe.protocol]

    def evaluate(network: "nn.Module") -> dict[str, float]:
        (result,) = _judged(Embedder.of_recipe(network, recipe), data_set, [protocol])
        shares = {f"R{k}": float(result.cmc[k - 1]) for k in (1, 5, 10) if k <= len(result.cmc)}
        return {"mAP": result.mean_average_precision, **shares}

    outcome = train(network, objective, data_set.train, recipe, call.out, evaluate=evaluate)
    _tell(f"{outcome}\n{protocol.name}: {protocol.about}")


def evaluate(call: Evaluation) -> None:
    """Print a network's figures under one protocol, or under all that are meant for such data."""
    from strfnet.data.readers.formats import FORMATS
    from strfnet.evaluation.evaluation import table
    from strfnet.evaluation.protocols import PROTOCOLS
    from strfnet.system.files import write_whole

    with _wrong_call():
        check_name("format", call.format, FORMATS)
        check_name("protocol", call.protocol, (*PROTOCOLS, "all"))
        clips = _clips(call.clips) if call.clips else None
    _check_file(call.out)
    data_set = _data_set(call)
    chosen = _protocols(call.protocol, data_set)
    results = _judged(_embedder(call), data_set, chosen, clips=clips, rerank=call.rerank, progress=is_first())
    _tell(table(results))
    if call.out is not None and is_first():
        told = [result.to_json() for result in results]
        write_whole(call.out, json.dumps(told, indent=1).encode())
        print(f"\nthe figures are in {call.out}")


def embed(call: Embedding) -> None:
    """Write one vector for every tracklet."""
    from strfnet.data.readers.folder import read_folder
    from strfnet.data.readers.formats import FORMATS

    with _wrong_call():
        check_name("format", call.format, FORMATS)
        clips = _clips(call.clips)
    _check_file(call.out)
    tracklets = read_folder(call.data) if call.format == "folder" else _data_set(call).test
    width = _embedder(call).embed_into(call.out, tracklets, clips, progress=is_first())
    _tell(f"{len(tracklets)} embeddings of {width} numbers are in {call.out}")


def show(call: Showing) -> None:
    """Write the pictures that are asked for."""
    from strfnet.cli.exhibition import Exhibition
    from strfnet.data.readers.formats import FORMATS
    from strfnet.evaluation.protocols import PROTOCOLS
    from strfnet.system.files import write_whole

    with _wrong_call():
        check_name("format", call.format, FORMATS)
        check_name("protocol", call.protocol, (*PROTOCOLS, "all"))
        clips = _clips(call.clips)
    for name in call.wanted:
        if call.file(name).parent.exists():  # else it is made when there is something to put into it
            _check_file(call.file(name))
    data_set = _data_set(call)
    protocols = _protocols(call.protocol, data_set)
    exhibition = Exhibition(call, _embedder(call), data_set, protocols, clips, progress=is_first())
    for name in call.wanted:
        made = exhibition.make(name)
        if is_first():
            call.file(name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(call.file(name), made)
            print(f"{name}: {call.file(name)}")


def export(call: Exporting) -> None:
    """Write a network as a file for other programs, and print its size, times and differences."""
    from strfnet.deployment.exporting import FORMATS, check_target, export

    asked = {field.name: getattr(call, field.name) for field in fields(call) if field.name not in ("out", "format")}
    with _wrong_call():
        check_name("format", call.format, FORMATS)
        network = Network(**asked, device="cpu")
    check_target(call.out, call.format)
    embedder = _embedder(network)
    print(export(embedder.network, call.out, call.format, size=embedder.size))


def _data_set(call: Recipe | Evaluation | Embedding | Showing) -> "DataSet":
    from strfnet.data.readers.formats import read_data_set
    from strfnet.data.synthetic import draw_set

    if call.data is None or call.format is None:
        print("no data are named: walkers are drawn", file=sys.stderr)
        return draw_set()
    return read_data_set(call.format, call.data, split=call.split, complete=call.complete)


def _embedder(call: Network) -> Embedder:
    from strfnet.models import list_models

    with _wrong_call():
        if call.model is not None:
            check_name("model", call.model, list_models())
    return make_embedder(call)


def _protocols(name: str, data_set: "DataSet") -> list["Protocol"]:
    """The protocol of that name; of "all", every one that is meant for such data and leaves a gallery.

    A line on stderr tells of those that leave none. Raises: ValueError if no protocol is left.
    """
    from strfnet.evaluation.evaluation import gallery_of
    from strfnet.evaluation.protocols import PROTOCOLS, protocols_of

    if name != "all":
        return [PROTOCOLS[name]]
    fitting = []
    for protocol in protocols_of(data_set):
        try:
            gallery_of(data_set, protocol)
        except ValueError as error:
            if is_first():
                print(f"{error}: it is left out", file=sys.stderr)
        else:
            fitting.append(protocol)
    if not fitting:
        raise ValueError(f"no protocol leaves a gallery of {data_set.name}")
    return fitting


def _judged(
    embedder: Embedder,
    data_set: "DataSet",
    protocols: Sequence["Protocol"],
    *,
    clips: tuple[str, int] | None = None,
    rerank: bool = False,
    progress: bool = False,
) -> list["Judged"]:
    """The evaluation of each protocol; tracklets are embedded once for each way of choosing their frames."""
    from strfnet.evaluation.evaluation import evaluate

    embeddings: dict[tuple[str, int], Tensor] = {}
    results = []
    for protocol in protocols:
        form = clips or (protocol.clips, protocol.frames)
        if form not in embeddings:
            embeddings[form] = embedder.embed(data_set.test, form, progress=progress)
        sampling = f"{form[0]} {form[1]}"
        results.append(evaluate(embeddings[form], data_set, protocol, sampling=sampling, reranked=rerank))
    return results


def _clips(text: str) -> tuple[str, int]:
    """A form and a number of frames from words such as "all_frames:32"."""
    from strfnet.data.sampling import TEST_CLIPS

    form, _, frames = text.partition(":")
    check_name("form of clips", form, TEST_CLIPS)
    if not frames.isdecimal() or int(frames) < 1:
        raise WrongCall(f"clips are {text!r}, wanted a form and its frames such as {form}:8")
    return form, int(frames)


def _check_file(path: Path | None) -> None:
    if path is not None and (not path.parent.is_dir() or path.is_dir()):
        raise ValueError(f"cannot write {path}, wanted a file in a folder that exists")


def _tell(text: str) -> None:
    """Print once, however many processes there are."""
    if is_first():
        print(text)


@contextmanager
def _wrong_call() -> Iterator[None]:
    """What is refused in here was wrong in the call, before anything was read."""
    try:
        yield
    except ValueError as error:
        raise WrongCall(str(error)) from error


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "train": (Training, train),
    "evaluate": (Evaluation, evaluate),
    "embed": (Embedding, embed),
    "show": (Showing, show),
    "export": (Exporting, export),
}
