"""Training of a network, on one process or several, resumed from the newest checkpoint in its folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from strfnet.data.loader import TrainingClips
from strfnet.data.tracklet import Tracklet, check_labelled
from strfnet.data.transforms import Augmentation
from strfnet.layers.head import ReIDOutput
from strfnet.system.names import check_path
from strfnet.system.progress import inform
from strfnet.system.references import call, is_reference
from strfnet.system.signals import Stopped, stop_requests
from strfnet.training.accelerator import Engine, deterministic_kernels, flushed_denormals, make_engine, state_kept
from strfnet.training.loop import Evaluate, TrainingLoop
from strfnet.training.recipe import Recipe
from strfnet.training.run_directory import Outcome, RunDirectory
from strfnet.weights.file import CHECKPOINTS, listed
from strfnet.weights.rebuilt import differences
from strfnet.weights.store import CheckpointStore

if TYPE_CHECKING:
    from strfnet.losses.objective import Objective


def train(
    network: nn.Module,
    objective: Callable[[ReIDOutput, Tensor], "Objective"],
    tracklets: Sequence[Tracklet],
    recipe: Recipe,
    folder: str | Path,
    *,
    evaluate: Evaluate | None = None,
    progress: bool = True,
    data_changed: bool = False,
) -> Outcome:
    """Train a network by a recipe, or resume its training from the newest checkpoint in the folder.

    Resuming is exact. Where the arithmetic itself is reproducible (on one machine, with ``deterministic``), a run
    that is killed at any moment and resumed ends in the weights, bit for bit, of a run without a stop. The processes
    of ``torchrun`` share each batch; loss, mining and gradient are those of the whole batch.

    After SIGTERM, SIGINT or SIGHUP, the step is finished and saved, and `Stopped` is raised with the exit code 143,
    130 or 129. A second SIGINT ends the process at once; in an interactive session it raises KeyboardInterrupt. The
    global generators of torch, NumPy and Python are seeded.

    Args:
        network: trained in place, on the recipe's device; in training it returns a ``ReIDOutput``. With
            ``sync_batchnorm`` its batch norms are replaced. With ``strided_ragged`` it is called as
            ``network(clips, lengths)`` where clips have unequal lengths, see `ReIDNetwork`.
        objective: called with the output and the labels of the whole batch, on all processes.
        tracklets: the training data. Classes are their identities in sorted order, see `identity_labels`.
        recipe: all settings.
        folder: of the run, see `strfnet.training.run_directory`; not in the recipe's folder of data.
        evaluate: returns metrics by name. It is called with the network on all processes, every ``evaluate_every``
            epochs and after the last. The weights with the highest first metric are saved as the best.
        progress: whether to write the progress to stderr.
        data_changed: whether to resume although the tracklets are not those of the newest checkpoint. The epoch is
            then repeated from its beginning, and the log says so. The number of identities must be the same.

    Returns: the metrics after the last epoch, which are the result, and the folder.
    Raises: ValueError for arguments that do not fit together, or a network that the recipe's model does not build,
    before the first step; `Diverged` with the step and its tracklets if a loss or gradient is not finite, or with the
    names of weights that are not, which are not saved; `Stopped`.
    """
    if isinstance(objective, nn.Module) and any(weight.requires_grad for weight in objective.parameters()):
        raise ValueError("the objective has weights, and the optimizer trains those of the network; wanted none")
    check_path("folder", folder)
    _check_apart(Path(folder), recipe.data)
    labels = identity_labels(tracklets)
    if not CheckpointStore(Path(folder) / CHECKPOINTS).numbers():
        _check_model(network, recipe, max(labels) + 1)
    clips = _training_clips(tracklets, labels, recipe)
    with deterministic_kernels(recipe), stop_requests() as request:
        engine = make_engine(network, recipe)
        request.announced = engine.rank == 0
        if recipe.batch < engine.world_size:
            raise ValueError(
                f"batch must be at least {engine.world_size}, one clip for each process, got {recipe.batch}"
            )
        if recipe.ragged:
            _check_takes_lengths(engine, recipe)
        classes = max(labels) + 1
        directory = RunDirectory(Path(folder), recipe, engine, tracklets, classes, data_changed=data_changed)
        try:
            loop = TrainingLoop(engine, objective, clips, recipe, directory, request)
            with flushed_denormals(engine.device) as flushed:
                return directory.finished() or loop.run(evaluate, progress, flushed)
        except Stopped as stopped:
            step = directory.position.step
            directory.log.write("stop", step, {"signal": stopped.name})
            if engine.rank == 0:
                saved = f"stopped by {stopped.name} after step {step}, saved in {directory.last}"
                inform(f"strfnet: {saved}; the same command resumes from there")
            raise
        finally:
            directory.close()


def identity_labels(tracklets: Sequence[Tracklet]) -> list[int]:
    """The class of each tracklet: the index of its identity among all of them in sorted order, numbers first.

    Raises: ValueError if there are no tracklets, or one has no identity.
    """
    if not tracklets:
        raise ValueError("there are no tracklets to train on, wanted at least two identities")
    check_labelled(tracklets, "training")
    identities = {item.identity for item in tracklets}
    order = sorted(identities, key=lambda identity: (isinstance(identity, str), identity))
    label = {identity: index for index, identity in enumerate(order)}
    return [label[item.identity] for item in tracklets]


def _training_clips(tracklets: Sequence[Tracklet], labels: Sequence[int], recipe: Recipe) -> TrainingClips:
    return TrainingClips(
        tracklets,
        labels,
        seed=recipe.seed,
        frames=recipe.frames,
        sampling=recipe.sampling,
        stride=recipe.stride,
        size=(recipe.height, recipe.width),
        interpolation=recipe.interpolation,
        max_pixels=recipe.max_pixels,
        augmentation=Augmentation(recipe.flip, recipe.crop, recipe.erasing, per_frame=recipe.per_frame),
    )


def _check_model(network: nn.Module, recipe: Recipe, classes: int) -> None:
    """Raises: ValueError if the recipe's model builds another network, so that the run could not be read back."""
    named: Any = network
    name, options = getattr(network, "name", None), getattr(network, "options", {})
    if name == recipe.model and hasattr(network, "differences"):
        wrong = named.differences()
        if options != (recipe.options or {}):
            wrong = [f"its options are {options}, not {recipe.options or {}}"]
    elif is_reference(recipe.model):
        with torch.random.fork_rng([]):
            wrong = differences(network, call(recipe.model, classes, recipe.options or {}))
    else:
        wrong = [f"it is {name or type(network).__name__}"]
    if wrong:
        raise ValueError(f"the network is not what model {recipe.model!r} of the recipe builds: {listed(wrong)}")


def _check_takes_lengths(engine: Engine, recipe: Recipe) -> None:
    """Raises: ValueError if the network takes no lengths, or its output depends on frames past the end of a clip."""
    shape = (2, 3, recipe.frames, recipe.height, recipe.width)
    clips, lengths = torch.ones(shape, dtype=engine.dtype, device=engine.device), torch.tensor([recipe.frames, 1])
    wanted = f"sampling {recipe.sampling!r} makes clips of unequal lengths, wanted a network(clips, lengths)"
    embeddings = []
    with state_kept(engine.network, engine.device), torch.no_grad():
        network = engine.network.eval()
        for padding in (0, 2):
            clips[1, :, 1:] = padding
            try:
                embeddings.append(network(clips, lengths).embedding)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{wanted} that takes them: {error}") from error
    changed, largest = torch.stack([embeddings[0] - embeddings[1], embeddings[0]]).abs().amax(dim=(1, 2)).tolist()
    if changed > 1e-3 * largest:
        raise ValueError(f"{wanted} whose output does not depend on frames past the end of a clip")


def _check_apart(folder: Path, data: Path | None) -> None:
    """Raises: ValueError if the run would be written among the data, where its folders are read as labels."""
    if data is not None and data.is_dir() and folder.resolve().is_relative_to(data.resolve()):
        raise ValueError(f"the folder of the run, {folder}, is in the data {data}: wanted another folder")
