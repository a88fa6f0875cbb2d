"""The log of a run: one JSON object a line, and TensorBoard's files by option."""

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from strfnet.system.files import room_for, target_of
from strfnet.system.reading import read_regular


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
        self._path = path
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
        content = line.encode(errors="backslashreplace") + b"\n"  # of a name that is no UTF-8, an escape of JSON
        with room_for(self._path, len(content)):
            while content:  # a disk that is full takes a part of it first
                content = content[os.write(self._file, content) :]
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
    """The lines of a log, in UTF-8 in any locale. Lines that are cut or foreign are left out, with a warning.

    Raises: ValueError naming the file if it cannot be read, or if none of its lines is one of a log.
    """
    try:
        content = read_regular(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the log {path}: {getattr(error, 'strerror', error)}") from error
    lines = [line for line in content.split(b"\n") if line.strip()]
    sound = [found for line in lines if (found := _parsed(line)) is not None]
    if lines and not sound:
        raise ValueError(f"{path} is not the log of a run: none of its {len(lines)} lines has a kind and a step")
    if left := len(lines) - len(sound):
        warnings.warn(f"{path}: {left} of {len(lines)} lines are cut or foreign, and left out", stacklevel=2)
    return sound


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    sound = isinstance(found, dict) and isinstance(found.get("kind"), str) and isinstance(found.get("step"), int)
    return found if sound else None
