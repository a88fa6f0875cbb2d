"""Embeddings of many tracklets in shards: a kill loses only the current shard, and memory holds no more than one."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strfnet.data.fingerprint import fingerprint
from strfnet.data.tracklet import Tracklet
from strfnet.inference.embedding_file import describe, header_of, write_rows
from strfnet.inference.embedding_formats import check_format
from strfnet.system.files import Lock, check_writable, lock, make_folder, replacing
from strfnet.system.progress import inform
from strfnet.training.distributed import gather_bytes, world_size
from strfnet.weights.store import CheckpointStore, pack, sha256

SIZE = 256  # tracklets of a shard: enough to fill batches of clips of many lengths; a minute's work of a fast CPU
VECTORS = "embeddings.safetensors"
_LONGEST_HEADER = 100_000_000  # bytes that readers of safetensors accept


class Shards:
    """The finished shards of a file of embeddings, in the folder ``<file>.parts`` beside it.

    Shard i holds the i-th `SIZE` tracklets, whichever process computes it, so the final file is the same however
    often the work was stopped and however many processes shared it. A shard is a checkpoint of a `CheckpointStore`
    with metadata of what it was computed from. One whose frames have changed since is computed again. The processes
    of ``torchrun`` share the missing shards; several machines must share the folder.

    Args:
        path: of the final file, in a folder that exists.
        tracklets: all tracklets of the file, the same on all processes.
        made_by: everything else that the embeddings depend on, as JSON can hold it.
        device: used for communication.
        facts: of the final file, see `save_embeddings`. The shards do not depend on them.

    Attributes:
        mine: the numbers of the missing shards that this process computes.
        before: the number of tracklets in finished shards.

    Raises: ValueError if the folder has shards that were computed from something else (listing the differences), if
    another process works in it, or if the list of tracklets is too long for one file.
    """

    def __init__(
        self,
        path: Path,
        tracklets: Sequence[Tracklet],
        made_by: Mapping[str, Any],
        device: torch.device,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        check_format(path, tracklets)
        self.path, self.folder = path, path.with_name(f"{path.name}.parts")
        self._store = CheckpointStore(self.folder)
        self._tracklets, self._described = tracklets, describe(tracklets)
        self._facts = dict(facts or {})
        listed = f"{len(tracklets)} listed as {sha256(self._described.encode())[:16]}"
        made_by = {"tracklets": listed, **made_by, "part": SIZE}
        self._made_by: dict[str, Any] = json.loads(json.dumps(made_by))  # as it is read from disk
        self.count = -(-len(tracklets) // SIZE)
        self._rank = torch.distributed.get_rank() if world_size() > 1 else 0
        self._lock: Lock | None = None
        check_writable(path)
        if (length := len(header_of(self._described, len(tracklets), 2**20, self._facts))) > _LONGEST_HEADER:
            limit = f"takes {length} bytes of {_LONGEST_HEADER}"
            raise ValueError(f"listing {len(tracklets)} tracklets {limit}: embed the tracklets into several files")
        missing = self._open() if self._rank == 0 else []
        # All processes use the list of the first one, because shards may be finished while others read the folder.
        missing = json.loads(gather_bytes(json.dumps(missing).encode(), device)[0])
        self.mine = missing[self._rank :: world_size()]
        self.before = len(tracklets) - sum(len(self.tracklets(number)) for number in missing)
        # Before the frames are read: a change while they are is found by the next command.
        self._frames = {number: fingerprint(self.tracklets(number)) for number in self.mine}

    def tracklets(self, number: int) -> Sequence[Tracklet]:
        """The tracklets of a shard."""
        return self._tracklets[number * SIZE : (number + 1) * SIZE]

    def save(self, number: int, embeddings: Tensor) -> None:
        """Save a shard atomically."""
        self._store.save(number, {VECTORS: pack({"embeddings": embeddings})}, self._metadata_of(number))

    def _metadata_of(self, number: int) -> dict[str, Any]:
        return {"made_by": self._made_by, "frames": self._frames[number]}

    def done(self) -> int:
        """The number of tracklets in finished shards."""
        return sum(len(self.tracklets(number)) for number in self._store.numbers())

    def join(self) -> int:
        """Wait for the shards of all processes, write the final file atomically, and remove the shards.

        One process calls it. The shards are read and verified one by one.

        Returns: d, the length of an embedding.
        Raises: ValueError naming a shard that is damaged, which is removed, or that has vanished.
        """
        # No barrier: it would time out where one process is an hour late.
        while missing := set(range(self.count)) - set(self._store.numbers()):
            if vanished := sorted(missing.intersection(self.mine) if world_size() > 1 else missing):
                gone = f"shards {', '.join(map(str, vanished))} have vanished from {self.folder}"
                raise ValueError(f"{gone}; the same command computes them again")
            time.sleep(0.1)
        with replacing(self.path) as file:
            parts = (self._joined(number) for number in range(self.count))
            rows = len(self._tracklets)
            width = write_rows(file, self.path.suffix.lower(), parts, self._described, rows, self._facts)
        self._store.keep_only([])
        return width

    def close(self) -> None:
        """Unlock the folder, and remove it if it is empty."""
        if self._lock is not None and not self._store.numbers():
            with suppress(OSError):  # it has files of the user, or another process is about to save its first shard
                if {path.name for path in self.folder.iterdir()} == {".lock"}:
                    (self.folder / ".lock").unlink()
                    self.folder.rmdir()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _open(self) -> list[int]:
        """Lock and clean the folder, and verify its shards. Returns the numbers of the missing ones."""
        make_folder(self.folder)
        self._lock = lock(self.folder / ".lock")
        self._store.clean()
        try:
            self._check_made_by()
            self._check_shards()
        except ValueError:
            self.close()
            raise
        return sorted(set(range(self.count)) - set(self._store.numbers()))

    def _check_shards(self) -> None:
        """Remove the shards that are damaged, and those whose frames have changed."""
        for number in self._store.numbers():
            try:
                self._load(number)
                now = fingerprint(self.tracklets(number))
                if self._store.metadata(number).get("frames", now) != now:  # shards of 0.1 do not say it
                    path = self._store.path(number)
                    raise ValueError(f"shard {path} is of frames with other names, sizes or times than they have now")
            except ValueError as error:
                self._store.remove(number)
                inform(f"{error}; it is computed again")

    def _check_made_by(self) -> None:
        for number in self._store.numbers():
            try:
                found = self._store.metadata(number).get("made_by", {})
            except ValueError:  # damaged; `_open` removes it
                continue
            names = [name for name in {**found, **self._made_by} if found.get(name) != self._made_by.get(name)]
            if names:
                differ = ", ".join(f"{name} {found.get(name)} there, {self._made_by.get(name)} now" for name in names)
                advice = "remove the folder to start from the beginning, or write to another file"
                raise ValueError(f"{self.folder} has shards of other embeddings ({differ}): {advice}")

    def _load(self, number: int) -> Tensor:
        """The embeddings of a shard, float32 (n, d). Raises: ValueError if it is damaged or has other rows."""
        checkpoint = self._store.load(number)
        rows, wanted = checkpoint.tensors(VECTORS)["embeddings"], len(self.tracklets(number))
        if rows.ndim != 2 or len(rows) != wanted:
            shape = f"{tuple(rows.shape)}, wanted one row for each of {wanted} tracklets"
            raise ValueError(f"shard {checkpoint.path} is {shape}")
        return rows

    def _joined(self, number: int) -> Tensor:
        """The embeddings of a shard of the final file, which is removed if it is damaged."""
        try:
            return self._load(number)
        except ValueError as error:
            self._store.remove(number)
            raise ValueError(f"{error}; it is removed, and the same command computes it again") from error


def digest_of(network: nn.Module) -> str:
    """The SHA-256 of a network's state dict, names included, on whatever device it is."""
    digest = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
