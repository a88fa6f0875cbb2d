"""The log of a run: one JSON object a line, and TensorBoard's files by option."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strfnet.system.files import target_of


class Log:
    """A file to which each line is appended in a single write, so that a kill leaves no part of one.

    Every line has a ``kind`` (start, step, evaluation, save, stop, result) and the optimizer ``step``. Numbers that
    are not finite are null.

    Args:
        path: of the file. None writes nothing, for processes other than the first.
        size: bytes to keep. Later lines belong to steps after the checkpoint from which the run resumes.
        tensorboard: folder for TensorBoard's files; None writes none.
        step: the step at which the run starts or resumes.
    """

    def __init__(self, path: Path | None, *, size: int = 0, tensorboard: Path | None = None, step: int = 0) -> None:
        self._file: int | None = None
        self._board: Any = None
        if path is None:
            return
        self._file = os.open(target_of(path), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644)
        if os.fstat(self._file).st_size > size:
            os.ftruncate(self._file, size)
        if tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line. TensorBoard gets the numbers of steps and evaluations too."""
        if self._file is None:
            return
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        line = json.dumps({"kind": kind, "step": step, **plain}, ensure_ascii=False, allow_nan=False)
        os.write(self._file, line.encode() + b"\n")
        if self._board is not None and kind in ("step", "evaluation"):
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Wait until all lines are on the disk. Returns the size of the file in bytes."""
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
