"""Galleries of embeddings on disk that are searched in bounded memory."""

import json
import mmap
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from strfnet.evaluation.distances import unit_length
from strfnet.evaluation.nearest import Rows, nearest_items
from strfnet.inference.approximate import Approximate
from strfnet.inference.embedding_file import ALIKE, check_alike, load_embeddings
from strfnet.inference.embedding_formats import WRITERS
from strfnet.system.files import lock, make_folder, write_atomically
from strfnet.system.reading import read_regular

_VECTORS, _TRACKLETS, _INDEX = "vectors.f32", "tracklets.jsonl", "index.json"
_COPIED, _SEARCHED = 2**26, 2**28  # bytes of a block; large blocks are searched faster

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True, eq=False)
class Gallery:
    """Embeddings that are searched: a file, or the folder of an index.

    Attributes:
        path: of the file or the folder.
        vectors: float32 (n, d), read from disk where they are used.
        tracklets: identity, camera, frames, path and details of each row, as `load_embeddings` returns them.
        facts: how the vectors were computed.
        approximate: the index of faiss, if there is one.
    """

    path: Path
    vectors: Rows
    tracklets: Sequence[Mapping[str, Any]]
    facts: Mapping[str, Any]
    approximate: Approximate | None = None

    @property
    def metric(self) -> Any:
        """The distance, "cosine" or "euclidean"; cosine where the file does not say it."""
        return self.facts.get("metric", "cosine")

    def nearest(self, query: Tensor, count: int, allowed: Tensor | None = None) -> Found:
        """Finds the nearest rows of queries (n, d), with their distances, as `nearest_items` does.

        With faiss, its candidates are compared exactly. Where it finds fewer than ``count``, the search is exact.
        """
        if self.approximate is None or not len(query):
            return self.exact(query, count, allowed)
        found = [self._near(one, count, allowed, self.approximate) for one in query.split(1)]
        return np.concatenate([one[0] for one in found]), np.concatenate([one[1] for one in found])

    def exact(self, query: Tensor, count: int, allowed: Tensor | None = None) -> Found:
        """Finds the nearest rows without faiss."""
        return nearest_items(
            query,
            self.vectors,
            count,
            distance=self.metric,
            allowed=allowed,
            unit=self.facts.get("metric") == "cosine",
            byte_budget=_SEARCHED,
        )

    def recall(self, count: int = 10, queries: int = 100) -> float:
        """Returns the fraction of the nearest rows that `nearest` finds; rows of the gallery are the queries."""
        total = self.vectors.shape[0]
        rows = torch.linspace(0, total - 1, min(queries, total), dtype=torch.float64).long()
        query = self.vectors[rows]
        hits = wanted = 0
        nearest = (search(query, count + 1)[1].tolist() for search in (self.exact, self.nearest))
        for row, one, other in zip(rows.tolist(), *nearest, strict=True):
            hits += len({*one} & {*other} - {row})
            wanted += len({*one} - {row})
        return hits / max(1, wanted)

    def _near(self, query: Tensor, count: int, allowed: Tensor | None, approximate: Approximate) -> Found:
        total, fetched = self.vectors.shape[0], max(100, 10 * count)
        wanted = min(count, total if allowed is None else int(allowed.sum()))
        while True:
            rows = approximate.candidates(query, min(fetched, total))
            rows = rows if allowed is None else rows[allowed[rows]]
            if len(rows) >= wanted > 0:
                distances, at = nearest_items(query, self.vectors[rows], wanted, distance=self.metric)
                return distances, rows.numpy()[at]
            if fetched >= total:
                return self.exact(query, count, allowed)
            fetched *= 10


def open_gallery(path: str | Path) -> Gallery:
    """Opens a file of embeddings, or the folder of an index.

    Vectors are read when they are searched; those of a table (.parquet, .npz, .csv) are held in memory.

    Raises: ValueError naming a path that is missing, damaged, or neither; ImportError naming what to install for
    Parquet or faiss.
    """
    path = Path(path)
    if not path.is_dir():
        return _open_file(path)
    index = _read_index(path)
    rows, width, facts = index["rows"], index["width"], index["facts"]
    vectors = MappedRows(path / _VECTORS, (rows, width))
    tracklets = _Lines(path / _TRACKLETS, rows, index["bytes"])
    approximate = None
    if index["faiss"] is not None:
        approximate = Approximate.open(
            path / _faiss_file(rows), facts["metric"] == "cosine", index["faiss"]["probes"]
        )
    return Gallery(path, vectors, tracklets, facts, approximate)


def add_to_index(folder: str | Path, *files: str | Path, faiss: bool = False, recall: float = 0.95) -> Gallery:
    """Adds files of embeddings to an index, which is made if it is missing.

    The folder holds ``vectors.f32`` (rows of little-endian float32, of length 1 for cosine), ``tracklets.jsonl`` (a
    line for each row) and ``index.json``, which is written last: if the call is interrupted, the index is as before.

    Args:
        folder: of the index; only its last level is made.
        files: of `save_embeddings` or ``strfnet embed``, one or more, in any of their formats, all of one network,
            with equal weights, clips, preprocessing and metric.
        faiss: also build an approximate index, for millions of rows. An index that has one keeps one.
        recall: fraction of the 10 nearest rows that the approximate index finds at least, where it can. It is
            measured against the exact search, with 100 rows as queries.

    Returns: the gallery.
    Raises: ValueError naming a file that is missing, damaged, in the index already, of another network, or holds NaN
    or infinity; or if another process adds to the index. ImportError if faiss is missing.
    """
    folder, paths = Path(folder), [Path(file) for file in files]
    if not 0 < recall <= 1:
        raise ValueError(f"recall is {recall}, wanted a fraction above 0")
    make_folder(folder)
    with closing(lock(folder / ".lock")):
        if (folder / _INDEX).exists():
            index = _read_index(folder)
        elif any(path.name not in (".lock", _VECTORS, _TRACKLETS) for path in folder.iterdir()):
            raise ValueError(f"{folder} holds other files, wanted a new folder or an index")
        else:
            index = {"rows": 0, "width": 0, "bytes": 0, "facts": {}, "files": [], "faiss": None}
        for path in paths:
            _add_file(folder, path, index)
        if not index["rows"]:
            raise ValueError("got no file of embeddings, wanted at least one")
        if faiss or index["faiss"] is not None:
            index["faiss"] = _add_faiss(folder, index, recall)
        write_atomically(folder / _INDEX, json.dumps(index, indent=1).encode())
        for old in folder.glob("faiss-*"):
            if old.name != _faiss_file(index["rows"]):
                old.unlink()
    return open_gallery(folder)


class MappedRows:
    """Rows of little-endian float32 in a file. Pages that were read are given back at the next access.

    Args:
        path: of the file.
        shape: (n, d) of the rows.
        offset: of the first row, in bytes.

    Raises: ValueError if the file is missing or too short.
    """

    def __init__(self, path: Path, shape: tuple[int, int], offset: int = 0) -> None:
        self.shape = shape
        count = shape[0] * shape[1]
        self._map = _mapped(path, offset + 4 * count)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given (NumPy array|buffer) is not writable")  # it is only read
            self._rows = torch.from_numpy(np.frombuffer(self._map, "<f4", count, offset).reshape(shape))

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        if hasattr(self._map, "madvise"):
            self._map.madvise(mmap.MADV_DONTNEED)  # else they count as memory of this process
        return self._rows[rows]


class _Lines(Sequence[Mapping[str, Any]]):
    """Lines of JSON in a file, parsed when they are used."""

    def __init__(self, path: Path, count: int, size: int) -> None:
        self._map = _mapped(path, size)
        text = np.frombuffer(self._map, np.uint8, size)
        ends = [np.flatnonzero(text[at : at + 2**24] == ord("\n")) + at for at in range(0, size, 2**24)]
        self._starts = np.concatenate([[0], *(end + 1 for end in ends)]).tolist()
        if len(self) != count:
            raise ValueError(f"{path} has {len(self)} lines, wanted {count}: the index is damaged, make it again")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, row: Any) -> Any:
        return json.loads(self._map[self._starts[row] : self._starts[row + 1]])


def _mapped(path: Path, size: int) -> mmap.mmap:
    if not path.is_file() or path.stat().st_size < size:
        found = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
        raise ValueError(f"{path} {found}, wanted {size} bytes: the index is damaged, make it again")
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


def _open_file(path: Path) -> Gallery:
    vectors, tracklets, facts = load_embeddings(path)
    shape, size = (vectors.shape[0], vectors.shape[1]), path.stat().st_size
    with path.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    is_mapped = vectors.numel() > 0 and path.suffix.lower() not in WRITERS and size == header + 4 * vectors.numel()
    return Gallery(path, MappedRows(path, shape, header) if is_mapped else vectors, tracklets, facts)


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / _INDEX
    if not file.is_file():
        raise ValueError(f"{folder} holds no {_INDEX}, wanted a file of embeddings or the folder of an index")
    try:
        index: dict[str, Any] = json.loads(read_regular(file))
        if not {"rows", "width", "bytes", "facts", "files", "faiss"} <= index.keys():
            raise ValueError("entries are missing")
    except ValueError as error:
        raise ValueError(f"cannot read {file}, the index is damaged, make it again: {error}") from error
    return index


def _add_file(folder: Path, path: Path, index: dict[str, Any]) -> None:
    """Appends the rows of a file behind those that the index counts, and counts them."""
    name = str(path.resolve())
    if name in index["files"]:
        raise ValueError(f"{path} is in the index {folder} already, wanted each file once")
    gallery = _open_file(path)
    known = index["rows"] > 0
    check_alike(path, gallery.facts, folder, index["facts"] if known else gallery.facts)
    count, width = gallery.vectors.shape
    if known and width != index["width"]:
        raise ValueError(f"{path} holds vectors of {width} numbers, wanted {index['width']} as in {folder}")
    with (folder / _VECTORS).open("ab") as vectors, (folder / _TRACKLETS).open("ab") as lines:
        vectors.truncate(4 * index["rows"] * width)
        lines.truncate(index["bytes"])
        for start in range(0, count, size := max(1, _COPIED // (4 * width))):
            rows = gallery.vectors[start : start + size].float()
            if not (finite := rows.isfinite().all(dim=1)).all():
                raise ValueError(f"{path} holds NaN or infinity in row {start + int(finite.int().argmin())}")
            rows = unit_length(rows) if gallery.metric == "cosine" else rows
            vectors.write(rows.numpy().astype("<f4", copy=False).tobytes())
        for tracklet in gallery.tracklets:
            lines.write(json.dumps(tracklet).encode() + b"\n")
        for file in (vectors, lines):
            file.flush()
            os.fsync(file.fileno())
        index["bytes"] = lines.tell()
    facts = {fact: gallery.facts[fact] for fact in ALIKE}
    index |= {"rows": index["rows"] + count, "width": width, "facts": facts, "files": [*index["files"], name]}


def _add_faiss(folder: Path, index: dict[str, Any], recall: float) -> dict[str, Any]:
    """Builds an index of faiss, and doubles the number of lists that are searched until the recall is reached."""
    rows, facts = index["rows"], index["facts"]
    vectors = MappedRows(folder / _VECTORS, (rows, index["width"]))
    approximate = Approximate.build(vectors, facts["metric"] == "cosine")
    gallery = Gallery(folder, vectors, [], facts, approximate)
    measured = gallery.recall()
    while measured < recall and approximate.probes < approximate.lists:
        approximate.probes = min(2 * approximate.probes, approximate.lists)
        measured = gallery.recall()
    approximate.save(folder / _faiss_file(rows))
    return {"lists": approximate.lists, "probes": approximate.probes, "recall": measured}


def _faiss_file(rows: int) -> str:
    return f"faiss-{rows}"
