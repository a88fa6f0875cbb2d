"""Work that processes started by ``torchrun`` share without training: each does its part, all get the whole."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from strfnet.training.distributed import gather_rows, processes

Item = TypeVar("Item")


def join_processes(device: str | None = None) -> torch.device:
    """Meet the other processes that ``torchrun`` started, if it did, and say which device this one works on.

    Args:
        device: such as "cpu" or "cuda:1"; a GPU, if there is one, if None. Of several processes, each takes a
            GPU of its own.

    Raises: ValueError for a device that is not there.
    """
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu")
    if device is None or device == "cpu" or state.num_processes > 1:
        return state.device
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} is not there: {str(error).splitlines()[0]}") from error


def share(work: Callable[[Sequence[Item]], Tensor], items: Sequence[Item], device: torch.device) -> Tensor:
    """The rows that ``work`` makes of the items, one for each, on the CPU of every process in the items' order.

    Every process works on a contiguous part, so that each item is worked on once. Fewer items than processes
    are worked on by all of them.

    Args:
        work: from items to as many rows (n, ...).
        items: the same on all processes.
        device: by which processes talk.
    """
    import torch.distributed as dist

    ranks = processes()
    if ranks == 1 or len(items) < ranks:
        return work(items)
    begin, end = (len(items) * part // ranks for part in (dist.get_rank(), dist.get_rank() + 1))
    rows = work(items[begin:end])
    return gather_rows(rows.to(device)).cpu()
