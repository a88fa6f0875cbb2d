"""Files of weights: ours, in which no bit can change unseen, and those of others, read without running code."""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from strfnet.system.files import write_whole

FORMAT = 1
OURS = "strfnet"  # the entry of a safetensors file's metadata that makes it one of ours
BLANK = "0" * 64
WALKERS = "walkers"  # the word for the weights that come with this package
SHIPPED = Path(__file__).parent / "pretrained"
SHOWN = 8  # of what does not fit; the rest is counted


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Args:
        tensors: by name, on the CPU.
        description: what a file of ours says of its network; None for a file of others.
        beside: the numbers and words that lay beside a ``state_dict``; None if the file was the bare weights.
    """

    tensors: dict[str, Tensor]
    description: dict[str, Any] | None = None
    beside: dict[str, Any] | None = None


def find_file(pretrained: str | Path, name: str) -> Path:
    """The file that is meant for a network: the one that comes with this package if it is "walkers", else itself.

    Raises: ValueError if none comes for ``name``, naming those for which one does.
    """
    if str(pretrained) != WALKERS:
        return Path(pretrained)
    file = SHIPPED / f"{name}_{WALKERS}.safetensors"
    if not file.exists():
        there = ", ".join(sorted(path.stem.removesuffix(f"_{WALKERS}") for path in SHIPPED.glob("*.safetensors")))
        raise ValueError(f"no weights {WALKERS!r} come for {name}, wanted {there}; a file so named is ./{WALKERS}")
    return file


def write_file(path: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write a file of ours, whole or not at all.

    It is a safetensors file with one entry in its metadata: JSON, which starts with the SHA-256 of the whole file
    as it is with 64 zeros in the digest's place.

    Raises: ValueError for weights that are NaN or infinite, or a description that JSON cannot hold.
    """
    check_finite(tensors, "the network")
    try:
        told = json.dumps({"sha256": BLANK, "format": FORMAT, **description})
    except (TypeError, ValueError) as error:
        raise ValueError(f"facts must be what JSON can hold: {error}") from error
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    blank = safetensors.torch.save(plain, {OURS: told})
    digest = hashlib.sha256(blank).hexdigest()
    write_whole(path, blank.replace(BLANK.encode(), digest.encode(), 1))


def read_file(path: Path) -> Weights:
    """What a file of weights holds: one of ours, plain safetensors, or one of ``torch.save``.

    The last is a pickle. It is read by torch's restricted unpickler, which knows tensors and plain containers and
    runs nothing; single NumPy numbers are all that is allowed beside, and they are made here, not by NumPy's pickle.

    Raises: ValueError naming the file and the reason, whatever the file is.
    """
    try:
        content = path.read_bytes()
        return _read(content)
    except FileNotFoundError as error:
        raise ValueError(f"cannot read weights from {path}: there is no such file") from error
    except IsADirectoryError as error:
        raise ValueError(f"cannot read weights from {path}: it is a folder") from error
    except Exception as error:  # those of safetensors and of torch's unpickler have no base of their own
        raise ValueError(f"cannot read weights from {path}: {_in_a_line(error)}") from error


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """What is missing in ``given``, left over, or of another shape or kind of number, a phrase each."""
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [f"{name} is not in the network" for name in given if name not in wanted]
    for name in wanted.keys() & given.keys():
        one, other = given[name], wanted[name]
        if one.shape != other.shape or one.is_floating_point() != other.is_floating_point():
            wrong.append(f"{name} is {_kind(one)}, wanted {_kind(other)}")
    return wrong


def listed(wrong: list[str]) -> str:
    """The first of what does not fit, and how much more there is."""
    more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    return ", ".join(wrong[:SHOWN]) + more


def check_finite(tensors: Mapping[str, Tensor], source: object) -> None:
    """Raises: ValueError naming the weights that are NaN or infinite."""
    broken = [f"{name} is not finite" for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(f"{source} has weights that are NaN or infinite: {listed(broken)}")


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
    if metadata.keys() - {"format", OURS}:  # a bit of our own entry's name may have changed
        raise ValueError(f"its metadata has the entries {sorted(metadata)}, wanted those of strfnet, or none")
    description = _checked(content, json.loads(metadata[OURS])) if OURS in metadata else None
    tensors = {name: tensor.clone() for name, tensor in safetensors.torch.load(content).items()}
    if not tensors:
        raise ValueError("it holds no weights")
    return Weights(tensors, description)


def _checked(content: bytes, description: dict[str, Any]) -> dict[str, Any]:
    """The description without its digest and format, both of which must be right."""
    digest = str(description.pop("sha256", ""))
    blank = content.replace(digest.encode(), BLANK.encode(), 1)
    if not re.fullmatch("[0-9a-f]{64}", digest) or hashlib.sha256(blank).hexdigest() != digest:
        raise ValueError("it is damaged: its content is not what was written")
    if description.pop("format", None) != FORMAT:
        raise ValueError(f"it is of another format, wanted {FORMAT}; a newer strfnet may read it")
    return description


def _unpickled(content: bytes) -> Weights:
    numbers: list[Any] = [(_Dtype, "numpy.dtype")]
    numbers += [(_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1 and 2
    with torch.serialization.safe_globals(numbers):
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
        raise ValueError(f"it holds what is no weight: {listed(odd)}; wanted a state dict, bare or as 'state_dict'")
    return Weights({name: tensor.detach() for name, tensor in found.items()}, beside=beside)


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
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _in_a_line(error: Exception) -> str:
    """The reason alone: torch's refusals go on with advice to read the file without protection."""
    refused = re.search(
        r"(?:Unsupported (?:global|operand|class)|Trying to (?:load|call)|Can only)[^\n]*", str(error)
    )
    if refused and not isinstance(error, ValueError):
        what = re.sub(r" was not an allowed global by default\..*", "", refused[0])
        return f"it holds more than weights, which is not run ({what})"
    return " ".join(str(error).split()) or type(error).__name__
