"""Files of published data sets other than frames, and their counts, checked before use."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from strfnet.data.readers.directory import check_file, check_folder
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet

_HDF5 = b"\x89HDF\r\n\x1a\n"


def data_root(root: str | Path, *, holds: str, inside: str) -> Path:
    """The folder that has ``holds``: the root, or the folder ``inside`` it, once or twice, as archives unpack.

    Raises: ValueError naming the root if it is missing, no folder, or none of these has it.
    """
    root = Path(root)
    check_folder(root, f"a folder with {holds} in it")
    for place in (root, root / inside, root / inside / inside):
        if (place / holds).exists():
            return place
    raise ValueError(f"{root} holds neither {holds} nor {inside}{os.sep}{holds}, wanted the folder of the data set")


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, without empty ones at its end. ``what`` describes the file, for messages.

    Raises: ValueError naming the file if it is missing, empty or not UTF-8.
    """
    check_file(path, what)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}, {what}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty, wanted {what}")
    return lines


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises: ValueError naming the file if it is missing or not JSON."""
    check_file(path, what)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}, {what}: {error}") from error


def read_matlab(path: Path, variable: str, what: str) -> NDArray[np.int64]:
    """A table of whole numbers from a MATLAB file of any version, as int64 (rows, columns).

    The content decides: files of version 7.3 are HDF5, which scipy does not read.

    Raises: ValueError naming the file if it is missing, damaged, or has no such table; ImportError naming the library
    that is missing, scipy or h5py.
    """
    check_file(path, what)
    try:
        content = (_load_hdf5 if _is_hdf5(path) else _load_scipy)(path, variable)
    except ImportError as error:
        library = str(error.name).partition(".")[0]
        advice = f'{library}, which is not installed: pip install "strfnet[matlab]"'
        raise ImportError(f"{path} is read with {advice}") from error
    except Exception as error:  # parsers raise any exception on damaged files
        raise ValueError(f"cannot read {path}, {what}: {error or type(error).__name__}") from error
    if variable not in content:
        raise ValueError(f"{path} holds no variable {variable!r}, wanted {what}")
    table = np.asarray(content[variable])
    whole = table.dtype.kind in "iuf" and table.ndim == 2 and table.size > 0
    if not whole or not bool((table == np.round(table)).all() and (abs(table) < 2.0**53).all()):
        raise ValueError(f"{variable} in {path} is {table.dtype} {table.shape}, wanted a table of whole numbers")
    return table.astype(np.int64)  # because arithmetic of narrow unsigned numbers overflows


def _is_hdf5(path: Path) -> bool:
    """Whether the signature of HDF5 is at the start, or behind the 512 bytes that MATLAB writes before it."""
    with path.open("rb") as file:
        head = file.read(520)
    return _HDF5 in (head[:8], head[512:])


def _load_scipy(path: Path, variable: str) -> Mapping[str, Any]:
    from scipy.io import loadmat

    content: Mapping[str, Any] = loadmat(path, appendmat=False, variable_names=[variable])
    return content


def _load_hdf5(path: Path, variable: str) -> Mapping[str, Any]:
    """The axes of HDF5 are those of MATLAB in reverse."""
    import h5py

    with h5py.File(path, mode="r") as file:
        return {name: np.transpose(file[name][()]) for name in file if name == variable}


def checked(data: DataSet, root: Path, *, complete: bool, published: Mapping[str, int]) -> DataSet:
    """Returns a published data set; if it need not be ``complete``, it is named after its folder.

    Raises: ValueError listing the counts that differ from the published ones, if it has to be complete.
    """
    if complete:
        check_counts(data.name, root, found=_counts(data), published=published)
    return data if complete else data.named_after(root)


def check_counts(name: str, root: Path, *, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Raises: ValueError listing the counts that differ from the published ones."""
    wrong = [f"{found[what]} {what} (wanted {count})" for what, count in published.items() if found[what] != count]
    if wrong:
        advice = "complete=False reads a part of it, or other data in its layout"
        raise ValueError(f"{root} is not {name} as published, it has {', '.join(wrong)}; {advice}")


def _counts(data: DataSet) -> dict[str, int]:
    counts = {"queries": len(data.query), "query identities": len({data.test[row].identity for row in data.query})}
    for name, part in (("training", data.train), ("test", data.test)):
        counts[f"{name} tracklets"] = len(part)
        counts[f"{name} identities"] = len({item.identity for item in part} - {JUNK, DISTRACTOR})
        counts[f"{name} frames"] = sum(len(item.frames) for item in part)
    for name, identity in (("junk", JUNK), ("distractor", DISTRACTOR)):
        counts[f"{name} tracklets"] = sum(item.identity == identity for item in data.test)
    return counts
