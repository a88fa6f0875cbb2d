"""Network, optimizer and devices, prepared by Accelerate for one process or several."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from strfnet.layers.attention import choose_attention
from strfnet.layers.head import ReIDOutput
from strfnet.system.modes import modes_kept
from strfnet.training.distributed import synchronize_batchnorm
from strfnet.training.optimization import make_optimizer
from strfnet.training.recipe import Recipe
from strfnet.training.sharing import warn_without_gpu
from strfnet.training.state import random_states, restore_random_states


@dataclass(frozen=True)
class Engine:
    """The prepared objects of a run.

    Args:
        accelerator: devices, precision and processes.
        network: the trained network on its device, for saving and evaluation.
        wrapped_network: ``network`` under autocast and, with several processes, DistributedDataParallel, for
        training. optimizer: torch's. scaled_optimizer: ``optimizer`` behind the gradient scaler of fp16.
    """

    accelerator: Accelerator
    network: nn.Module
    wrapped_network: nn.Module
    optimizer: torch.optim.Optimizer
    scaled_optimizer: Any

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
    def world_size(self) -> int:
        return self.accelerator.num_processes

    @property
    def trained(self) -> list[nn.Parameter]:
        """Parameters with a gradient."""
        return [parameter for parameter in self.network.parameters() if parameter.grad is not None]

    def gradient_norm(self) -> Tensor:
        """The norm of the whole gradient, after the scale of fp16 is removed."""
        self.accelerator.unscale_gradients(self.scaled_optimizer)
        return torch.nn.utils.get_total_norm([cast(Tensor, parameter.grad) for parameter in self.trained])


class _Wrapper(nn.Module):
    """Wraps the network, because Accelerate replaces ``forward`` of the module that it prepares."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clips: Tensor) -> ReIDOutput:
        return self.network(clips)


def make_engine(network: nn.Module, recipe: Recipe) -> Engine:
    """Move a network to its device, in training mode, and make the recipe's optimizer.

    Raises: ValueError for a device that is not available, one GPU for several processes, or a device other than that
    of an earlier run in this process, which Accelerate cannot change.
    """
    recipe.check_device()
    if recipe.device is not None and ":" in recipe.device:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"device {recipe.device!r} is one GPU for several processes, wanted cuda for one each")
        os.environ["ACCELERATE_TORCH_DEVICE"] = recipe.device  # Accelerate's only way to select one of several
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    accelerator = Accelerator(mixed_precision=precision, cpu=recipe.device == "cpu")
    if recipe.device is not None and accelerator.device.type != recipe.device.split(":")[0]:
        raise ValueError(
            f"device must be {accelerator.device.type}, as in the earlier run of this process, got {recipe.device!r}"
        )
    if recipe.device is None:
        warn_without_gpu(accelerator.device)
    if recipe.sync_batchnorm:
        network = synchronize_batchnorm(network, accelerator.device)
    network = network.to(accelerator.device).train()
    computed = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe.precision)
    choose_attention(network, dtype=computed, training=True, deterministic=recipe.deterministic)
    optimizer = make_optimizer(recipe, network)
    wrapped = accelerator.prepare_model(_Wrapper(network))
    return Engine(accelerator, network, wrapped, optimizer, accelerator.prepare_optimizer(optimizer))


@contextmanager
def deterministic_kernels(recipe: Recipe) -> Iterator[None]:
    """Deterministic kernels inside, if the recipe says so; torch warns where it has none.

    The warning of DistributedDataParallel about the strides of 1 x 1 kernels is suppressed. Two names for one memory
    order cause it.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS is not deterministic
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextmanager
def state_kept(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the modes of all modules and the states of the random generators on exit."""
    states = random_states(device)
    try:
        with modes_kept(network):
            yield
    finally:
        restore_random_states(states, device)
