"""Network, optimizer and devices made ready by Accelerate, alike for one process and many."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from strfnet.heads.head import ReIDOutput
from strfnet.system.modes import modes_kept
from strfnet.training.distributed import synchronize_batchnorm
from strfnet.training.optimization import make_optimizer
from strfnet.training.recipe import Recipe
from strfnet.training.state import random_states, restore_random_states


@dataclass(frozen=True)
class Engine:
    """What a run works with.

    Args:
        accelerator: devices, precision and processes.
        network: the one that is trained, as it was handed in but on its device; to be saved and evaluated.
        answering: the same under autocast and, with several processes, DistributedDataParallel; to be trained by.
        optimizer: torch's.
        stepping: the same, with the scaler of fp16 before it.
    """

    accelerator: Accelerator
    network: nn.Module
    answering: nn.Module
    optimizer: torch.optim.Optimizer
    stepping: Any

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def dtype(self) -> torch.dtype:
        return next(parameter.dtype for parameter in self.network.parameters() if parameter.is_floating_point())

    @property
    def rank(self) -> int:
        return self.accelerator.process_index

    @property
    def ranks(self) -> int:
        return self.accelerator.num_processes

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters with a gradient."""
        return [parameter for parameter in self.network.parameters() if parameter.grad is not None]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, without the scale of fp16, as `stepping` will step by it."""
        self.accelerator.unscale_gradients(self.stepping)
        return torch.nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in self.trained])


class _Shell(nn.Module):
    """Stands around the network, so that what Accelerate does to a module's ``forward`` stays outside of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> ReIDOutput:
        return self.network(clips)


def make_engine(network: nn.Module, recipe: Recipe) -> Engine:
    """Bring a network to its device, in training mode, with the recipe's optimizer.

    Raises: ValueError for a device that is not there, one GPU for several processes, or settings other than those
    of an earlier run in this process, which Accelerate cannot change.
    """
    recipe.check_device()
    if recipe.device is not None and ":" in recipe.device:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(
                f"device {recipe.device!r} is one for several processes, wanted cuda: each takes its own"
            )
        os.environ["ACCELERATE_TORCH_DEVICE"] = recipe.device  # Accelerate's only way to ask for one of several
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=recipe.device == "cpu")
    if recipe.device is not None and accelerator.device.type != recipe.device.split(":")[0]:
        raise ValueError(f"device {recipe.device!r} cannot follow {accelerator.device} in the same process")
    if recipe.sync_batchnorm:
        network = synchronize_batchnorm(network, accelerator.device)
    network = network.to(accelerator.device).train()
    optimizer = make_optimizer(recipe, network)
    answering = accelerator.prepare_model(_Shell(network))
    return Engine(accelerator, network, answering, optimizer, accelerator.prepare_optimizer(optimizer))


@contextmanager
def arithmetic(recipe: Recipe) -> Iterator[None]:
    """While a run lasts, ask torch for the kernels that it wants: those that give the same answer each time.

    Where there is no such kernel, torch warns. It also warns, under DistributedDataParallel, of kernels of 1 x 1,
    whose memory order can be called by two names; that warning says nothing and is left out.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS has none
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Whatever happens inside, the modules are afterwards in their modes and random generators where they were."""
    states = random_states(device)
    try:
        with modes_kept(network):
            yield
    finally:
        restore_random_states(states, device)
