"""What a run keeps in its folder, and how it finds its place again there.

RUN/log.jsonl                 one line a step, an evaluation, a save
RUN/checkpoints/00000235/     after step 235: all that is needed to go on
RUN/best/00000235/            weights of the evaluation with the highest figure
RUN/result.json               when the run is finished: the last epoch's figures
RUN/tensorboard/              by option
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import Tensor

from strfnet.data.tracklet import Tracklet
from strfnet.system.files import claim, write_whole
from strfnet.training.accelerator import Engine
from strfnet.training.distributed import gather_bytes
from strfnet.training.log import Log
from strfnet.training.recipe import Recipe
from strfnet.training.state import (
    WEIGHTS,
    Position,
    random_states,
    restore,
    restore_random_states,
    tensor_files,
    weights_file,
)
from strfnet.weights.store import checkpoints, describe, keep, newest, put, sweep, take


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        step: steps made, over all epochs.
        epoch: epochs made.
        figures: of the evaluation after the last epoch. These are the result.
        best: the highest first figure of all evaluations, and the step after which it was found. It was chosen
            on the data it is measured on, and so is no result.
        best_step: see there.
        folder: of the run.
    """

    step: int
    epoch: int
    figures: dict[str, float]
    best: float | None
    best_step: int | None
    folder: Path

    def __str__(self) -> str:
        if not self.figures:
            return f"{self.epoch} epochs, {self.step} steps; nothing was evaluated; all is in {self.folder}"
        told = ", ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        best = f"{self.best:.4g} after step {self.best_step}"
        return (
            f"result, after the last epoch ({self.epoch}, step {self.step}): {told}\n"
            f"the best {next(iter(self.figures))} was {best}; chosen by looking at the test, it is no result\n"
            f"all is in {self.folder}"
        )


class RunFolder:
    """The folder of a run, opened; the first process writes it, all processes read it.

    Its ``position`` is where the run stands: at first, where the newest checkpoint left it.

    Args:
        path: made if it is not there. Several machines must share it.
        recipe: of the run.
        engine: whose state is kept.
        tracklets: to train on, by which the data are recognised.
        classes: of the network, told to who loads the weights.

    Raises: ValueError, with nothing changed, if what lies there cannot be gone on with: a damaged checkpoint,
    or another recipe, other data or another number of processes (listing what differs); or if another process
    works in the folder.
    """

    def __init__(
        self, path: Path, recipe: Recipe, engine: Engine, tracklets: Sequence[Tracklet], classes: int
    ) -> None:
        self.path, self._recipe, self._engine = path, recipe, engine
        self._facts = {"recipe": recipe.to_json(), "classes": classes, "processes": engine.ranks}
        self._facts["data"] = _recognised(tracklets)
        self._claimed: int | None = None
        if self._writes:
            path.mkdir(parents=True, exist_ok=True)
            self._claimed = claim(path / ".lock")
            for place in (path, self._checkpoints, self._best):
                sweep(place)
        gather_bytes(b"swept", engine.device)  # nobody reads before
        self.log = Log(None)
        try:
            self.position, self._random, self._log_size = self._found()
        except ValueError:
            self.close()
            raise

    @property
    def last(self) -> Path | None:
        """The newest checkpoint."""
        return next(reversed(checkpoints(self._checkpoints)), None)

    def restore_random_states(self) -> bool:
        """Give this process its random states of the checkpoint; whether there is one."""
        if self._random is not None:
            restore_random_states(self._random, self._engine.device)
        return self._random is not None

    def close(self) -> None:
        """Close the log, and let other processes have the folder."""
        self.log.close()
        if self._claimed is not None:
            os.close(self._claimed)
            self._claimed = None

    def begin(self) -> None:
        """Open the log and say that steps follow; a result that is there was not the last one's, then."""
        if self._writes:
            (self.path / "result.json").unlink(missing_ok=True)
            board = self.path / "tensorboard" if self._recipe.tensorboard else None
            step, size = self.position.step, self._log_size
            self.log = Log(self.path / "log.jsonl", size=size, tensorboard=board, step=step)
            self.log.write("start", step, self._facts)

    def save(self) -> None:
        """Keep all state as a checkpoint, and of the older ones as many as the recipe says."""
        position = self.position
        states = gather_bytes(random_states(self._engine.device), self._engine.device)
        if self._writes:
            self._write(position, states)
        gather_bytes(b"saved", self._engine.device)  # a process that left before would have the others ended

    def _write(self, position: Position, states: Sequence[bytes]) -> None:
        files = tensor_files(self._engine.network, self._engine.optimizer)
        files |= {_random_name(rank): state for rank, state in enumerate(states)}
        scaler = self._engine.accelerator.scaler
        self.log.write("save", position.step, {})
        facts = {
            **self._facts,
            "position": asdict(position),
            "learning_rate": self._engine.optimizer.param_groups[0]["lr"],
            "scaler": scaler.state_dict() if scaler else None,
            "log": self.log.settle(),
        }
        put(self._checkpoints, position.step, files, facts)
        kept = checkpoints(self._checkpoints)[-self._recipe.keep :]
        keep(self._checkpoints, [int(checkpoint.name) for checkpoint in kept])
        keep(self._best, [describe(checkpoint)["position"]["best_step"] for checkpoint in kept])

    def save_best(self, figures: Mapping[str, float]) -> None:
        """Keep the weights of this position; the next checkpoint lets go of those that were the best before."""
        if self._writes:
            files = {WEIGHTS: weights_file(self._engine.network)}
            put(self._best, self.position.step, files, {**self._facts, "figures": dict(figures)})

    def finish(self, figures: Mapping[str, float]) -> Outcome:
        """Write down the result."""
        outcome = self._outcome(dict(figures))
        if self._writes:
            text = json.dumps({**asdict(outcome), "folder": str(self.path)}, indent=1)
            self.log.write("result", outcome.step, figures)
            write_whole(self.path / "result.json", text.encode())
        return outcome

    def finished(self) -> Outcome | None:
        """The outcome, if there is nothing left to do."""
        path = self.path / "result.json"
        if self.position.epoch < self._recipe.epochs or not path.exists():
            return None
        written = json.loads(path.read_bytes())
        return Outcome(**{**written, "folder": self.path}) if written["step"] == self.position.step else None

    def _outcome(self, figures: dict[str, float]) -> Outcome:
        at = self.position
        return Outcome(at.step, at.epoch, figures, at.best, at.best_step, self.path)

    @property
    def _writes(self) -> bool:
        return self._engine.rank == 0

    @property
    def _checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def _best(self) -> Path:
        return self.path / "best"

    def _found(self) -> tuple[Position, bytes | None, int]:
        """Where the run stands, this process's random states, and how much of the log is true."""
        found = newest(self._checkpoints)
        if found is None:
            return Position(), None, 0
        checkpoint, facts, files = found
        differs = Recipe.from_json(facts["recipe"]).differences(self._recipe)
        for name, told in (("classes", "identities"), ("processes", "processes"), ("data", "tracklets")):
            if facts[name] != self._facts[name]:
                differs.append(f"{told} were {facts[name]} and are {self._facts[name]}")
        if differs:
            advice = "give the run another folder, or its old settings"
            raise ValueError(f"{checkpoint} is of another run: {', '.join(differs)}; {advice}")
        restore(self._engine.network, self._engine.optimizer, files, checkpoint)
        if self._engine.accelerator.scaler and facts["scaler"]:
            self._engine.accelerator.scaler.load_state_dict(facts["scaler"])
        return Position(**facts["position"]), files[_random_name(self._engine.rank)], facts["log"]


def read_run(folder: Path, *, best: bool = False) -> tuple[Recipe, dict[str, Tensor]]:
    """The recipe of a run and its newest weights, or those of its best evaluation; from any number of processes.

    Raises: ValueError naming the folder if it holds none, or the checkpoint if it is damaged.
    """
    found = checkpoints(folder / ("best" if best else "checkpoints"))
    if not found:
        what = "best weights, for nothing was evaluated" if best and checkpoints(folder / "checkpoints") else "run"
        raise ValueError(f"{folder} holds no {what}, wanted a folder that `strfnet train --out` has filled")
    facts, files = take(found[-1])
    return Recipe.from_json(facts["recipe"]), load(files[WEIGHTS])


def _random_name(rank: int) -> str:
    return f"random{rank}.safetensors"


def _recognised(tracklets: Sequence[Tracklet]) -> dict[str, Any]:
    """By what data are known again wherever they lie: how many, and a digest of who is seen how long by whom."""
    content = [[item.identity, item.camera, len(item.frames)] for item in tracklets]
    return {"tracklets": len(tracklets), "sha256": hashlib.sha256(json.dumps(content).encode()).hexdigest()}
