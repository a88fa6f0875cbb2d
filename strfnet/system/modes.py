"""Training and evaluation modes: a network is evaluated by a copy that shares its weights."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn

from strfnet.system.compat import hooks_of

Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore the mode of each module on exit, also of one that differs from the network's, such as a frozen norm."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def evaluation_copy(network: Network) -> Network:
    """Returns a copy in evaluation mode with the same parameters, buffers and hooks.

    The network stays as it is, also for other threads. Hooks that are added later are of one of the two only.
    """
    memo: dict[int, object] = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    for module in network.modules():
        memo |= {id(hooks): copy.copy(hooks) for hooks in hooks_of(module).values()}
    return copy.deepcopy(network, memo).eval()


def in_evaluation(network: Network) -> Network:
    """Returns a network that computes in evaluation mode: the network itself if it does, else its `evaluation_copy`.

    Raises: ValueError for what is no module, and for a network in training mode that cannot be copied.
    """
    if not isinstance(network, nn.Module):
        raise ValueError(f"network is {type(network).__name__}, wanted a module")
    if not any(module.training for module in network.modules()):
        return network
    try:
        return evaluation_copy(network)
    except Exception as error:  # whatever a module raises that holds a handle, a lock or a tensor of a graph
        what = f"{type(network).__name__} is in training mode and cannot be copied ({type(error).__name__}: {error})"
        raise ValueError(f"{what}; call its eval() first") from error
