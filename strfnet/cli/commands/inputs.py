"""What several commands read: data set, network, boxes and protocols."""

from pathlib import Path

import torch

from strfnet.cli.commands.output import is_first, note
from strfnet.cli.options.groups import Boxes, Data, Inference, Network
from strfnet.data import Box, DataSet, read_data_set, read_tracks
from strfnet.data.readers.folder import Layout
from strfnet.data.synthetic import draw_set
from strfnet.evaluation import PROTOCOLS, Protocol, check_matches, protocols_of
from strfnet.inference import Embedder
from strfnet.layers import choose_attention
from strfnet.models import LoadedNetwork, find_network
from strfnet.system.allocation import keep_freed_memory
from strfnet.training import Recipe
from strfnet.training.sharing import join_processes


def load(call: Network, inference: Inference) -> tuple[Embedder, LoadedNetwork]:
    """The network on its device, ready to embed, and what is known of it."""
    keep_freed_memory()
    device = join_processes(inference.device)
    torch.manual_seed(call.seed)
    found = find_network(call.trained or str(call.model), weights=call.weights, best=call.best, options=call.options)
    if not found.trained:
        note(f"{found.name} has {found.weights} and is not trained for re-identification")
    preprocessing = found.preprocessing.updated({**vars(call), **vars(inference)})
    network, progress = found.network.to(device), is_first()
    choose_attention(network)
    batch, workers, optimize = inference.batch, inference.workers, inference.optimize
    precision, ragged = inference.precision, inference.ragged
    settings = (preprocessing, batch, workers, optimize, progress, precision, ragged, inference.max_pixels)
    return Embedder(network, found.name, *settings), found


def read(call: Data | Recipe, split: int | None = None) -> DataSet:
    if call.data is None or call.format is None:
        note("no data given: drawing synthetic walkers")
        data_set = draw_set()
    else:
        chosen = call.split if split is None else split
        number = 0 if chosen == "all" else chosen
        layout: Layout = call.layout if isinstance(call, Data) else "identity/camera/track"
        data_set = read_data_set(call.format, call.data, split=number, complete=call.complete, layout=layout)
    note(f"strfnet: {data_set.summary}")
    return data_set


def boxes_of(files: list[Path], settings: Boxes) -> list[Box]:
    boxes = read_tracks(files, first_frame=settings.first_frame, units=settings.units)
    tracks, frames = len({box.track for box in boxes}), len({box.frame for box in boxes})
    note(f"{len(boxes)} boxes of {tracks} tracks in {frames} frames")
    return boxes


def protocols_to_use(name: str, data_set: DataSet) -> list[Protocol]:
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
    for reason in reasons:
        note(f"{reason}: it is skipped")
    return protocols
