"""Files of embeddings: the vectors, the tracklet of each row, and how they were computed."""

import io
import json
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from strfnet.data.readers.directory import check_file
from strfnet.data.readers.folder import first_queries, test_set
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.evaluation.distances import unit_length
from strfnet.inference.embedding_formats import WRITERS, check_format, check_suffix, read_table, write_table
from strfnet.system.files import write_atomically

# Facts in which files that are mixed agree.
ALIKE = ("network", "weights", "clips", "size", "interpolation", "metric")


class Embeddings(NamedTuple):
    """What `load_embeddings` returns.

    Attributes:
        vectors: float32 (n, d).
        tracklets: for each row the identity (None if it is unknown), the camera, the number of frames, the path of
            the first one, and ``details``, such as track and times.
        facts: how the vectors were computed, see `save_embeddings`; those that all files share.
    """

    vectors: Tensor
    tracklets: list[dict[str, Any]]
    facts: dict[str, Any]

    def test_set(self) -> DataSet:
        """Returns the tracklets as the test set of a data set, with the queries of the file.

        If it lists none, ``first_queries`` selects them. The tracklets' frames are placeholders.
        """
        test = [
            Tracklet((Path(row["path"]),) * row["frames"], row["identity"], row["camera"], row["details"])
            for row in self.tracklets
        ]
        found, facts = test_set(self.facts.get("data", "embeddings"), test), self.facts
        query, gallery = (tuple(facts.get(name, getattr(found, name))) for name in ("query", "gallery"))
        layout, splits = facts.get("layout"), facts.get("splits", 1)
        return replace(found, query=query, gallery=gallery, layout=layout, splits=splits)

    def rows_of(self, tracklets: Sequence[Tracklet]) -> list[int]:
        """Returns the row of each tracklet, found by the path of its first frame.

        Raises: ValueError naming a tracklet that has no row.
        """
        rows = {os.path.abspath(row["path"]): number for number, row in enumerate(self.tracklets)}
        found = [rows.get(os.path.abspath(tracklet.where)) for tracklet in tracklets]
        if None in found:
            missing, count = tracklets[found.index(None)].where, found.count(None)
            raise ValueError(
                f"{count} of {len(found)} tracklets have no embedding, the first is {missing}: wanted a file of this "
                "data set; paths are compared from the working directory"
            )
        return [row for row in found if row is not None]


def save_embeddings(
    path: str | Path, embeddings: Tensor, tracklets: Sequence[Tracklet], facts: Mapping[str, Any] | None = None
) -> None:
    """Writes embeddings as float32 and the labels of their tracklets into one file, atomically.

    The file is of safetensors, and the tensor is called ``embeddings``. The entry ``tracklets`` of the metadata is a
    JSON list with the identity, the camera, the number of frames and the path of the first frame of each tracklet,
    and its ``details`` if it has some.

    A path that ends in ``.parquet``, ``.npz`` or ``.csv`` is written for other tools instead, with a column for each
    label and detail: ``embedding`` and the metadata ``facts`` (Parquet), arrays ``embeddings`` and ``facts`` (NumPy,
    without pickle), or columns ``facts``, ``embedding_0``, ... (CSV). The facts then also list the labels that are
    ``integers``, because the columns hold text.

    Args:
        path: of the file.
        embeddings: (n, d), one row for each tracklet.
        tracklets: n of them.
        facts: how the embeddings were computed, such as `Embedder.facts`; JSON types, the entry ``facts`` of the
            metadata. If their ``metric`` is "cosine", rows are scaled to length 1.

    Raises: ValueError if ``embeddings`` is not one row per tracklet, or for the suffix of another format; OSError if
    the file cannot be written; ImportError without pyarrow.
    """
    path = Path(path)
    check_format(path, tracklets)
    if embeddings.ndim != 2 or len(embeddings) != len(tracklets):
        wanted = f"one row for each of {len(tracklets)} tracklets"
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, wanted {wanted}")
    content = io.BytesIO()
    vectors = embeddings.detach().cpu().float()
    write_rows(content, path.suffix.lower(), [vectors], describe(tracklets), len(tracklets), facts or {})
    write_atomically(path, content.getvalue())


def load_embeddings(*paths: str | Path) -> Embeddings:
    """Reads files of embeddings, one after the other.

    Args:
        paths: one or more files of `save_embeddings` or ``strfnet embed``, in any of their formats. Several must be
            of one network, with equal weights, clips, preprocessing and metric.

    Raises: ValueError naming a file that is missing, damaged, given twice, or no file of embeddings; or two files
    whose facts differ, or one of several that does not say how it was computed (a file of strfnet 0.1);
    ImportError without pyarrow for Parquet.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise ValueError("got no file of embeddings, wanted at least one")
    if len({file.resolve() for file in files}) < len(files):
        raise ValueError(f"got {', '.join(map(str, files))}, wanted each file once")
    loaded = [_load(file) for file in files]
    for file, (_, _, facts) in zip(files, loaded, strict=True):
        if len(files) > 1:
            check_alike(file, facts, files[0], loaded[0].facts)
    widths = {one.vectors.shape[1] for one in loaded}
    if len(widths) > 1:
        raise ValueError(f"{', '.join(map(str, files))} hold vectors of {sorted(widths)} numbers, wanted one width")
    for file, (_, _, facts) in zip(files, loaded, strict=True):
        if len(files) > 1 and "query" in facts:
            raise ValueError(f"{file} lists the queries of {facts['data']}: load it alone, not with other files")
    first = loaded[0].facts
    shared = {name: value for name, value in first.items() if all(one.facts.get(name) == value for one in loaded)}
    vectors = loaded[0].vectors if len(loaded) == 1 else torch.cat([one.vectors for one in loaded])
    return Embeddings(vectors, [row for one in loaded for row in one.tracklets], shared)


def facts_of(data_set: DataSet) -> dict[str, Any]:
    """Returns what a file of embeddings keeps of a data set: name, layout, number of splits, and listed queries."""
    facts: dict[str, Any] = {"data": data_set.name}
    if data_set.layout is not None:
        facts["layout"] = data_set.layout
    if data_set.splits > 1:
        facts["splits"] = data_set.splits
    query, gallery = data_set.query, data_set.gallery
    if query != first_queries(data_set.test) or gallery != tuple(range(len(data_set.test))):
        facts |= {"query": list(query), "gallery": list(gallery)}
    return facts


def describe(tracklets: Sequence[Tracklet]) -> str:
    """Returns the JSON list of labels in a file of embeddings, see `save_embeddings`."""
    described = (
        {"identity": item.identity, "camera": item.camera, "frames": len(item.frames), "path": item.where}
        | ({"details": dict(item.details)} if item.details else {})
        for item in tracklets
    )
    return f"[{', '.join(map(json.dumps, described))}]"  # one at a time: there may be 100,000


def header_of(described: str, rows: int, width: int, facts: Mapping[str, Any]) -> bytes:
    """Returns the header of a safetensors file of embeddings."""
    embeddings = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
    metadata = {"tracklets": described, **({"facts": json.dumps(facts)} if facts else {})}
    text = json.dumps({"__metadata__": metadata, "embeddings": embeddings}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write_rows(
    file: BinaryIO, suffix: str, parts: Iterable[Tensor], described: str, rows: int, facts: Mapping[str, Any]
) -> int:
    """Writes a file of embeddings from parts of its rows, float32 on the CPU; `save_embeddings` has the formats.

    Returns: the width of a row.
    """
    iterator = iter(parts)
    first = next(iterator)
    width, unit = first.shape[1], facts.get("metric") == "cosine"
    arrays = ((unit_length(part) if unit else part).contiguous().numpy() for part in chain([first], iterator))
    if suffix in WRITERS:
        write_table(file, suffix, width, arrays, json.loads(described), facts)
        return width
    file.write(header_of(described, rows, width, facts))
    for array in arrays:
        file.write(array.astype("<f4", copy=False).tobytes())
    return width


def _load(file: Path) -> Embeddings:
    check_file(file, "a file of embeddings")
    check_suffix(file)
    is_table = file.suffix.lower() in WRITERS
    vectors, tracklets, facts = read_table(file) if is_table else _read_safetensors(file)
    try:
        tracklets = [{"details": {}, **row} for row in tracklets]
        wrong = [number for number, row in enumerate(tracklets) if not _is_tracklet(row)]
        if wrong or not isinstance(facts, dict):
            raise ValueError(f"row {wrong[0]} is {tracklets[wrong[0]]}" if wrong else f"facts are {facts}")
    except (ValueError, TypeError) as error:
        raise ValueError(f"the list of tracklets in {file} is damaged: {error}") from error
    if vectors.ndim != 2 or len(vectors) != len(tracklets):
        found = f"embeddings {tuple(vectors.shape)} and {len(tracklets)} tracklets"
        raise ValueError(f"{file} holds {found}, wanted a row for each")
    return Embeddings(torch.as_tensor(vectors).float(), tracklets, facts)


def _read_safetensors(file: Path) -> tuple[Tensor, Any, Any]:
    """The vectors of a file, and what its metadata lists, unchecked."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            names, metadata = set(opened.keys()), opened.metadata() or {}
            vectors = opened.get_tensor("embeddings") if names == {"embeddings"} else None
    except (SafetensorError, OSError) as error:
        formats = f"(or {', '.join(WRITERS)} with that suffix)"
        raise ValueError(f"cannot read {file}, wanted a safetensors file of embeddings {formats}: {error}") from error
    if vectors is None or "tracklets" not in metadata:
        raise ValueError(f"{file} holds {', '.join(sorted(names)) or 'nothing'}, wanted embeddings of tracklets")
    try:
        return vectors, json.loads(metadata["tracklets"]), json.loads(metadata.get("facts", "{}"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the list of tracklets in {file} is damaged: {error}") from error


def _is_tracklet(row: Mapping[str, Any]) -> bool:
    labels, details = [row.get("identity"), row.get("camera")], row["details"]
    return (
        isinstance(row.get("path"), str)
        and isinstance(row.get("frames"), int)
        and row["frames"] > 0
        and all(label is None or isinstance(label, (str, int)) for label in labels)
        and isinstance(details, dict)
        and all(isinstance(value, str) for value in details.values())
    )


def check_alike(file: Path, facts: Mapping[str, Any], first: Path, wanted: Mapping[str, Any]) -> None:
    """Raises: ValueError if facts lack one of `ALIKE`, or differ in one from those of ``first``."""
    if missing := [name for name in ALIKE if name not in facts]:
        what = f"{file} does not hold its {', '.join(missing)}"
        raise ValueError(f"{what}, so it cannot be mixed with other files: embed its tracklets again")
    differ = [f"{name} {wanted.get(name)} in {first}, {facts[name]} in {file}" for name in ALIKE
              if facts[name] != wanted.get(name)]  # fmt: skip
    if differ:
        raise ValueError(f"embeddings that cannot be compared: {'; '.join(differ)}")
