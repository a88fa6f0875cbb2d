"""Network, optimizer and devices, prepared by Accelerate for one process or several."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.backends import cudnn
from torch.utils import deterministic

from strfnet.layers.attention import choose_attention
from strfnet.layers.head import ReIDOutput
from strfnet.system.compat import compile_separately, lookup_inductor, renew_threads
from strfnet.system.modes import modes_kept
from strfnet.system.progress import inform
from strfnet.training.distributed import host_group, synchronize_batchnorm
from strfnet.training.environment import environment_of_torchrun
from strfnet.training.optimization import freeze, make_optimizer
from strfnet.training.recipe import Recipe
from strfnet.training.sharing import warn_without_gpu
from strfnet.training.state import random_states, restore_random_states

CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@dataclass(frozen=True)
class Engine:
    """The prepared objects of a run.

    Args:
        accelerator: devices, precision and processes.
        network: the trained network on its device, for saving and evaluation.
        wrapped_network: ``network`` under autocast and, with several processes, DistributedDataParallel, for
            training.
        optimizer: torch's.
        scaled_optimizer: ``optimizer`` behind the gradient scaler of fp16.
        ignored: settings in the environment that are not used.
        host: see `host_group`.
    """

    accelerator: Accelerator
    network: nn.Module
    wrapped_network: nn.Module
    optimizer: torch.optim.Optimizer
    scaled_optimizer: Any
    ignored: list[str]
    host: Any

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

    def step(self, halted: Tensor) -> None:
        """The optimizer's step, which changes nothing if the number ``halted`` is 1."""
        if self.accelerator.scaler is None:  # the scaler finds what is not finite by itself
            if self.optimizer.defaults["fused"]:
                cast(Any, self.optimizer).found_inf = halted  # fused kernels read it on the device
            elif halted.item():
                return
        self.scaled_optimizer.step()


class _Wrapper(nn.Module):
    """Wraps the network, because Accelerate replaces ``forward`` of the module that it prepares.

    If compiled, the compiled function is no child, so the keys of the network stay as they are.
    """

    def __init__(self, network: nn.Module, *, compiled: bool) -> None:
        super().__init__()
        self.network = network
        self._call: Callable[..., ReIDOutput] = network.__call__
        if compiled:
            self._call = compile_separately(network, lookup_inductor())

    def forward(self, clips: Tensor, lengths: Tensor | None = None) -> ReIDOutput:
        return self._call(clips) if lengths is None else self._call(clips, lengths)


def make_engine(network: nn.Module, recipe: Recipe) -> Engine:
    """Move a network to its device, in training mode, and make the recipe's optimizer.

    Raises: ValueError for a device that is not available, one GPU for several processes, or a device other than that
    of an earlier run in this process, which Accelerate cannot change.
    """
    recipe.check_device()
    selected = {}
    if recipe.device is not None and ":" in recipe.device:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"device {recipe.device!r} is one GPU for several processes, wanted cuda for one each")
        selected["ACCELERATE_TORCH_DEVICE"] = recipe.device  # Accelerate's only way to select one of several
    precision = "no" if recipe.precision == "fp32" else recipe.precision
    with environment_of_torchrun(**selected) as ignored:
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
    freeze(network, recipe.frozen)
    computed = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(recipe.precision)
    choose_attention(network, dtype=computed, training=True, deterministic=recipe.deterministic)
    optimizer = make_optimizer(recipe, network)
    wrapped = accelerator.prepare_model(_Wrapper(network, compiled=recipe.compile))
    scaled = accelerator.prepare_optimizer(optimizer)
    return Engine(accelerator, network, wrapped, optimizer, scaled, ignored, host_group())


@contextmanager
def deterministic_kernels(recipe: Recipe) -> Iterator[None]:
    """Deterministic kernels inside, if the recipe says so; every flag is restored on exit.

    PyTorch is strict: with warnings only, the backward pass of fused attention would not repeat its sums on a GPU. Of
    the fused kernels, cuDNN's is left out, which has no deterministic form. Allocations are not filled with NaN,
    which PyTorch would do to find reads of uninitialized memory. cuBLAS reads its setting at the first product of the
    process, so a line on stderr says when it was unset.

    The warning of DistributedDataParallel about the strides of 1 x 1 kernels is suppressed. Two names for one memory
    order cause it.

    Raises: ValueError for an operation that has no deterministic kernel.
    """
    if not recipe.deterministic:
        with _quiet_strides():
            yield
        return
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = deterministic  # its property is set on the module
    fill, benchmark = memory.fill_uninitialized_memory, cudnn.benchmark
    cudnn_attention, workspace = torch.backends.cuda.cudnn_sdp_enabled(), os.environ.get(CUBLAS)
    if workspace is None:
        os.environ[CUBLAS] = ":4096:8"
        if torch.cuda.is_available() and recipe.device != "cpu":
            inform(f"strfnet: {CUBLAS} is unset; deterministic training sets it to :4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.enable_cudnn_sdp(False)
    memory.fill_uninitialized_memory, cudnn.benchmark = False, False
    try:
        with _quiet_strides():
            yield
    except RuntimeError as error:
        if "determinis" not in str(error):
            raise
        advice = f"set deterministic to false, or {CUBLAS}=:4096:8 before the process starts if it names cuBLAS"
        raise ValueError(f"deterministic training is not possible here: {error}; {advice}") from error
    finally:
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])
        torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
        memory.fill_uninitialized_memory, cudnn.benchmark = fill, benchmark
        if workspace is None:
            os.environ.pop(CUBLAS, None)


@contextmanager
def _quiet_strides() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        yield


@contextmanager
def flushed_denormals(device: torch.device) -> Iterator[bool]:
    """Numbers below 1.2e-38 count as zero inside, on a CPU that can; yields whether they do.

    Gradients of converged networks have many of them, and a CPU computes with them many times slower. The mode is one
    of each thread, so threads that exist already are ended, and an operation over all of them is tried.
    """
    if device.type != "cpu":
        yield False
        return
    before = _flushes(1)
    try:
        torch.set_flush_denormal(True)
        renew_threads()
        flushed = _flushes(torch.get_num_threads() << 16)
        torch.set_flush_denormal(flushed or before)  # all threads or none, so that a run repeats
        yield flushed
    finally:
        torch.set_flush_denormal(before)
        renew_threads()


def _flushes(numbers: int) -> bool:
    """Whether this thread turns half of the smallest normal number into zero, and the others that share the work."""
    smallest = torch.full((numbers,), torch.finfo(torch.float32).tiny)
    return not (smallest * 0.5).any().item()


@contextmanager
def state_kept(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Restore the modes of all modules and the states of the random generators on exit."""
    states = random_states(device)
    try:
        with modes_kept(network):
            yield
    finally:
        restore_random_states(states, device)
