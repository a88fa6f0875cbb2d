"""What a run tells as it goes: one JSON object a line, and TensorBoard's files by option."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Fact = str | int | float | None | list[str] | list[int]


class Log:
    """Lines added to the end of a file, each written in one go, so that a kill leaves no half of one.

    Every line has a ``kind`` (start, step, evaluation, save, stop, result) and the ``step``, counted in steps of
    the optimizer; what is not a finite number is null.

    Args:
        path: the file; None writes nothing, for the processes that leave that to the first.
        size: bytes of it that are true: lines behind them told of steps that a stop has undone.
        tensorboard: folder for TensorBoard's files, if they are wanted.
        step: by which the run stands.
    """

    def __init__(self, path: Path | None, *, size: int = 0, tensorboard: Path | None = None, step: int = 0) -> None:
        self._file: int | None = None
        self._board: Any = None
        if path is None:
            return
        self._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        if os.fstat(self._file).st_size > size:
            os.ftruncate(self._file, size)
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, facts: Mapping[str, Any]) -> None:
        """Add a line. Numbers among the facts of a step or an evaluation are shown by TensorBoard too."""
        if self._file is None:
            return
        plain = {name: _plain(value) for name, value in facts.items()}
        line = json.dumps({"kind": kind, "step": step, **plain}, ensure_ascii=False, allow_nan=False)
        os.write(self._file, line.encode() + b"\n")
        if self._board is not None and kind in ("step", "evaluation"):
            for name, value in facts.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def settle(self) -> int:
        """Wait until the disk has all lines; how many bytes they are."""
        if self._file is None:
            return 0
        os.fsync(self._file)
        if self._board is not None:
            self._board.flush()
        return os.fstat(self._file).st_size

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _plain(value: Any) -> Fact:
    return None if isinstance(value, float) and not math.isfinite(value) else value
