"""The checkpoint store: numbered folders of files with metadata, written atomically and verified when read."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from strfnet.system.files import (
    make_folder,
    remove_folder,
    remove_unfinished,
    room_for,
    sync_folder,
    unfinished_name,
    write_synced,
)
from strfnet.system.reading import is_plain_name, read_regular

VERSION = 1
DESCRIPTION = "description.json"
LONGEST_DESCRIPTION = 2**24  # bytes; ours have a few thousand


@dataclass(frozen=True)
class Checkpoint:
    """The verified content of a checkpoint.

    Args:
        path: its folder.
        metadata: what was saved with the files, with ``version`` and the ``sha256`` of each file.
        files: contents by name.
    """

    path: Path
    metadata: dict[str, Any]
    files: dict[str, bytes]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors in a file that `pack` wrote. Raises: ValueError if it is missing or another kind."""
        try:
            return safetensors.torch.load(self.files[name])
        except (KeyError, SafetensorError) as error:
            raise ValueError(
                f"checkpoint {self.path} has no tensors in {name}, its files are {[*self.files]}"
            ) from error


class CheckpointStore:
    """Checkpoints in one folder, by number. A run saves its steps so, an embedding command its shards.

    Only a folder with a description is removed or replaced; others are the user's.

    Args:
        folder: of all checkpoints; `save` makes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """The folder of a checkpoint, whether it exists or not."""
        return self.folder / f"{number:08d}"

    def numbers(self) -> list[int]:
        """The numbers of all checkpoints, ascending; none if the folder does not exist."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in found if re.fullmatch(r"[0-9]{8,}", path.name))

    def save(self, number: int, files: Mapping[str, bytes], metadata: Mapping[str, Any]) -> Path:
        """Write a checkpoint atomically, in place of one of the same number. Returns its folder.

        The files are written to a folder of another name and synced to the disk before that folder is renamed. A
        kill at any moment leaves the checkpoints as they were, and at most a hidden folder that `clean` removes.

        Args:
            number: such as the step; the highest is the newest.
            files: contents by name.
            metadata: what JSON can hold.

        Raises: ValueError if something else has the place of the checkpoint; OSError naming the file for which the
        disk has no room, with the bytes that it needs. Nothing of the checkpoint is left then.
        """
        make_folder(self.folder)
        unfinished, finished = unfinished_name(self.folder), self.path(number)
        _check_ours(finished)
        unfinished.mkdir()
        description = {"version": VERSION, "sha256": {name: sha256(files[name]) for name in files}, **metadata}
        try:
            for name, content in {**files, DESCRIPTION: _sealed(description)}.items():
                with room_for(finished / name, len(content)):
                    write_synced(unfinished / name, content)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        sync_folder(unfinished)
        remove_folder(finished)
        unfinished.rename(finished)
        sync_folder(self.folder)
        return finished

    def metadata(self, number: int) -> dict[str, Any]:
        """The metadata of a checkpoint; its files are not read. Raises: ValueError as `read_checkpoint` does."""
        return _metadata(self.path(number))

    def load(self, number: int) -> Checkpoint:
        """The checkpoint of a number. Raises: ValueError as `read_checkpoint` does."""
        return read_checkpoint(self.path(number))

    def load_newest(self) -> Checkpoint | None:
        """The checkpoint of the highest number; None if there is none.

        Raises: ValueError if it is damaged, naming the newest one before it that is not.
        """
        numbers = self.numbers()
        if not numbers:
            return None
        try:
            return self.load(numbers[-1])
        except ValueError as error:
            if numbers[-1] not in self.numbers():  # the run that writes it has removed it meanwhile
                return self.load_newest()
            advice = "no earlier one is undamaged"
            for good in numbers[:-1]:
                with suppress(ValueError):
                    path = self.load(good).path
                    advice = f"{path} is undamaged: remove {self.path(numbers[-1]).name} to resume from it"
            raise ValueError(f"{error}; {advice}") from error

    def remove(self, number: int) -> None:
        """Remove a checkpoint atomically. Raises: ValueError if the folder of that name is none."""
        _check_ours(self.path(number))
        remove_folder(self.path(number))

    def keep_only(self, numbers: Collection[int | None]) -> None:
        """Remove all checkpoints but those of these numbers."""
        for number in self.numbers():
            if number not in numbers and _is_ours(self.path(number)):
                self.remove(number)

    def clean(self) -> None:
        """Remove what interrupted saves and removals have left."""
        remove_unfinished(self.folder)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises: ValueError naming the checkpoint and the file that is damaged, missing, or of another version.
    """
    metadata, files = _metadata(folder), {}
    for name, digest in metadata["sha256"].items():
        try:
            files[name] = read_regular(folder / name)
            verify(files[name], digest, name)
        except (OSError, ValueError) as error:
            raise ValueError(f"checkpoint {folder} is damaged: {error}") from error
    return Checkpoint(folder, metadata, files)


def pack(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """Tensors as the content of a safetensors file, wherever and in whatever memory order they are."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, metadata)


def sha256(content: bytes) -> str:
    """The digest by which every file of strfnet is verified."""
    return hashlib.sha256(content).hexdigest()


def verify(content: bytes, digest: object, name: str) -> None:
    """Raises: ValueError if ``content`` is not what the digest was made of."""
    if sha256(content) != digest:
        raise ValueError(f"{name} is not what was written")


def _is_ours(folder: Path) -> bool:
    return (folder / DESCRIPTION).is_file() and not folder.is_symlink()


def _check_ours(folder: Path) -> None:
    if os.path.lexists(folder) and not _is_ours(folder):
        raise ValueError(f"{folder} has the name of a checkpoint and no {DESCRIPTION}, so it is none: move it away")


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        content = read_regular(folder / DESCRIPTION, most=LONGEST_DESCRIPTION)
        metadata: dict[str, Any] = json.loads(content)["description"]
        version, intact = metadata["version"], content == _sealed(metadata)  # 1E-5 equals 1e-5, and is damage too
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"checkpoint {folder} is damaged: {DESCRIPTION} cannot be read ({error})") from error
    if not intact:
        raise ValueError(f"checkpoint {folder} is damaged: {DESCRIPTION} is not what was written")
    if version != VERSION:
        raise ValueError(f"checkpoint {folder} is of version {version}, wanted {VERSION}")
    _check_names(folder, metadata.get("sha256"))
    return metadata


def _check_names(folder: Path, digests: Any) -> None:
    """Raises: ValueError unless the files are named by plain names, so that none is outside the folder."""
    names = list(digests) if isinstance(digests, dict) else None
    strange = None if names is None else next((name for name in names if not is_plain_name(name)), None)
    if names is None or strange is not None:
        found = "no files" if names is None else f"the file {strange!r}"
        raise ValueError(f"checkpoint {folder} is forged: {DESCRIPTION} names {found}, wanted names without folders")


def _sealed(metadata: Mapping[str, Any]) -> bytes:
    """The content of the description's file: the metadata and their digest."""
    digest = sha256(json.dumps(metadata, sort_keys=True).encode())
    return json.dumps({"description": metadata, "sha256": digest}, indent=1).encode()
