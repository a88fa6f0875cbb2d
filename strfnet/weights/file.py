"""Weights on disk: files of strfnet, which are verified bit by bit, files of others, and checkpoints of runs."""

import io
import json
import re
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from strfnet.system.files import write_atomically
from strfnet.system.names import check_path
from strfnet.system.reading import read_regular
from strfnet.weights.store import DESCRIPTION, CheckpointStore, pack, read_checkpoint, sha256, verify

FORMAT = 1
OURS = "strfnet"  # the entry of a safetensors file's metadata that marks a file of strfnet
BLANK = "0" * 64
WALKERS = "walkers"  # the name of the weights that are shipped with strfnet
SHIPPED = Path(__file__).parent / "pretrained"
CHECKPOINTS, BEST = "checkpoints", "best"  # the stores in the folder of a training run
WEIGHTS = "weights.safetensors"  # the file of a checkpoint that holds the state dict
LARGEST_EXPANSION = 16  # times the bytes of a file, where tensors share numbers or repeat them
SHOWN = 8  # misfits in a message; the others are counted
_NUMBERS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
_NUMBERS |= {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}
_UNPICKLING = threading.Lock()  # PyTorch keeps one list of safe globals, for all threads


@dataclass(frozen=True)
class Weights:
    """Weights that were read from disk.

    Args:
        tensors: by name, on the CPU.
        metadata: of a file of strfnet or a checkpoint; None for files of others.
        beside: the numbers and strings beside a ``state_dict``; None if the file holds the bare state dict.
    """

    tensors: dict[str, Tensor]
    metadata: dict[str, Any] | None = None
    beside: dict[str, Any] | None = None


def find_file(pretrained: str | Path, name: str) -> Path:
    """Returns the path of a network's weights: the shipped file for "walkers", else ``pretrained`` itself.

    Raises: ValueError if no file is shipped for the network ``name``, with the names that have one.
    """
    check_path("pretrained", pretrained)
    if str(pretrained) != WALKERS:
        return Path(pretrained)
    file = SHIPPED / f"{name}_{WALKERS}.safetensors"
    if not file.exists():
        shipped = ", ".join(sorted(path.stem.removesuffix(f"_{WALKERS}") for path in SHIPPED.glob("*.safetensors")))
        wanted = f"wanted {shipped}, or ./{WALKERS} for a file of that name"
        raise ValueError(f"weights {WALKERS!r} are not available for {name}, {wanted}")
    return file


def write_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write a file of strfnet atomically.

    It is a safetensors file. The one entry of its metadata is JSON that starts with the SHA-256 of the whole file,
    computed with 64 zeros in place of the digest.

    Raises: ValueError for weights that are NaN or infinite, or metadata that JSON cannot hold.
    """
    check_finite(tensors, "the network")
    try:
        text = json.dumps({"sha256": BLANK, "format": FORMAT, **metadata})
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts must be what JSON can hold: {error}") from error
    blank = pack(tensors, {OURS: text})
    write_atomically(path, blank.replace(BLANK.encode(), sha256(blank).encode(), 1))


def read_weights(path: str | Path, *, best: bool = False) -> Weights:
    """Read weights, from whatever holds them.

    A file of ``torch.save`` is a pickle. It is read by torch's restricted unpickler, which knows tensors and plain
    containers and runs nothing; single NumPy numbers are allowed beside them, and are made without NumPy's pickle.

    Args:
        path: a file of strfnet, another safetensors file, a file of ``torch.save``, a checkpoint, or the folder of a
            training run, whose newest checkpoint is read.
        best: read the weights of a run's best evaluation instead.

    Raises: ValueError naming the path and the reason, whatever is there.
    """
    check_path("path", path)
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, BEST if best else CHECKPOINTS)
    try:
        return _read(read_regular(path))
    except FileNotFoundError as error:
        raise ValueError(f"cannot read weights from {path}: there is no such file") from error
    except Exception as error:  # those of safetensors and of torch's unpickler have no common base
        raise ValueError(f"cannot read weights from {path}: {_in_a_line(error)}") from error


def check_fit(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], what: str, *, dtypes: bool = False) -> None:
    """Raises: ValueError with the `misfits`, after ``what`` such as "run3 does not fit c2d_resnet8"."""
    if wrong := misfits(given, wanted, dtypes=dtypes):
        raise ValueError(f"{what}: {listed(wrong)}")


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, dtypes: bool = False) -> list[str]:
    """Phrases for each tensor that is missing, left over, of another shape or kind of number, or too large for it.

    With ``dtypes``, float16 and float32 are different kinds too.
    """
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [f"{name} is not in the network" for name in given if name not in wanted]
    for name in wanted:
        if name not in given:
            continue
        one, other = given[name], wanted[name]
        same = one.dtype == other.dtype if dtypes else one.is_floating_point() == other.is_floating_point()
        if one.shape != other.shape or not same:
            wrong.append(f"{name} is {_kind(one)}, wanted {_kind(other)}")
        elif not bool((one.to(other.dtype).isfinite() == one.isfinite()).all()):
            wrong.append(f"{name} has values up to {one.abs().max():.1e}, too large for {_dtype(other)}")
    return wrong


def listed(wrong: list[str]) -> str:
    """The first misfits, and the number of the others."""
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return ", ".join(wrong[:SHOWN]) + more


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raises: ValueError naming the weights that are NaN or infinite."""
    broken = [f"{name} is not finite" for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"{source} has weights that are NaN or infinite: {listed(broken)}")


def _read_folder(path: Path, store: str) -> Weights:
    """The weights of a checkpoint, or of the newest in one of the stores of a run."""
    checkpoints = CheckpointStore(path / store)
    checkpoint = checkpoints.load_newest()
    if checkpoint is None and not (path / DESCRIPTION).exists():
        what = "run"
        if store == BEST and CheckpointStore(path / CHECKPOINTS).numbers():
            what = "best weights, because its run was not evaluated"
        raise ValueError(f"{path} holds no {what}, wanted a folder that `strfnet train --out` has filled")
    checkpoint = checkpoint or read_checkpoint(path)
    return Weights(checkpoint.tensors(WEIGHTS), checkpoint.metadata)


def _read(content: bytes) -> Weights:
    if not content:
        raise ValueError("it is empty")
    if content[:512].lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise ValueError("it is a web page, not weights; the download went wrong")
    if content[8:9] == b"{":
        return _read_safetensors(content)
    if content.startswith((b"PK\x03\x04", b"\x80\x02")):  # torch's archives, and what it wrote before 1.6
        return _unpickled(content)
    raise ValueError("it is neither a safetensors file nor one of torch.save, or its beginning is damaged")


def _read_safetensors(content: bytes) -> Weights:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header.get("__metadata__", {})
    if metadata.keys() - {"format", OURS}:  # a bit of the entry's own name may have changed
        raise ValueError(f"its metadata has the entries {sorted(metadata)}, wanted those of strfnet, or none")
    ours = _verified(content, json.loads(metadata[OURS])) if OURS in metadata else None
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(content).items()}
    if not tensors:
        raise ValueError("it holds no weights")
    _check_numbers(tensors)
    return Weights(tensors, ours)


def _verified(content: bytes, metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata without digest and format, both of which must be right."""
    digest = str(metadata.pop("sha256", ""))
    if not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError("it is damaged: its digest is gone")
    verify(content.replace(digest.encode(), BLANK.encode(), 1), digest, "it is damaged: its content")
    if metadata.pop("format", None) != FORMAT:
        raise ValueError(f"it is of another format, wanted {FORMAT}; a newer strfnet may read it")
    return metadata


def _check_archive(content: bytes) -> None:
    """Raises: ValueError for a ZIP archive that `torch.save` does not write, by what it seems to be."""
    try:
        entries = zipfile.ZipFile(io.BytesIO(content)).infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(f"it is cut off or damaged, and not a ZIP archive any more ({error})") from error
    names = [entry.filename.rpartition("/")[2] for entry in entries]
    if "constants.pkl" in names:
        raise ValueError("it is a TorchScript program, wanted its state dict, as torch.save writes it")
    if any(name.endswith(".npy") for name in names):
        raise ValueError("it is a NumPy archive (npz), wanted a state dict, as torch.save writes it")
    if "data.pkl" not in names:
        raise ValueError("it is a ZIP archive, but not one of torch.save")
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > len(content):
        raise ValueError("it is compressed, so it may unpack to any size; torch.save does not compress")


def _check_sizes(content: bytes, tensors: Mapping[str, Tensor]) -> None:
    """Raises: ValueError for tensors that repeat their numbers, so that a small file becomes large tensors."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if size > LARGEST_EXPANSION * len(content):
        raise ValueError(f"its {len(content)} bytes expand to tensors of {size}, more than {LARGEST_EXPANSION} times")


def _unpickled(content: bytes) -> Weights:
    if content.startswith(b"PK"):
        _check_archive(content)
    numbers: list[Any] = [(_Dtype, "numpy.dtype")]
    numbers += [(_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1 and 2
    with _UNPICKLING, torch.serialization.safe_globals(numbers):
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    beside = None
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        beside = {name: value for name, value in found.items() if name != "state_dict"}
        found = found["state_dict"]
    if not isinstance(found, dict) or not found:
        raise ValueError(f"it holds {type(found).__name__}, wanted weights by name")
    odd = [f"{name} ({type(value).__name__})" for name, value in found.items() if not _is_plain(name, value)]
    odd += [
        f"{name} beside the weights ({type(value).__name__})"
        for name, value in (beside or {}).items()
        if not isinstance(value, int | float | str | np.generic | None)
    ]
    if odd:
        raise ValueError(f"it holds more than weights: {listed(odd)}; wanted a state dict, bare or as 'state_dict'")
    _check_numbers(found)
    _check_sizes(content, found)
    # Clones, as tied weights would move together in a network that has them apart, and expanded ones cannot move.
    return Weights({name: tensor.detach().clone() for name, tensor in found.items()}, beside=beside)


def _check_numbers(tensors: Mapping[str, Tensor]) -> None:
    """Raises: ValueError for weights in a type, such as float8, in which a network does not compute."""
    if odd := [f"{name} is {_kind(tensor)}" for name, tensor in tensors.items() if tensor.dtype not in _NUMBERS]:
        raise ValueError(f"its weights are of another type: {listed(odd)}; wanted float32, float16 or bfloat16")


def _is_plain(name: Any, value: Any) -> bool:
    dense = isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized
    return isinstance(name, str) and dense and value.device.type == "cpu"


class _Dtype:
    """Stands for ``numpy.dtype`` while a file is read."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, "|"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


def _number(dtype: _Dtype, content: bytes) -> np.generic:
    """One number from its bytes, in the place of NumPy's ``scalar``, which would make objects too."""
    if not isinstance(dtype, _Dtype) or not re.fullmatch("[fiu][1248]|b1", str(dtype.code)):
        raise ValueError(f"it holds a NumPy object of type {getattr(dtype, 'code', dtype)!r}, wanted a number")
    number: np.generic = np.frombuffer(content, np.dtype(f"{dtype.order}{dtype.code}"), count=1)[0]
    return number


def _kind(tensor: Tensor) -> str:
    return f"{_dtype(tensor)} {tuple(tensor.shape)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _in_a_line(error: Exception) -> str:
    """The reason alone: torch's refusals go on with advice to read the file without protection."""
    refused = re.search(
        r"(?:Unsupported (?:global|operand|class)|Trying to (?:load|call)|Can only)[^\n]*", str(error)
    )
    if refused and not isinstance(error, ValueError):
        what = re.sub(r" was not an allowed global by default\..*", "", refused[0])
        return f"it holds more than weights, which is not run ({what})"
    return " ".join(str(error).split()) or type(error).__name__
