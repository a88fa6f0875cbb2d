"""Networks lent to somebody who changes their mode, and given back as they were."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(network: nn.Module) -> Iterator[None]:
    """Afterwards each module is in its own mode again, a norm that was frozen in training too."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode, for as long as it lasts."""
    with modes_kept(network):
        network.eval()
        yield
