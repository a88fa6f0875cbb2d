"""Embeddings of many tracklets made part by part: a kill loses the part in work, and memory holds no more."""

import hashlib
import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from strfnet.data.tracklet import Tracklet
from strfnet.inference.embedding import describe
from strfnet.system.files import claim, sync_folder
from strfnet.training.distributed import gather_bytes, processes
from strfnet.weights.store import checkpoints, put, sweep, take
from strfnet.weights.store import describe as facts_of

SIZE = 256  # tracklets: enough to fill batches of clips of many lengths; a minute's work of a fast CPU
VECTORS = "embeddings.safetensors"
_LONGEST_HEADER = 100_000_000  # bytes that readers of safetensors accept


class Parts:
    """The parts of a file of embeddings while it is being made, in the folder ``<file>.parts`` beside it.

    Part i holds `SIZE` tracklets from the i-th `SIZE` on, whoever makes it and whenever, so that the file is the
    same however often the work was stopped, and by however many processes it was done. A part is kept as a
    checkpoint is (see `strfnet.weights.store`): it is there whole or not at all, it says what made it, and a
    changed bit is noticed. Processes started by ``torchrun`` share the parts that are missing; several machines
    must share the folder.

    Args:
        path: of the file; its folder exists.
        tracklets: all that are to be in it, the same on all processes.
        made_by: what else the embeddings depend on, as JSON can hold it.
        device: by which processes talk.

    Attributes: ``mine``, the missing parts that this process is to make; ``before``, the tracklets in parts that
    are there already.
    Raises: ValueError if the folder holds parts that something else has made (listing what differs), if another
    process works in it, or if there are too many tracklets for one file.
    """

    def __init__(
        self, path: Path, tracklets: Sequence[Tracklet], made_by: Mapping[str, Any], device: torch.device
    ) -> None:
        self.path, self.folder = path, path.with_name(f"{path.name}.parts")
        self._tracklets, self._described = tracklets, describe(tracklets)
        self._facts = {"tracklets": f"{len(tracklets)} listed as {_digest(self._described)}", **made_by, "part": SIZE}
        self._facts = json.loads(json.dumps(self._facts))  # as it is read again
        self.count = -(-len(tracklets) // SIZE)
        self._rank = torch.distributed.get_rank() if processes() > 1 else 0
        self._claimed: int | None = None
        if (length := len(self._header(2**20))) > _LONGEST_HEADER:
            advice = "embed the tracklets into several files"
            raise ValueError(
                f"listing {len(tracklets)} tracklets takes {length} bytes of {_LONGEST_HEADER}: {advice}"
            )
        missing = self._open() if self._rank == 0 else []
        # The first process looks and tells the others: who looked for himself might see parts made meanwhile.
        missing = json.loads(gather_bytes(json.dumps(missing).encode(), device)[0])
        self.mine = missing[self._rank :: processes()]
        self.before = len(tracklets) - sum(len(self.tracklets(number)) for number in missing)

    def tracklets(self, number: int) -> Sequence[Tracklet]:
        """The tracklets of a part."""
        return self._tracklets[number * SIZE : (number + 1) * SIZE]

    def put(self, number: int, embeddings: Tensor) -> None:
        """Keep a part, safe on disk."""
        put(self.folder, number, {VECTORS: save({"embeddings": embeddings.contiguous()})}, {"made_by": self._facts})

    def done(self) -> int:
        """How many tracklets are in parts that are there."""
        return sum(len(self.tracklets(number)) for number in self._there())

    def join(self) -> int:
        """Wait for the other processes' parts, make the file of all, and remove the folder; for one process alone.

        One part after the other is read and checked. The file replaces one of its name when it is safe on disk.

        Returns: d, the length of an embedding.
        Raises: ValueError naming a part that was damaged since it was made; it is removed.
        """
        # No barrier: a process that is an hour late would find the others gone.
        while len(self._there()) < self.count:
            time.sleep(0.1)
        width, unfinished = 0, self.folder / ".joined.part"
        with unfinished.open("wb") as file:
            for number in range(self.count):
                try:
                    rows = self._take(number)
                except ValueError as error:
                    self._remove(number)
                    raise ValueError(f"{error}; it is removed, and the same command makes it anew") from error
                if number == 0:
                    width = rows.shape[1]
                    file.write(self._header(width))
                file.write(rows.numpy().astype("<f4", copy=False).tobytes())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(self.path)
        sync_folder(self.path.parent)
        gone = self.folder.with_name(f".{self.folder.name}.gone.part")
        shutil.rmtree(gone, ignore_errors=True)
        self.folder.rename(gone)  # all parts leave at once: a kill leaves none that would be taken for a beginning
        shutil.rmtree(gone)
        return width

    def close(self) -> None:
        """Let other processes have the folder, and remove it if nothing is in it."""
        if self._rank == 0 and self.folder.is_dir() and not self._there():
            with suppress(OSError):  # another process may be about to put its first part there
                (self.folder / ".lock").unlink(missing_ok=True)
                self.folder.rmdir()
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    def _open(self) -> list[int]:
        """Claim the folder and look through it: the parts that are missing."""
        self.folder.mkdir(exist_ok=True)
        self._claimed = claim(self.folder / ".lock")
        sweep(self.folder)
        shutil.rmtree(self.folder.with_name(f".{self.folder.name}.gone.part"), ignore_errors=True)
        try:
            self._check_facts()
        except ValueError:
            self.close()
            raise
        missing, there = [], self._there()
        for number in range(self.count):
            if number not in there:
                missing.append(number)
                continue
            try:
                self._take(number)
            except ValueError as error:
                print(f"{error}; it is made anew", file=sys.stderr)
                self._remove(number)
                missing.append(number)
        return missing

    def _check_facts(self) -> None:
        for part in checkpoints(self.folder):
            try:
                found = facts_of(part).get("made_by", {})
            except ValueError:  # damaged, which is looked at later
                continue
            names = [name for name in {**found, **self._facts} if found.get(name) != self._facts.get(name)]
            if names:
                differ = ", ".join(f"{name} {found.get(name)} there, {self._facts.get(name)} now" for name in names)
                advice = "remove the folder to start afresh, or write to another file"
                raise ValueError(f"{self.folder} holds a beginning of other embeddings ({differ}): {advice}")

    def _there(self) -> set[int]:
        return {int(part.name) for part in checkpoints(self.folder)}

    def _take(self, number: int) -> Tensor:
        """The embeddings of a part, float32 (n, d). Raises: ValueError if it is damaged or has other rows."""
        _, files = take(self.folder / f"{number:08d}")
        rows = load(files[VECTORS])["embeddings"]
        if rows.ndim != 2 or len(rows) != len(self.tracklets(number)):
            wanted = f"one row for each of {len(self.tracklets(number))} tracklets"
            raise ValueError(f"part {self.folder / f'{number:08d}'} is {tuple(rows.shape)}, wanted {wanted}")
        return rows

    def _remove(self, number: int) -> None:
        part = self.folder / f"{number:08d}"
        gone = part.with_name(f".{part.name}.gone.part")
        part.rename(gone)
        shutil.rmtree(gone)

    def _header(self, width: int) -> bytes:
        """What stands before the numbers in a safetensors file, as `save_embeddings` has it from the library."""
        rows = len(self._tracklets)
        numbers = {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, 4 * rows * width]}
        entries = {"__metadata__": {"tracklets": self._described}, "embeddings": numbers}
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        return struct.pack("<Q", len(text)) + text


def digest_of(network: nn.Module) -> str:
    """The SHA-256 of a network's weights and buffers with their names, on whatever device they are."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
