"""Training and evaluation modes that are restored."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Restore the mode of each module on exit, also of one that differs from the network's, such as a frozen norm."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; each module's own mode is restored on exit."""
    with modes_kept(network):
        network.eval()
        yield
