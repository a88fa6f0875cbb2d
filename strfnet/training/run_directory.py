"""The folder of a training run, and how a run finds its position there.

RUN/log.jsonl                 one line for each step, evaluation and save
RUN/checkpoints/00000235/     after step 235: all that resuming needs
RUN/best/00000235/            the weights of the evaluation with the highest first metric
RUN/result.json               once the run is finished: the metrics of the last epoch
RUN/tensorboard/              by option
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from strfnet.data.fingerprint import fingerprint
from strfnet.data.tracklet import Tracklet
from strfnet.system.files import Lock, lock, make_folder, remove_unfinished, write_atomically
from strfnet.system.reading import read_regular
from strfnet.training.accelerator import Engine
from strfnet.training.distributed import gather_bytes
from strfnet.training.log import Log
from strfnet.training.recipe import Recipe
from strfnet.training.state import Position, random_states, restore, restore_random_states, training_state
from strfnet.weights.file import BEST, CHECKPOINTS, WEIGHTS, read_weights
from strfnet.weights.store import CheckpointStore, pack, sha256


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run.

    Args:
        step: optimizer steps done, over all epochs.
        epoch: epochs done.
        metrics: of the evaluation after the last epoch; they are the result.
        best: the highest first metric of all evaluations. It is no result, because it was selected on the data that
            it is measured on.
        best_step: the step of that evaluation.
        folder: of the run.
    """

    step: int
    epoch: int
    metrics: dict[str, float]
    best: float | None
    best_step: int | None
    folder: Path

    def __str__(self) -> str:
        if not self.metrics:
            return f"{self.epoch} epochs, {self.step} steps, not evaluated; saved in {self.folder}"
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        best = f"{self.best:.4g} after step {self.best_step}"
        return (
            f"result, after the last epoch ({self.epoch}, step {self.step}): {metrics}\n"
            f"the best {next(iter(self.metrics))} was {best}; selected on the test data, it is no result\n"
            f"saved in {self.folder}"
        )


class RunDirectory:
    """The open folder of a run. The first process writes it, all processes read it.

    Its ``position`` is where the run stands; at first, that of the newest checkpoint.

    Args:
        path: made if it does not exist. Several machines must share it.
        recipe: of the run.
        engine: the state to save and restore.
        tracklets: the training data, of which a digest is saved.
        classes: of the network; saved for readers of the weights.
        data_changed: whether other tracklets of as many identities may follow. The position is then the beginning of
            its epoch.

    Raises: ValueError, with nothing changed, if the folder cannot be resumed: its newest checkpoint is damaged; the
    recipe, the data or the world size differ (listing what does); another process works in it; or it has a log or a
    result that is no run's.
    """

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        engine: Engine,
        tracklets: Sequence[Tracklet],
        classes: int,
        *,
        data_changed: bool = False,
    ) -> None:
        self.path, self._recipe, self._engine = path, recipe, engine
        self._metadata: dict[str, Any] = {
            "recipe": recipe.to_json(),
            "classes": classes,
            "processes": engine.world_size,
            "data": _identified(tracklets),
        }
        self._checkpoints, self._best = CheckpointStore(path / CHECKPOINTS), CheckpointStore(path / BEST)
        self._data_changed = data_changed
        self._lock: Lock | None = None
        if self._writes:
            make_folder(path)
            self._lock = lock(path / ".lock")
            for folder in (path, self._checkpoints.folder, self._best.folder):
                remove_unfinished(folder)
        gather_bytes(b"cleaned", engine.device)  # no process reads before
        self.log = Log(None)
        try:
            self.position, self._random, self._log_size = self._restore()
        except ValueError:
            self.close()
            raise

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        numbers = self._checkpoints.numbers()
        return self._checkpoints.path(numbers[-1]) if numbers else None

    def restore_random_states(self) -> bool:
        """Restore this process's random states from the checkpoint. Returns whether there is one."""
        if self._random is not None:
            restore_random_states(self._random, self._engine.device)
        return self._random is not None

    def close(self) -> None:
        """Close the log and unlock the folder."""
        self.log.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def begin(self, facts: Mapping[str, Any]) -> None:
        """Open the log with a line that has these facts too, and remove an earlier result, because steps follow."""
        if self._writes:
            (self.path / "result.json").unlink(missing_ok=True)
            board = self.path / "tensorboard" if self._recipe.tensorboard else None
            step, size = self.position.step, self._log_size
            self.log = Log(self.path / "log.jsonl", size=size, tensorboard=board, step=step)
            self.log.write("start", step, {**self._metadata, **facts})

    def save(self) -> None:
        """Save all state as a checkpoint, and remove the oldest checkpoints, as the recipe says."""
        states = gather_bytes(random_states(self._engine.device), self._engine.device)
        if self._writes:
            self._write(states)
        gather_bytes(b"saved", self._engine.device)  # torchrun ends all processes once one has left

    def _write(self, states: Sequence[bytes]) -> None:
        files = training_state(self._engine.network, self._engine.optimizer)
        files |= {_random_name(rank): state for rank, state in enumerate(states)}
        scaler = self._engine.accelerator.scaler
        self.log.write("save", self.position.step, {})
        group = self._engine.optimizer.param_groups[0]
        metadata = {
            **self._metadata,
            "position": asdict(self.position),
            "learning_rate": group["lr"] / group["factor"],
            "scaler": scaler.state_dict() if scaler else None,
            "log": self.log.sync(),
        }
        self._checkpoints.save(self.position.step, files, metadata)
        kept = self._checkpoints.numbers()[-self._recipe.keep :]
        self._checkpoints.keep_only(kept)
        try:
            steps = [self._checkpoints.metadata(number)["position"]["best_step"] for number in kept]
        except ValueError:  # one is damaged, and the best that it names is not known
            return
        self._best.keep_only(steps)

    def save_best(self, metrics: Mapping[str, float]) -> None:
        """Save the weights of this position; the next `save` removes those of the previous best."""
        if self._writes:
            files = {WEIGHTS: pack(self._engine.network.state_dict())}
            self._best.save(self.position.step, files, {**self._metadata, "figures": dict(metrics)})

    def finish(self, metrics: Mapping[str, float]) -> Outcome:
        """Write the result."""
        at = self.position
        outcome = Outcome(at.step, at.epoch, dict(metrics), at.best, at.best_step, self.path)
        if self._writes:
            self.log.write("result", at.step, metrics)
            content = {"figures" if name == "metrics" else name: value for name, value in asdict(outcome).items()}
            text = json.dumps({**content, "folder": str(self.path)}, indent=1)
            write_atomically(self.path / "result.json", text.encode())
        return outcome

    def finished(self) -> Outcome | None:
        """The outcome, if no step is left to do."""
        path = self.path / "result.json"
        if self.position.epoch < self._recipe.epochs or not path.exists():
            return None
        content = _content(path)
        try:
            result = json.loads(content)
            result |= {"metrics": result.pop("figures"), "folder": self.path}
            return Outcome(**result) if result["step"] == self.position.step else None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path} is cut or foreign: remove it, and the same command writes it again") from error

    @property
    def _writes(self) -> bool:
        return self._engine.rank == 0

    def _restore(self) -> tuple[Position, bytes | None, int]:
        """Returns the position, this process's random states, and the size of the log at the newest checkpoint."""
        checkpoint = self._checkpoints.load_newest()
        if checkpoint is None:
            _check_free(self.path)
            return Position(), None, 0
        metadata = checkpoint.metadata
        differs = Recipe.from_json(metadata["recipe"]).differences(self._recipe)
        for key, name in (("classes", "identities"), ("processes", "world size")):
            if metadata[key] != self._metadata[key]:
                differs.append(f"{name} was {metadata[key]} and is {self._metadata[key]}")
        before, now = metadata["data"], self._metadata["data"]
        frames = before.get("frames", now["frames"])  # runs of before 0.2 do not have it
        others = []
        if {**before, "frames": None} != {**now, "frames": None}:
            others.append(f"tracklets was {before} and is {now}")
        elif frames != now["frames"]:
            others.append("frames of the tracklets have other names, sizes or times than they had")
        advice = "use another folder for this run, or the old settings"
        if others and not self._data_changed:
            differs += others
            advice += ", or set data_changed to go on with these data"
        if differs:
            raise ValueError(f"{checkpoint.path} is of another run: {', '.join(differs)}; {advice}")
        restore(self._engine.network, self._engine.optimizer, checkpoint.files, checkpoint.path)
        if self._engine.accelerator.scaler and metadata["scaler"]:
            self._engine.accelerator.scaler.load_state_dict(metadata["scaler"])
        random = checkpoint.files[_random_name(self._engine.rank)]
        position = Position(**metadata["position"])
        if others:
            self._metadata["data_before"] = before
            position = replace(position, batch=0)
        return position, random, metadata["log"]


def read_run(folder: Path, *, best: bool = False) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a run and its newest weights, or those of its best evaluation.

    Raises: ValueError naming the folder if it is not of a run, or the checkpoint if it is damaged.
    """
    weights = read_weights(folder, best=best)
    metadata = weights.metadata or {}
    if "recipe" not in metadata:
        raise ValueError(f"{folder} is not a training run, wanted a folder that `strfnet train --out` has filled")
    try:
        return Recipe.from_json(metadata["recipe"]), weights.tensors
    except (ValueError, TypeError, AttributeError) as error:  # anybody can forge a recipe with values of any type
        raise ValueError(f"{folder} holds a recipe that is none: {error}") from error


def _check_free(folder: Path) -> None:
    """Raises: ValueError for a file of the user that a new run would overwrite."""
    for name, start in (("log.jsonl", b'{"kind": "start"'), ("result.json", b'{\n "step": ')):
        path = folder / name
        if os.path.lexists(path) and _content(path)[: len(start)] not in (start, b""):
            raise ValueError(f"{path} was not written by a run of strfnet: use another folder")


def _content(path: Path) -> bytes:
    try:
        return read_regular(path)
    except ValueError as error:
        raise ValueError(f"cannot read {path}: {error}") from error


def _random_name(rank: int) -> str:
    return f"random{rank}.safetensors"


def _identified(tracklets: Sequence[Tracklet]) -> dict[str, Any]:
    """The number of tracklets, and digests of identities, cameras and lengths, and of frames, wherever they are."""
    content = [[item.identity, item.camera, len(item.frames)] for item in tracklets]
    return {
        "tracklets": len(tracklets),
        "sha256": sha256(json.dumps(content).encode()),
        "frames": fingerprint(tracklets),
    }
