"""Files of embeddings as tables for other tools: Parquet, NumPy and CSV, written part by part."""

import csv
import io
import json
import re
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
Table = tuple[NDArray[np.float32], dict[str, list[Any]], str]  # vectors, the other columns, facts
_OTHERS = (".npy", ".pt", ".pth", ".pkl", ".pickle", ".h5", ".hdf5", ".json", ".jsonl", ".tsv", ".pq", ".xlsx")
_NAMES = ("identity", "camera")
_COLUMNS = ("path", *_NAMES, "frames")
_INTEGERS = "integers"  # the entry of a table's facts that lists the labels that are integers
_EXPANSION = 16  # times the bytes of a Parquet file that its vectors may have


def check_suffix(path: Path) -> None:
    """Raises: ValueError for the suffix of a format that is neither written nor read."""
    if path.suffix.lower() in _OTHERS:
        raise ValueError(f"{path} ends in {path.suffix}, wanted .safetensors, {', '.join(WRITERS)}")


def check_format(path: Path, tracklets: Sequence[Tracklet]) -> None:
    """Check that tracklets can be listed in a file of the format that its suffix names.

    Raises: ValueError as `check_suffix` does, for ``details`` that are named as another column, a label that is text
    in one tracklet and a number in another, or names that the format cannot hold; ImportError naming what to install.
    """
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix not in WRITERS:
        return
    if suffix == ".parquet":
        _pyarrow()
    taken = re.compile(rf"{'|'.join(_COLUMNS)}|embeddings?|embedding_\d+|facts")
    clash = next((name for item in tracklets for name in item.details if taken.fullmatch(name)), None)
    if clash is not None:
        raise ValueError(f"details of the tracklets hold {clash!r}, which is a column of {path}: rename it")
    integers_of({name: [getattr(item, name) for item in tracklets] for name in _NAMES})
    for item in tracklets if suffix != ".npz" else ():
        for text in (item.where, item.identity, item.camera, *item.details.values()):
            check_utf8(str(text), path)
            if suffix == ".csv" and "\r" in str(text):  # Python 3.12 and older write it without quotes
                raise ValueError(f"{path} cannot hold {text!r}, which has a carriage return: rename it")


def columns_of(tracklets: Sequence[Mapping[str, Any]]) -> Columns:
    """The labels of tracklets as columns: text, or None where it is unknown; the number of frames is an integer."""
    names = dict.fromkeys(name for row in tracklets for name in row.get("details", {}))
    labels = {name: [_text(row[name]) for row in tracklets] for name in ("path", *_NAMES)}
    frames = {"frames": [row["frames"] for row in tracklets]}
    return labels | frames | {name: [row.get("details", {}).get(name) for row in tracklets] for name in names}


def integers_of(labels: Columns) -> dict[str, Any]:
    """Which labels of tracklets are integers, because a table holds text: True for all, or their list, by column.

    Raises: ValueError for a label that is text in one tracklet and a number in another.
    """
    found: dict[str, Any] = {}
    for name, values in labels.items():
        numbers = {value for value in values if isinstance(value, int)}
        texts = {value for value in values if isinstance(value, str)}
        if both := texts & set(map(str, numbers)):
            raise ValueError(
                f"{name} {min(both)} is text in one tracklet and a number in another, wanted one of them"
            )
        if numbers:
            found[name] = sorted(numbers) if texts else True
    return found


def write_table(
    file: BinaryIO, suffix: str, width: int, parts: Parts, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]
) -> None:
    """Writes vectors in parts and the records of their tracklets, in the format of a suffix in `WRITERS`."""
    integers = integers_of({name: [row[name] for row in rows] for name in _NAMES})
    WRITERS[suffix](file, width, parts, columns_of(rows), json.dumps({**facts, _INTEGERS: integers}))


def read_table(path: Path) -> tuple[NDArray[np.float32], list[dict[str, Any]], dict[str, Any]]:
    """Reads what `write_table` has written. An empty label or detail is unknown.

    Raises: ValueError naming a file that is damaged, or no table of embeddings; ImportError naming what to install.
    """
    suffix = path.suffix.lower()
    try:
        vectors, columns, text = _READERS[suffix](path)
        facts = json.loads(text)
        if not isinstance(facts, dict):
            raise ValueError(f"its facts are {facts}, wanted an object of JSON")
        return vectors, _rows(len(vectors), columns, facts.pop(_INTEGERS, None)), facts
    except ImportError:
        raise
    except Exception as error:  # parsers raise any exception on damaged files
        reason = str(error) or type(error).__name__
        raise ValueError(f"cannot read {path}, wanted a {suffix} file of embeddings: {reason}") from error


def _rows(count: int, columns: dict[str, list[Any]], integers: Any) -> list[dict[str, Any]]:
    """The records of tracklets."""
    if missing := [name for name in _COLUMNS if name not in columns]:
        raise ValueError(f"it has no column {missing[0]}")
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(f"it has {count} embeddings and {len(values)} values of {name}")
    for name in _NAMES:
        columns[name] = _labels(name, columns[name], integers)
    others = [name for name in columns if name not in _COLUMNS]
    rows = []
    for labels in zip(*columns.values(), strict=True):
        row = dict(zip(columns, labels, strict=True))
        details = {name: text for name in others if (text := row.pop(name)) not in (None, "")}
        rows.append({**row, "frames": int(row["frames"]), "details": details})
    return rows


def _labels(name: str, texts: list[str | None], integers: Any) -> list[str | int | None]:
    """Labels as they were before a table held them as text."""
    if integers is None and (number := next((text for text in texts if re.fullmatch(r"-?\d+", text or "")), None)):
        raise ValueError(f"it does not say whether {name} {number} is text or a number: embed its tracklets again")
    found = (integers or {}).get(name, [])
    numbers = None if found is True else {str(value) for value in found}
    return [None if not text else int(text) if numbers is None or text in numbers else text for text in texts]


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


def _read_parquet(path: Path) -> Table:
    arrow, parquet = _pyarrow()
    size = path.stat().st_size
    with parquet.ParquetFile(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
    kind = schema.field("embedding").type
    if not arrow.types.is_fixed_size_list(kind) or kind.value_type != arrow.float32():
        raise ValueError(f"its column embedding is {kind}, wanted a fixed_size_list of float")
    width, names = kind.list_size, [name for name in schema.names if name != "embedding"]
    if rows > size or 4 * width * rows > _EXPANSION * size:
        raise ValueError(f"{size} bytes unpack to {rows} vectors of {width} numbers")
    # A text that repeats is one object, as it is in the file.
    with parquet.ParquetFile(path, read_dictionary=[name for name in names if name != "frames"]) as file:
        table = file.read()
    vectors = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in table["embedding"].chunks]
    columns = {name: [value for chunk in table[name].chunks for value in _listed(chunk)] for name in names}
    facts = (schema.metadata or {}).get(b"facts", b"{}").decode()
    return np.concatenate([np.empty((0, width), np.float32), *vectors]), columns, facts


def _listed(chunk: Any) -> list[Any]:
    """The values of a column of Parquet."""
    if not hasattr(chunk, "dictionary"):
        return list(chunk.to_pylist())
    values = chunk.dictionary.to_pylist()
    return [None if at is None else values[at] for at in chunk.indices.to_pylist()]


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


def _read_npz(path: Path) -> Table:
    size, arrays = path.stat().st_size, {}
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
            raise ValueError("it is compressed, so it may unpack to any size; np.savez does not compress")
        for entry in entries:
            with archive.open(entry) as member:
                arrays[entry.filename.removesuffix(".npy")] = _array(member, entry.filename)
    if missing := [name for name in ("embeddings", "facts") if name not in arrays]:
        raise ValueError(f"it has no array {missing[0]}")
    vectors, facts = arrays.pop("embeddings"), arrays.pop("facts")
    if vectors.ndim != 2 or vectors.dtype != np.float32 or len(vectors) > size:
        raise ValueError(
            f"its embeddings are {vectors.dtype} {vectors.shape}, wanted float32, a row for each tracklet"
        )
    for name, array in arrays.items():
        if array.shape != vectors.shape[:1]:
            raise ValueError(f"its array {name} is {array.shape}, wanted {vectors.shape[:1]}")
    return vectors, {name: array.tolist() for name, array in arrays.items()}, facts.item()


def _array(member: Any, name: str) -> NDArray[Any]:
    """An array of an archive; objects are never unpickled."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    except ValueError as error:
        raise ValueError("it holds pickled objects" if "pickle" in str(error) else f"{name}: {error}") from error
    return array


def _write_csv(file: BinaryIO, width: int, parts: Parts, columns: Columns, facts: str) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "facts", *(f"embedding_{at}" for at in range(width))])
    labels = zip(*columns.values(), strict=True)
    for part in parts:
        for vector in part:  # 9 digits keep every bit of a float32
            writer.writerow([*next(labels), facts, *(f"{value:.9g}" for value in vector.tolist())])
    text.detach()


def _read_csv(path: Path) -> Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        names = next(lines, [])
        numbers = [at for at, name in enumerate(names) if name.startswith("embedding_")]
        wanted = ["facts", *(f"embedding_{at}" for at in range(len(numbers)))]
        if [name for name in names if name in wanted] != wanted:
            raise ValueError("its first line does not name the columns facts, embedding_0, embedding_1, ...")
        columns: dict[str, list[Any]] = {name: [] for name in names if name not in wanted}
        vectors: list[NDArray[np.float32]] = []
        facts = "{}"
        for fields in lines:
            if len(fields) != len(names):
                raise ValueError(f"line {lines.line_num} has {len(fields)} fields, wanted {len(names)}")
            row = dict(zip(names, fields, strict=True))
            if vectors and row["facts"] != facts:
                raise ValueError(f"the facts of line {lines.line_num} are not those of the lines before")
            facts = row["facts"]
            vectors.append(np.array([fields[at] for at in numbers], np.float32))
            for name, values in columns.items():
                values.append(row[name])
    return np.array(vectors, np.float32).reshape(len(vectors), len(numbers)), columns, facts


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
_READERS: dict[str, Callable[[Path], Table]] = {".parquet": _read_parquet, ".npz": _read_npz, ".csv": _read_csv}
