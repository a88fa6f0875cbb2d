"""A network that embeds tracklets, on one process or several."""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from strfnet.data.frames import MAX_PIXELS
from strfnet.data.sampling import evaluation_sampler
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.evaluation.protocols import Distance
from strfnet.inference.embedding import embed, embed_each
from strfnet.inference.embedding_file import facts_of
from strfnet.inference.shards import Shards, digest_of
from strfnet.layers.attention import choose_attention
from strfnet.models.source import Preprocessing
from strfnet.system.compat import computing_with_tf32
from strfnet.system.names import check_choice
from strfnet.system.progress import ProgressLine, inform
from strfnet.system.signals import Stopped, stop_requests
from strfnet.system.version import __version__
from strfnet.training.distributed import process_rank
from strfnet.training.sharing import share

Precision = Literal["fp32", "tf32", "bf16"]


@dataclass(frozen=True)
class Embedder:
    """A network on its device, and how tracklets are fed to it.

    Args:
        network: the network, on its device.
        name: its name, by which unfinished embeddings are recognised.
        preprocessing: how frames are resized.
        batch: clips of a batch.
        workers: threads that read frames; 0 reads them in the calling thread.
        optimize: embed by the form of the network that `strfnet.optimize` returns for full batches.
        progress: show progress on stderr.
        precision: "fp32", without TF32; "tf32", which allows TF32 in convolutions and products on CUDA; or "bf16", a
            copy of the network in bfloat16. None: the type of the network, under PyTorch's flags.
        ragged: clips of unequal numbers of frames share a batch, see `strfnet.inference.embed`.
        max_pixels: of an image file; a larger image is not decoded.

    Raises: ValueError for an unknown precision, or for ``ragged`` with ``optimize``, whose network takes clips of one
    shape.
    """

    network: nn.Module
    name: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    batch: int = 8
    workers: int = 2
    optimize: bool = False
    progress: bool = False
    precision: Precision | None = None
    ragged: bool = False
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.precision is not None:
            check_choice("precision", self.precision, get_args(Precision))
        if self.ragged and self.optimize:
            raise ValueError(
                "ragged is True, but an optimized network takes clips of one shape; wanted one of the two"
            )

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def embed(self, tracklets: Sequence[Tracklet], clips: tuple[str, int]) -> Tensor:
        """Returns the embeddings of tracklets, (n, d) on the CPU of every process; the processes share the work.

        Args:
            tracklets: the same on all processes.
            clips: a clip sampler of `strfnet.data.sampling` and the frames of its clips.
        """
        with self._flags():
            work = partial(embed, self._prepared(clips), progress=self.progress, **self._settings(clips))
            return share(work, tracklets, self.device)

    def embed_into(
        self,
        path: Path,
        tracklets: Sequence[Tracklet],
        clips: tuple[str, int],
        *,
        metric: Distance = "cosine",
        data_set: DataSet | None = None,
    ) -> int:
        """Writes the embeddings of tracklets as `save_embeddings` does; the processes share the work.

        The work is done in shards (see `Shards`). If it is stopped or killed, the same call resumes at the first
        shard that is missing, with any number of processes. The file does not depend on interruptions.

        SIGTERM, SIGINT and SIGHUP raise `Stopped`, whose exit code is 143, 130 or 129. A second SIGINT ends the
        process at once.

        Args:
            path: the safetensors file. Its shards are in ``<path>.parts`` until it is complete.
            tracklets: at least one, the same on all processes.
            clips: a clip sampler of `strfnet.data.sampling` and the frames of its clips.
            metric: the distance by which the embeddings are to be compared. They have length 1 for "cosine"; for
                "euclidean" they are as the network returns them.
            data_set: whose test tracklets these are; the file keeps its name and its queries.

        Returns: the width of an embedding on the first process, 0 on the others, which do not wait.
        Raises: ValueError as `strfnet.inference.embed` does, or if the shards belong to other embeddings.
        """
        if not tracklets:
            raise ValueError("got 0 tracklets, wanted at least 1")
        facts = {**self.facts(clips, metric), **({} if data_set is None else facts_of(data_set))}
        with closing(Shards(path, tracklets, self._made_by(clips), self.device, facts)) as shards, self._flags():
            if self.progress and shards.before:
                found = f"{shards.before} of {len(tracklets)} tracklets are in {shards.folder} already"
                inform(f"{found}: resuming")
            groups = [shards.tracklets(number) for number in shards.mine]
            mine = sum(map(len, groups))
            alone = shards.before + mine == len(tracklets)
            before, label = (shards.before, "") if alone else (0, "of this process's share, ")
            try:
                with stop_requests() as request, request.immediate():
                    line = ProgressLine(
                        before + mine, "tracklets embedded", "frames", done=before, label=label, shown=self.progress
                    )
                    network = self._prepared(clips)
                    computed = embed_each(network, groups, advance=line.advance, **self._settings(clips))
                    with line, closing(computed):
                        for number, embeddings in zip(shards.mine, computed, strict=True):
                            shards.save(number, embeddings)
                    if self.progress and not alone:
                        inform("this share is done; waiting for the other processes")
                    return shards.join() if process_rank() == 0 else 0
            except Stopped as stopped:
                if self.progress:
                    done = f"{shards.done()} of {len(tracklets)} tracklets are in {shards.folder}"
                    inform(f"strfnet: stopped by {stopped.name}; {done}; the same command resumes")
                raise

    def facts(self, clips: tuple[str, int], metric: Distance = "cosine") -> dict[str, Any]:
        """Returns what a file of embeddings says of how they were computed, see `save_embeddings`.

        Files with an equal network (by name and by the SHA-256 of its weights), clips, size, interpolation and
        ``metric`` can be compared. Frames are always normalized as ImageNet's.
        """
        check_choice("metric", metric, get_args(Distance))
        return {
            "network": self.name,
            "weights": digest_of(self.network),
            "clips": f"{clips[0]}:{clips[1]}",
            "size": list(self.preprocessing.size),
            "interpolation": self.preprocessing.interpolation,
            "metric": metric,
            "precision": self.precision or str(next(self.network.parameters()).dtype).removeprefix("torch."),
            "version": __version__,
        }

    def _prepared(self, clips: tuple[str, int]) -> nn.Module:
        """The network in the given precision, or its optimized form for full batches of such clips."""
        dtype = torch.bfloat16 if self.precision == "bf16" else None
        if self.optimize:
            from strfnet.deployment import optimize

            return optimize(self.network, (self.batch, 3, clips[1], *self.preprocessing.size), dtype=dtype)
        if dtype is None:
            return self.network
        network = copy.deepcopy(self.network).to(dtype)
        choose_attention(network)
        return network

    def _flags(self) -> AbstractContextManager[None]:
        return computing_with_tf32(None if self.precision in (None, "bf16") else self.precision == "tf32")

    def _settings(self, clips: tuple[str, int]) -> dict[str, Any]:
        """Arguments of `embed` and `embed_each`."""
        return {
            "clips": evaluation_sampler(clips[0], frames=clips[1]),
            "size": self.preprocessing.size,
            "interpolation": self.preprocessing.interpolation,
            "batch": self.batch,
            "workers": self.workers,
            "ragged": self.ragged,
            "max_pixels": self.max_pixels,
        }

    def _made_by(self, clips: tuple[str, int]) -> dict[str, Any]:
        """Everything but the tracklets that the embeddings depend on, to the last bit."""
        return {
            "network": self.name,
            "weights": digest_of(self.network)[:16],
            "dtype": str(next(self.network.parameters()).dtype),
            "device": self.device.type,
            "clips": f"{clips[0]}:{clips[1]}",
            "size": self.preprocessing.size,
            "interpolation": self.preprocessing.interpolation,
            "batch": self.batch,
            "optimize": self.optimize,
            **({"ragged": True} if self.ragged else {}),
            **({} if self.precision is None else {"precision": self.precision}),
        }
