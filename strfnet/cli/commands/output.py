"""What a command writes: lines of the first process that torchrun has started, before and after they are joined."""

import os

from strfnet.system.progress import inform
from strfnet.training.distributed import process_rank
from strfnet.training.environment import is_launched


def is_first() -> bool:
    """Whether this process is the first one, which alone writes."""
    return process_rank() == 0 and not (is_launched() and int(os.environ["RANK"]))


def note(text: str) -> None:
    """Writes a line to stderr."""
    if is_first():
        inform(text)


def say(text: str) -> None:
    """Prints a line."""
    if is_first():
        print(text)
