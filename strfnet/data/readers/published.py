"""Files of published data sets other than frames, and their counts, checked before use."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def data_root(root: str | Path, *, holds: str, inside: str) -> Path:
    """The folder that has ``holds``: the root, or the folder ``inside`` it, once or twice, as archives unpack.

    Raises: ValueError naming the root if it is missing, no folder, or none of these has it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"{root} is {'no folder' if root.exists() else 'missing'}, wanted a folder with {holds} in it"
        )
    for place in (root, root / inside, root / inside / inside):
        if (place / holds).exists():
            return place
    raise ValueError(f"{root} holds neither {holds} nor {inside}{os.sep}{holds}, wanted the folder of the data set")


def read_lines(path: Path, what: str) -> list[str]:
    """The lines of a text file, without empty ones at its end. ``what`` describes the file, for messages.

    Raises: ValueError naming the file if it is missing, empty or not UTF-8.
    """
    try:
        lines = _present(path, what).read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read {path}, {what}: {error}") from error
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} is empty, wanted {what}")
    return lines


def read_json(path: Path, what: str) -> Any:
    """The content of a JSON file. Raises: ValueError naming the file if it is missing or not JSON."""
    _present(path, what)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"cannot read {path}, {what}: {error}") from error


def read_matlab(path: Path, variable: str, what: str) -> NDArray[np.int64]:
    """A table of whole numbers from a MATLAB file (before version 7.3), as int64 (rows, columns).

    Raises: ValueError naming the file if it is missing, damaged, or has no such table; ImportError without scipy.
    """
    _present(path, what)
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ImportError(_needs(path, "scipy")) from error

    return _numbers(path, variable, what, lambda: loadmat(path, appendmat=False, variable_names=[variable]))


def read_hdf5(path: Path, dataset: str, what: str) -> NDArray[np.int64]:
    """A table of whole numbers from a MATLAB 7.3 file, which is HDF5, as int64, in the axis order of HDF5.

    Raises: ValueError naming the file if it is missing, damaged, or has no such table; ImportError without h5py.
    """
    _present(path, what)
    try:
        import h5py
    except ImportError as error:
        raise ImportError(_needs(path, "h5py")) from error

    def load() -> Mapping[str, Any]:
        with h5py.File(path, mode="r") as file:
            return {name: file[name][()] for name in file if name == dataset}

    return _numbers(path, dataset, what, load)


def check_counts(name: str, root: Path, *, found: Mapping[str, int], published: Mapping[str, int]) -> None:
    """Raises: ValueError listing the counts that differ from the published ones."""
    wrong = [f"{found[what]} {what} (wanted {count})" for what, count in published.items() if found[what] != count]
    if wrong:
        advice = "complete=False reads a part of it, or other data in its layout"
        raise ValueError(f"{root} is not {name} as published, it has {', '.join(wrong)}; {advice}")


def _present(path: Path, what: str) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is {'no file' if path.exists() else 'missing'}, wanted {what}")
    return path


def _needs(path: Path, library: str) -> str:
    return f'{path} is read with {library}, which is not installed: pip install "strfnet[matlab]"'


def _numbers(path: Path, variable: str, what: str, load: Callable[[], Mapping[str, Any]]) -> NDArray[np.int64]:
    """A loaded variable as int64, because arithmetic of narrow unsigned numbers overflows."""
    try:
        content = load()
    except Exception as error:  # parsers raise any exception on damaged files
        raise ValueError(f"cannot read {path}, {what}: {error or type(error).__name__}") from error
    if variable not in content:
        raise ValueError(f"{path} holds no variable {variable!r}, wanted {what}")
    table = np.asarray(content[variable])
    whole = table.dtype.kind in "iuf" and table.ndim == 2 and table.size > 0
    if not whole or not bool((table == np.round(table)).all() and (abs(table) < 2.0**53).all()):
        raise ValueError(f"{variable} in {path} is {table.dtype} {table.shape}, wanted a table of whole numbers")
    return table.astype(np.int64)
