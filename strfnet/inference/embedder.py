"""A network together with how it is to be shown tracklets, from a training run or by its name."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from strfnet.data.tracklet import Tracklet
    from strfnet.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Network:
    """A trained network, or one by name, and how it is shown its tracklets.

    Args:
        trained: folder of a training run whose network is taken, as it was after the newest checkpoint.
        best: take the weights of the run's best evaluation instead.
        model: without a run: one of `strfnet models`.
        weights: without a run: a file with all its weights, of ours or of published code, or walkers, which come
            with strfnet; null takes torchvision's for its image network if they are at hand, and random ones else.
        height: of the frames, in pixels; null as in the training, or 256 if that is not known.
        width: of the frames, in pixels; null as in the training, or 128.
        interpolation: bilinear or bicubic; null as in the training, or bilinear.
        batch: clips at a time.
        workers: threads that read frames.
        device: such as cpu or cuda:1; null takes a GPU if there is one.
        optimize: fold the batch norms and compile the network for full batches first (`strfnet.optimize`), which
            takes up to a minute.
        seed: of what starts at random.
    """

    trained: Path | None = None
    best: bool = False
    model: str | None = None
    weights: Path | None = None
    height: int | None = None
    width: int | None = None
    interpolation: str | None = None
    batch: int = 8
    workers: int = 2
    device: str | None = None
    optimize: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.trained is None) == (self.model is None):
            raise ValueError(f"trained is {self.trained} and model is {self.model}, wanted one of the two")
        if self.trained is not None and self.weights is not None:
            raise ValueError(f"weights are {self.weights}, but a training run has its own; wanted model with them")
        if self.trained is None and self.best:
            raise ValueError("best is true, but only a training run has best weights; wanted trained with it")
        for name in ("height", "width", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Embedder:
    """A network on its device, its name, and the size, interpolation, batch and workers by which clips reach it.

    With ``optimize`` it is `strfnet.optimize`'s form of the network that embeds.
    """

    network: "nn.Module"
    name: str
    size: tuple[int, int]
    interpolation: str
    batch: int
    workers: int
    optimize: bool = False

    @classmethod
    def of_recipe(cls, network: "nn.Module", recipe: "Recipe") -> "Embedder":
        """The network shown clips as in its training."""
        return cls(
            network, recipe.model, (recipe.height, recipe.width), recipe.interpolation, recipe.batch, recipe.workers
        )

    def embed(self, tracklets: Sequence["Tracklet"], clips: tuple[str, int], *, progress: bool = False) -> "Tensor":
        """One vector for each tracklet, (n, d) on the CPU of every process; the processes share the work.

        Args:
            tracklets: the same on all processes.
            clips: a test form of `strfnet.data.sampling`, and the frames of its clips.
            progress: whether this process tells how far it is.
        """
        from functools import partial

        from strfnet.inference.embedding import embed
        from strfnet.training.sharing import share

        work = partial(embed, self._at_work(clips), progress=progress, **self._settings(clips))
        return share(work, tracklets, self._device)

    def embed_into(
        self, path: Path, tracklets: Sequence["Tracklet"], clips: tuple[str, int], *, progress: bool = False
    ) -> int:
        """Write one vector for each tracklet as `save_embeddings` does; the processes share the work.

        The work is done in parts (see `Parts`). Stopped or killed at any moment, it goes on with the part
        that was in work when it is called again in the same way, by as many processes as there are then. The file
        does not depend on any of this.

        SIGTERM and SIGINT raise `Stopped`, whose exit code is 143 or 130; a second SIGINT ends the process at once.

        Args:
            path: of the safetensors file. While it is made, ``<path>.parts`` is beside it.
            tracklets: at least one, the same on all processes.
            clips: a test form of `strfnet.data.sampling`, and the frames of its clips.
            progress: whether this process tells how far it is.

        Returns: the length of a vector; 0 on all processes but the first, which do not wait for the others.
        Raises: ValueError as `embed` does, or if ``<path>.parts`` cannot be gone on with.
        """
        from contextlib import closing

        from strfnet.inference.embedding import embed_each
        from strfnet.inference.shards import Parts
        from strfnet.system.progress import counting
        from strfnet.system.signals import Stopped, hearing_signals

        if not tracklets:
            raise ValueError("got 0 tracklets, wanted at least 1")
        settings = self._settings(clips)
        with closing(Parts(path, tracklets, self._facts(clips), self._device)) as parts:
            if progress and parts.before:
                told = f"{parts.before} of {len(tracklets)} tracklets are in {parts.folder} already"
                print(f"{told}: going on from there", file=sys.stderr)
            groups = [parts.tracklets(number) for number in parts.mine]
            share = sum(map(len, groups))
            alone = parts.before + share == len(tracklets)
            before, whose = (parts.before, "") if alone else (0, "of this process's share, ")
            try:
                with hearing_signals() as asked, asked.leaving_at_once():
                    counted = counting(before + share, before=before, whose=whose, shown=progress)
                    network = self._at_work(clips)
                    with counted as tell, closing(embed_each(network, groups, tell=tell, **settings)) as made:
                        for number, embeddings in zip(parts.mine, made, strict=True):
                            parts.put(number, embeddings)
                    if progress and not alone:
                        print("this share is done; waiting for the other processes'", file=sys.stderr)
                    return parts.join() if is_first() else 0
            except Stopped as stopped:
                if progress:
                    told = f"{parts.done()} of {len(tracklets)} tracklets are in {parts.folder}"
                    advice = "the same command goes on from there"
                    print(f"strfnet: stopped by {stopped.name}; {told}; {advice}", file=sys.stderr)
                raise

    @property
    def _device(self) -> "torch.device":
        return next(self.network.parameters()).device

    def _at_work(self, clips: tuple[str, int]) -> "nn.Module":
        """The network, or its form for full batches of such clips."""
        if not self.optimize:
            return self.network
        from strfnet.deployment import optimize

        return optimize(self.network, (self.batch, 3, clips[1], *self.size))

    def _settings(self, clips: tuple[str, int]) -> dict[str, Any]:
        """How the network is shown clips, as `strfnet.inference.embedding` wants to be told."""
        from strfnet.data.sampling import evaluation_form

        return {
            "clips": evaluation_form(clips[0], frames=clips[1]),
            "size": self.size,
            "interpolation": self.interpolation,
            "batch": self.batch,
            "workers": self.workers,
        }

    def _facts(self, clips: tuple[str, int]) -> dict[str, Any]:
        """All that embeddings depend on beside the tracklets, rounding included."""
        from strfnet.inference.shards import digest_of

        return {
            "network": self.name,
            "weights": digest_of(self.network)[:16],
            "dtype": str(next(self.network.parameters()).dtype),
            "device": self._device.type,
            "clips": f"{clips[0]}:{clips[1]}",
            "size": self.size,
            "interpolation": self.interpolation,
            "batch": self.batch,
            "optimize": self.optimize,
        }


def make_embedder(asked: Network) -> Embedder:
    """The network that is asked for, on its device, with the weights that it is to have.

    Raises: ValueError for an unknown model, a folder without a run, weights that do not fit or are damaged, or a
    device that is not there.
    """
    import torch

    from strfnet.models import create_model
    from strfnet.training.run_directory import read_run
    from strfnet.training.sharing import join_processes
    from strfnet.training.state import check_fit, read_weights
    from strfnet.weights.file import find_file, read_file

    name, facts = str(asked.model), {}
    weights: dict[str, Tensor] | None = None
    pretrained: Path | None = None
    if asked.trained is not None:
        recipe, weights = read_run(asked.trained, best=asked.best)
        name, facts = recipe.model, recipe.to_json()
    elif asked.weights is not None and asked.weights.is_dir():
        weights = read_weights(asked.weights)
    elif asked.weights is not None:
        pretrained = find_file(asked.weights, name)
        facts = (read_file(pretrained).description or {}).get("facts", {})
    device = join_processes(asked.device)
    torch.manual_seed(asked.seed)
    at_hand = _weights_at_hand(name) if weights is None and pretrained is None else None
    network = create_model(name, num_classes=None, weights=at_hand, pretrained=pretrained)
    if weights is not None:
        kept = {key: value for key, value in weights.items() if not key.startswith("head.classifier.")}
        check_fit(network, kept, asked.trained or asked.weights)
        network.load_state_dict(kept)
    size = asked.height or facts.get("height", 256), asked.width or facts.get("width", 128)
    interpolation = asked.interpolation or facts.get("interpolation", "bilinear")
    return Embedder(network.to(device), name, size, interpolation, asked.batch, asked.workers, asked.optimize)


def is_first() -> bool:
    """Whether this is the process that tells and writes, of those that ``torchrun`` may have started."""
    return os.environ.get("RANK", "0") == "0"


def _weights_at_hand(name: str) -> str | None:
    """Weights at hand for the image network of a network by name; a line on stderr says what it starts from."""
    from strfnet.models.resnet import DEPTHS, cached_weights

    weights = cached_weights(next(depth for depth in DEPTHS if depth in name))
    start = f"torchvision's {weights}, found at hand" if weights else "random weights"
    if is_first():
        print(f"{name} starts from {start}; it was not trained to tell people apart", file=sys.stderr)
    return weights
