"""Files of embeddings for other tools: Parquet, NumPy and CSV, written part by part."""

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from strfnet.data.tracklet import Tracklet
from strfnet.system.names import check_utf8

Parts = Iterable[NDArray[np.float32]]
Columns = Mapping[str, Sequence[Any]]
_OTHERS = (".npy", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".json", ".jsonl", ".tsv", ".pq", ".xlsx")
_LABELS = ("path", "identity", "camera", "frames")


def check_format(path: Path, tracklets: Sequence[Tracklet]) -> None:
    """Check that tracklets can be listed in a file of the format that its suffix names.

    Raises: ValueError for the suffix of a format that is not written, or ``details`` that are named as another
    column, or names that are no UTF-8 and not for .npz; ImportError naming what to install.
    """
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise ValueError(f"{path} ends in {path.suffix}, wanted .safetensors, {', '.join(WRITERS)}")
    if suffix not in WRITERS:
        return
    if suffix == ".parquet":
        _pyarrow()
    taken = {*_LABELS, "embedding", "embeddings", "facts"}
    clash = next((name for item in tracklets for name in item.details if name in taken), None)
    if clash is not None:
        raise ValueError(f"details of the tracklets hold {clash!r}, which is a column of {path}: rename it")
    for item in tracklets if suffix != ".npz" else ():
        for text in (item.where, item.identity, item.camera, *item.details.values()):
            check_utf8(str(text), path)


def columns_of(tracklets: Sequence[Mapping[str, Any]]) -> Columns:
    """The labels of tracklets as columns: text, or None where it is unknown; the number of frames is an integer."""
    names = dict.fromkeys(name for row in tracklets for name in row.get("details", {}))
    labels = {name: [_text(row[name]) for row in tracklets] for name in ("path", "identity", "camera")}
    frames = {"frames": [row["frames"] for row in tracklets]}
    return labels | frames | {name: [row.get("details", {}).get(name) for row in tracklets] for name in names}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _write_parquet(file: BinaryIO, width: int, parts: Parts, columns: Columns, facts: str) -> None:
    arrow, parquet = _pyarrow()
    types = {name: arrow.int64() if name == "frames" else arrow.string() for name in columns}
    schema = arrow.schema({**types, "embedding": arrow.list_(arrow.float32(), width)}, metadata={"facts": facts})
    start = 0
    with parquet.ParquetWriter(file, schema) as writer:
        for part in parts:
            rows = slice(start, start := start + len(part))
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(part.ravel()), width)
            writer.write_table(arrow.table([*(values[rows] for values in columns.values()), vectors], schema=schema))


def _write_npz(file: BinaryIO, width: int, parts: Parts, columns: Columns, facts: str) -> None:
    arrays = {
        name: np.array(["" if value is None else value for value in column]) for name, column in columns.items()
    }
    with zipfile.ZipFile(file, "w") as archive:
        # A ZipInfo has a constant time, so that equal embeddings are equal bytes.
        for name, array in {**arrays, "facts": np.array(facts)}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(columns["path"]), width)}
        with archive.open(zipfile.ZipInfo("embeddings.npy"), "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for part in parts:
                member.write(part.astype("<f4", copy=False).tobytes())


def _write_csv(file: BinaryIO, width: int, parts: Parts, columns: Columns, facts: str) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "facts", *(f"embedding_{at}" for at in range(width))])
    labels = zip(*columns.values(), strict=True)
    for part in parts:
        for vector in part:  # 9 digits keep every bit of a float32
            writer.writerow([*next(labels), facts, *(f"{value:.9g}" for value in vector.tolist())])
    text.detach()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError('Parquet files need pyarrow: pip install "strfnet[parquet]"') from error
    return pyarrow, pyarrow.parquet


WRITERS: dict[str, Callable[[BinaryIO, int, Parts, Columns, str], None]] = {
    ".parquet": _write_parquet,
    ".npz": _write_npz,
    ".csv": _write_csv,
}
