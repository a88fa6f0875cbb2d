"""The commands: a function for each record of `strfnet.cli.options`, which calls public functions."""

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from strfnet.cli import options
from strfnet.data import DataSet, join_training, read_data_set
from strfnet.data.readers.folder import Layout
from strfnet.data.tracklet import check_labelled
from strfnet.evaluation import (
    PROTOCOLS,
    Evaluation,
    Protocol,
    check_matches,
    evaluate_protocols,
    mean_over_splits,
    protocols_of,
    table,
)
from strfnet.evaluation import evaluate as evaluate_embeddings
from strfnet.models import LoadedNetwork, Preprocessing, create_model, find_network, list_models
from strfnet.system.files import check_writable, write_atomically
from strfnet.system.progress import inform
from strfnet.training.distributed import process_rank

if TYPE_CHECKING:
    from strfnet.data import Box, Tracklet
    from strfnet.inference import Embedder
    from strfnet.training import Recipe


def models(call: options.Models) -> None:
    print("\n".join(list_models()))


def profile(call: options.Profile) -> None:
    from strfnet.profiler import profile

    with torch.device("meta"):  # shapes suffice
        network = create_model(call.model, **(call.options or {}))
    report = profile(network, tuple(call.clip))
    print(report.to_json() if call.json else report.table(depth=call.depth))


def convert(call: options.Convert) -> None:
    from strfnet.models import convert

    print(convert(call.source, call.target, name=call.name, options=call.options))


def crop(call: options.Crop) -> None:
    from strfnet.data import crop_video

    boxes = _boxes(call.tracks, call.boxes)
    count = len({box.track for box in boxes})
    written = crop_video(
        call.video, boxes, call.out, camera=call.camera, cropping=call.cropping, quality=call.quality, progress=True
    )
    print(f"{len(written)} of {count} tracks are in {call.out / call.camera}, listed in {call.out / 'tracklets.csv'}")


def check(call: options.Check) -> None:
    from strfnet.data import check_data, write_listing

    if call.write_listing is not None:
        check_writable(call.write_listing)
    data_set, findings = check_data(
        call.format,
        call.data,
        allow=call.allow,
        workers=call.workers,
        progress=True,
        split=call.split,
        complete=False,
    )
    for finding in findings:
        print(f"{finding.kind}: {finding.text}")
    if call.write_listing is not None and data_set is not None:
        left_out = {row for finding in findings for row in finding.rows}
        count = write_listing(call.write_listing, data_set, without=left_out)
        print(f"{count} tracklets without a finding are listed in {call.write_listing}")
    if findings:
        counts = Counter(finding.kind for finding in findings)
        raise ValueError(f"{call.data} has {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
    print(f"nothing is wrong with {call.data}")


def train(call: options.Train) -> None:
    from strfnet.cli.training import start
    from strfnet.inference import Embedder
    from strfnet.losses import nvan_loss, strf_loss
    from strfnet.training import train

    data_set = _read(call.recipe)
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
        _note(line)
    outcome = train(
        found.network,
        objective,
        data_set.train,
        recipe,
        call.out,
        evaluate=evaluate if evaluated else None,
        data_changed=call.data_changed,
    )
    _print(f"{outcome}\n{protocol.name}: {protocol.about}" if evaluated else f"{outcome}")


def evaluate(call: options.Evaluate) -> None:
    clips = options.clip_sampler(call.clips) if call.clips else None
    if call.out is not None:
        check_writable(call.out)
    results = _evaluate_files(call, call.embeddings) if call.embeddings else _evaluate_network(call, clips)
    if process_rank():  # another process prints
        return
    print(table(results))
    if call.out is not None:
        write_atomically(call.out, json.dumps([result.to_json() for result in results], indent=1).encode())
        print(f"\nmetrics written to {call.out}")


def _evaluate_network(call: options.Evaluate, clips: tuple[str, int] | None) -> list[Evaluation]:
    splits = _read_splits(call.data_set)
    protocols = _protocols(call.protocol, next(iter(splits.values())))
    one_each = "{split}" in str(call.network.trained)  # a network for each split
    parts = []
    for group in [{split: data_set} for split, data_set in splits.items()] if one_each else [splits]:
        embedder, found = _load(_of_split(call.network, *group) if one_each else call.network, call.inference)
        _check_not_trained_on(found, call.data_set, group)
        parts.append(
            evaluate_protocols(embedder.embed, list(group.values()), protocols, clips=clips, rerank=call.rerank)
        )
    return [mean_over_splits(of_protocol) for of_protocol in zip(*parts, strict=True)]


def _evaluate_files(call: options.Evaluate, files: list[Path]) -> list[Evaluation]:
    """The metrics of files of embeddings, under the protocols whose distance their vectors keep."""
    from strfnet.inference import load_embeddings
    from strfnet.training.sharing import join_processes

    join_processes("cpu")
    loaded = load_embeddings(*files)
    if call.data_set.data is None:
        data_set = loaded.test_set()
        _note(data_set.summary)
        check_labelled(data_set.test, "an evaluation")
        splits = [(data_set, loaded.vectors)]
    else:
        data_sets = _read_splits(call.data_set).values()
        splits = [(data_set, loaded.vectors[loaded.rows_of(data_set.test)]) for data_set in data_sets]
    sampling = loaded.facts["clips"].replace(":", " ") if "clips" in loaded.facts else None
    results = []
    for protocol in _protocols(call.protocol, splits[0][0]):
        if loaded.facts.get("metric") == "cosine" != protocol.distance:
            unfit = f"protocol {protocol.name} compares Euclidean distances, but {files[0]} holds vectors of length 1"
            if call.protocol != "all":
                raise ValueError(f"{unfit}: embed with --metric euclidean")
            _note(f"{unfit} (embed with --metric euclidean): it is skipped")
            continue
        parts = [
            evaluate_embeddings(vectors, data_set, protocol, sampling=sampling, reranked=call.rerank)
            for data_set, vectors in splits
        ]
        results.append(mean_over_splits(parts))
    return results


def embed(call: options.Embed) -> None:
    check_writable(call.out)
    data_set = _tracklets(call)
    embedder, _ = _load(call.network, call.inference)
    clips = options.clip_sampler(call.clips)
    width = embedder.embed_into(call.out, data_set.test, clips, metric=call.metric, data_set=data_set)
    _print(f"{len(data_set.test)} embeddings of {width} numbers are in {call.out}")


def search(call: options.Search) -> None:
    from strfnet.cli.searching import find_query, inputs_of, listed
    from strfnet.inference import check_query, open_gallery, search_gallery

    if call.picture is not None:
        check_writable(call.picture)
    gallery, query = open_gallery(call.gallery), find_query(call)
    sought: int | torch.Tensor
    if isinstance(query, int):
        sought = query
    else:
        network, inference, sampler = inputs_of(call, gallery)
        clips = options.clip_sampler(sampler)
        embedder, _ = _load(network, inference)
        check_query(gallery, embedder.facts(clips, gallery.metric))
        sought = embedder.embed([query], clips)[0]
    hits = search_gallery(gallery, sought, call.search, camera=call.camera)
    if not hits:
        plain = replace(call.search, top=1, expand=0, rerank=0, threshold=None)
        nearest = search_gallery(gallery, sought, plain, camera=call.camera)
        reason = "the gallery has no such tracklet"
        if nearest:
            reason = f"the nearest is at {nearest[0].distance:.4f}, above the threshold {call.search.threshold}"
        (inform if call.json else print)(f"no match: {reason}")
    else:
        print(listed(hits, as_json=call.json))
    if call.picture is not None:
        from strfnet.visualization import draw_search, png

        shown = gallery.tracklets[query] if isinstance(query, int) else query
        found = [(hit.distance, hit.tracklet) for hit in hits]
        title, most = f"{call.query} in {call.gallery}", call.inference.max_pixels
        write_atomically(call.picture, png(draw_search(shown, found, title=title, max_pixels=most)))
        inform(f"picture: {call.picture}")


def index(call: options.Index) -> None:
    from strfnet.inference import add_to_index

    gallery = add_to_index(call.out, *call.embeddings, faiss=call.faiss, recall=call.recall)
    count, width = gallery.vectors.shape
    print(f"{count} embeddings of {width} numbers are in {call.out}")
    if gallery.approximate is not None:
        found = gallery.approximate
        recall = f"recall of the 10 nearest against exact search: {gallery.recall():.4f}"
        print(f"faiss searches {found.probes} of {found.lists} lists; {recall}")


def show(call: options.Show) -> None:
    from strfnet.cli.show import RANKED, Figures

    for name in call.figures:
        if call.file(name).parent.exists():  # otherwise it is made for the first figure
            check_writable(call.file(name))
    data_set = _read(call.data_set)
    rows = len(data_set.test)
    for name, row in (("row", call.row), ("other", call.other)):
        if row is not None and not 0 <= row < rows:
            raise ValueError(f"{name} is {row}, wanted one of {rows} test tracklets of {data_set.name}, from 0")
    if not rows and call.figures != ["curve"]:
        raise ValueError(f"{data_set.name} has no test tracklets to show")
    embedder, found = _load(call.network, call.inference)
    if RANKED & {*call.figures} or ("match" in call.figures and call.other is None):
        check_labelled(data_set.test, "a ranking")
        protocols = _protocols(call.protocol, data_set)
    else:
        protocols = [PROTOCOLS[call.protocol]] if call.protocol != "all" else list(protocols_of(data_set))
    figures = Figures(call, embedder, found, data_set, protocols)
    for name in call.figures:
        content = figures.draw(name)
        if process_rank() == 0:
            call.file(name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(call.file(name), content)
            print(f"{name}: {call.file(name)}")


def export(call: options.Export) -> None:
    from strfnet.deployment.exporting import check_target, export

    check_target(call.out, call.format)
    embedder, _ = _load(call.network, options.Inference(device="cpu"))
    clips, size = options.clip_sampler(call.clips), embedder.preprocessing.size
    exported = export(
        embedder.network,
        call.out,
        call.format,
        size=size,
        lengths=call.lengths,
        clips=clips,
        distance=call.distance,
    )
    print(exported)


def _boxes(files: list[Path], settings: options.Boxes) -> "list[Box]":
    from strfnet.data import read_tracks

    boxes = read_tracks(files, first_frame=settings.first_frame, units=settings.units)
    tracks, frames = len({box.track for box in boxes}), len({box.frame for box in boxes})
    inform(f"{len(boxes)} boxes of {tracks} tracks in {frames} frames")
    return boxes


def _tracklets(call: options.Embed) -> DataSet:
    """The tracklets to embed, as the test set of a data set."""
    from strfnet.data import evaluation_sampler, read_folder, read_video
    from strfnet.data.readers.folder import test_set

    data = call.data_set
    if call.video is not None and call.tracks is not None:
        sampler, frames = options.clip_sampler(call.clips)
        name = f"video {call.video.name}"
        tracklets: Sequence[Tracklet] = read_video(
            call.video,
            _boxes(call.tracks, call.boxes),
            camera=call.camera,
            cropping=call.cropping,
            clips=evaluation_sampler(sampler, frames=frames),
            progress=True,
        )
    elif data.format == "folder" and call.subset is None:
        name, tracklets = f"folder {Path(str(data.data)).name}", read_folder(str(data.data), layout=data.layout)
    else:
        data_set = _read(data)
        if call.subset != "train":
            return data_set
        name, tracklets = f"training of {data_set.name}", data_set.train
    found = test_set(name, tracklets)
    _note(found.summary)
    return found


def _load(call: options.Network, inference: options.Inference) -> tuple["Embedder", LoadedNetwork]:
    """The network on its device, ready to embed, and what is known of it."""
    from strfnet.inference import Embedder
    from strfnet.layers import choose_attention
    from strfnet.training.sharing import join_processes

    device = join_processes(inference.device)
    torch.manual_seed(call.seed)
    found = find_network(call.trained or str(call.model), weights=call.weights, best=call.best, options=call.options)
    if not found.trained and process_rank() == 0:
        inform(f"{found.name} has {found.weights} and is not trained for re-identification")
    preprocessing = found.preprocessing.updated({**vars(call), **vars(inference)})
    network, progress = found.network.to(device), process_rank() == 0
    choose_attention(network)
    batch, workers, optimize = inference.batch, inference.workers, inference.optimize
    precision, ragged = inference.precision, inference.ragged
    settings = (preprocessing, batch, workers, optimize, progress, precision, ragged, inference.max_pixels)
    return Embedder(network, found.name, *settings), found


def _read(call: "options.Data | Recipe", split: int | None = None) -> DataSet:
    if call.data is None or call.format is None:
        from strfnet.data.synthetic import draw_set

        inform("no data given: drawing synthetic walkers")
        data_set = draw_set()
    else:
        chosen = call.split if split is None else split
        number = 0 if chosen == "all" else chosen
        layout: Layout = call.layout if isinstance(call, options.Data) else "identity/camera/track"
        data_set = read_data_set(call.format, call.data, split=number, complete=call.complete, layout=layout)
    _note(data_set.summary)
    return data_set


def _read_splits(data: options.Data) -> dict[int, DataSet]:
    """The data set of the split, or those of all splits."""
    first = _read(data)
    check_labelled(first.test, "an evaluation")
    if data.split != "all":
        return {data.split: first}
    return {0: first} | {split: _read(data, split) for split in range(1, first.splits)}


def _of_split(network: options.Network, split: int) -> options.Network:
    return replace(network, trained=Path(str(network.trained).replace("{split}", str(split))))


def _check_not_trained_on(found: LoadedNetwork, data: options.Data, splits: Mapping[int, DataSet]) -> None:
    """Raises: ValueError if the network was trained on another split, whose training identities these splits test."""
    trained = found.metadata.get("split", 0)
    several = any(data_set.splits > 1 for data_set in splits.values())
    if several and found.metadata.get("format") == data.format and set(splits) != {trained}:
        other = next(split for split in splits if split != trained)
        raise ValueError(
            f"{found.weights} was trained on split {trained} of {data.format}, and split {other} tests identities "
            "that it has seen; wanted a run for each split, such as --trained runs/ilids_{split}"
        )


def _protocols(name: str, data_set: DataSet) -> list[Protocol]:
    """The protocol of a name; for "all", those of the data set under which a query has a match.

    Raises: ValueError with the reason if none is left.
    """
    if name != "all":
        check_matches(data_set, PROTOCOLS[name])
        return [PROTOCOLS[name]]
    protocols, reasons = [], []
    for protocol in protocols_of(data_set):
        try:
            check_matches(data_set, protocol)
            protocols.append(protocol)
        except ValueError as error:
            reasons.append(str(error))
    if not protocols:
        raise ValueError(reasons[0])
    for reason in reasons if process_rank() == 0 else ():
        inform(f"{reason}: it is skipped")
    return protocols


def _note(text: str) -> None:
    """Writes a line to stderr, on the first process that torchrun has started, before the processes are joined."""
    if os.environ.get("RANK", "0") == "0":
        inform(f"strfnet: {text}")


def _print(text: str) -> None:
    """Prints on the first process only."""
    if process_rank() == 0:
        print(text)
