"""Work other than training that the processes of ``torchrun`` share: each does a part, all get the whole."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from strfnet.system.progress import inform
from strfnet.training.distributed import gather_rows, process_rank, world_size
from strfnet.training.environment import environment_of_torchrun

Item = TypeVar("Item")


def join_processes(device: str | None = None) -> torch.device:
    """Join the process group of ``torchrun``, if it started this process. Returns the device of this process.

    Args:
        device: such as "cpu" or "cuda:1"; None selects a GPU if one is available. With several processes, each uses
            a GPU of its own.

    Raises: ValueError for a device that is not available.
    """
    from accelerate import PartialState

    with environment_of_torchrun():
        state = PartialState(cpu=device == "cpu")
    if device is None:
        warn_without_gpu(state.device)
    if device is None or device == "cpu" or state.num_processes > 1:
        return state.device
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not available: {str(error).splitlines()[0]}") from error


def warn_without_gpu(device: torch.device) -> None:
    """Write a line on stderr if a device was selected for the user and PyTorch's CUDA build finds no GPU."""
    if device.type == "cpu" and torch.version.cuda is not None and process_rank() == 0:
        built = f"PyTorch {torch.__version__} is built for CUDA {torch.version.cuda}"
        inform(f"strfnet: {built} but sees no GPU, so the CPU is used; device cpu hides this line")


def share(work: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], device: torch.device) -> Tensor:
    """Compute one row for each item on all processes. Returns all rows, in order, on the CPU of every process.

    Each process computes the rows of a contiguous part of the items. If there are fewer items than processes, every
    process computes all.

    Args:
        work: returns the rows (n, ...) of n items.
        items: the same on all processes.
        device: used for communication.
    """
    size = world_size()
    if size == 1 or len(items) < size:
        return work(items)
    rank = torch.distributed.get_rank()
    begin, end = (len(items) * part // size for part in (rank, rank + 1))
    rows = work(items[begin:end])
    return gather_rows(rows.to(device)).cpu()
