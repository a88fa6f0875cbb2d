"""`strfnet search`."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from strfnet.cli.commands.inputs import load
from strfnet.cli.commands.output import note, say
from strfnet.cli.options.groups import Inference, clip_sampler
from strfnet.cli.options.search import QueryNetwork, Search
from strfnet.data import Box, Tracklet, read_tracks, read_video
from strfnet.data.readers.directory import FRAME_SUFFIXES, frames_in
from strfnet.inference import Gallery, Hit, check_query, open_gallery, search_gallery, searched_rows
from strfnet.system.files import check_writable, write_atomically


def run(call: Search) -> None:
    if call.picture is not None:
        check_writable(call.picture)
    gallery, query = open_gallery(call.gallery), find_query(call)
    sought: int | torch.Tensor
    shown: Tracklet | Mapping[str, Any]
    allowed: torch.Tensor | None = None
    if isinstance(query, int):
        sought = query
    else:
        network, inference, sampler = inputs_of(call, gallery)
        allowed = searched_rows(gallery, call.search, camera=call.camera)
        clips = clip_sampler(sampler)
        embedder, _ = load(network, inference)
        check_query(gallery, embedder.facts(clips, gallery.metric))
        shown = query()
        sought = embedder.embed([shown], clips)[0]
    hits = search_gallery(gallery, sought, call.search, camera=call.camera, allowed=allowed)
    if isinstance(query, int):
        shown = gallery.tracklets[query]
    if not hits:
        plain = replace(call.search, top=1, expand=0, rerank=0, threshold=None)
        nearest = search_gallery(gallery, sought, plain, camera=call.camera, allowed=allowed)
        reason = f"camera and times leave no tracklet of {call.gallery}"
        if nearest:
            reason = f"the nearest is at {nearest[0].distance:.4f}, above the threshold {call.search.threshold}"
        (note if call.json else say)(f"no match: {reason}")
    else:
        say(listed(hits, as_json=call.json))
    if call.picture is not None:
        from strfnet.visualization import draw_search, png

        found = [(hit.distance, hit.tracklet) for hit in hits]
        title, most = f"{call.query} in {call.gallery}", call.inference.max_pixels
        write_atomically(call.picture, png(draw_search(shown, found, title=title, max_pixels=most)))
        note(f"picture: {call.picture}")


def find_query(call: Search) -> int | Callable[[], Tracklet]:
    """Returns the row that the query of a call names, or a function that reads its tracklet.

    Raises: ValueError if it names nothing, could be read in two ways, or has options of another kind of query.
    """
    path, of_video = Path(call.query), call.box is not None or call.tracks is not None
    if call.query.isdecimal() and path.exists():
        raise ValueError(f"query is {call.query}, a row of the gallery or the path ./{call.query}? Write ./ for it")
    kind = "a row" if call.query.isdecimal() else "a folder" if path.is_dir() else ""
    if not kind and path.suffix.lower() in FRAME_SUFFIXES:
        kind = "an image"
    if kind and of_video:
        raise ValueError(f"query is {call.query}, {kind}, but box and tracks belong to a video")
    if kind == "a row":
        return int(call.query)
    if not path.exists():
        raise ValueError(f"query is {call.query}, which is missing, wanted a folder, an image, a video or a row")
    if kind:
        frames = frames_in(path) if kind == "a folder" else (path,)
        return lambda: Tracklet(frames, None, call.camera)
    if not of_video:
        raise ValueError(f"query is the video {call.query}, wanted box, or tracks and track, with it")
    if call.box is not None:
        frame, left, top, width, height = call.box
        boxes = [Box(frame, "query", left, top, left + width, top + height)]
    else:
        found = read_tracks(call.tracks or [], first_frame=call.boxes.first_frame, units=call.boxes.units)
        boxes = [box for box in found if box.track == call.track]
        if not boxes:
            names = ", ".join(dict.fromkeys(box.track for box in found))
            raise ValueError(f"track is {call.track!r}, wanted one of {names}")
    return lambda: read_video(path, boxes, camera=call.camera)[0]


def inputs_of(call: Search, gallery: Gallery) -> tuple[QueryNetwork, Inference, str]:
    """Returns the network, the inference and the clips of a call, as the gallery was embedded where it does not say.

    Raises: ValueError if the call has no network, or the gallery does not say how it was embedded.
    """
    check_query(gallery, gallery.facts)
    if (call.network.trained, call.network.model) == (None, None):
        raise ValueError(f"model and trained are missing, wanted the network of {gallery.path} for the query")
    facts = gallery.facts
    height, width = facts["size"]
    network = replace(call.network, height=call.network.height or height, width=call.network.width or width)
    inference = replace(call.inference, interpolation=call.inference.interpolation or facts["interpolation"])
    return network, inference, facts["clips"]


def listed(hits: Sequence[Hit], *, as_json: bool) -> str:
    """Returns a line for each hit, in columns or as JSON."""
    if as_json:
        return "\n".join(json.dumps({"rank": rank, **hit.to_json()}) for rank, hit in enumerate(hits, start=1))
    head = ("rank", "distance", "row", "identity", "camera", "time (s)", "path")
    table = [head, *((str(rank), *_cells(hit)) for rank, hit in enumerate(hits, start=1))]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    used = [at for at in range(len(head)) if any(line[at] for line in table[1:])]
    lines = ("  ".join(line[at].ljust(widths[at]) for at in used).rstrip() for line in table)
    return "\n".join(lines)


def _cells(hit: Hit) -> tuple[str, ...]:
    tracklet: Any = hit.tracklet
    details = tracklet.get("details", {})
    times = [details[name] for name in ("first_time", "last_time") if name in details]
    names = ("" if tracklet[name] is None else str(tracklet[name]) for name in ("identity", "camera"))
    return f"{hit.distance:.4f}", str(hit.row), *names, " to ".join(dict.fromkeys(times)), tracklet["path"]
