"""PyTorch's private names, each with its reason and the version it is there since; all were run with PyTorch 2.14.

No other file of the package uses a private name of torch. Where torch has a public way, that way is used instead:
``add_module`` and ``set_submodule`` set a child, ``named_children`` lists them, ``delattr`` removes one,
``nn.Conv2d.forward`` convolves with the padding mode, ``register_load_state_dict_pre_hook`` changes what is loaded.
"""

import ctypes
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload as OpOverload  # what a dispatch mode sees; the classes have no public name; 1.12
from torch._ops import OpOverloadPacket as OpOverloadPacket
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode  # no public module has it; 2.0
from torch.utils._pytree import tree_leaves as tree_leaves  # torch.utils.pytree is not public yet; 2.2
from torch.utils._pytree import tree_map_only as tree_map_only

BatchNorm = _BatchNorm  # the only base class that batch norms of 1, 2 and 3 dimensions and SyncBatchNorm share; 0.4
COMPILED_PREFIX = "_orig_mod"  # the child in which torch.compile keeps the network, so a prefix of its keys; 2.0

_HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


class AnyBatchNorm(_BatchNorm):
    """A batch norm of (n, c, ...) with any number of further dimensions. ``_check_input_dim`` is abstract; 0.4."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input must be (n, c, ...), got {tuple(input.shape)}")


class CustomConvolution(nn.Module):
    """Mixin for ``nn.Conv2d`` whose convolution is `convolve_frames`. ``_conv_forward`` computes it there; 1.5."""

    def convolve_frames(self, frames: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no convolve_frames")

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self.convolve_frames(input, weight, bias)


class ConvertedState(nn.Module):
    """A module that converts its entries of a state dict before they are loaded.

    A load pre-hook would be lost when hooks are cleared. ``_load_from_state_dict`` loads one module; 0.4.
    """

    def convert_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Converts the entries that start with ``prefix``, in place."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.convert_state(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)


class MarkedLoading(nn.Module):
    """A module that is ``loading`` while its entries of a state dict are loaded. ``_load_from_state_dict``; 0.4."""

    loading = False

    def _load_from_state_dict(self, *args: Any) -> None:
        self.loading = True
        try:
            super()._load_from_state_dict(*args)
        finally:
            del self.loading


class CheckedConversion(nn.Module):
    """A module that checks changes of device and type. ``to``, ``half`` and the like all call ``_apply``; 0.1."""

    def check_conversion(self, function: Callable[[Tensor], Tensor]) -> None:
        """Raises an error if ``function``, which is about to be applied to every tensor, is not allowed."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.check_conversion(fn)
        return super()._apply(fn, recurse)


class ConvertedKernels(nn.Module):
    """A module whose 5-D kernels take ``to(memory_format=torch.channels_last)``, as the 4-D ones beside them do.

    Frames and rows of a kernel are then one axis: (o, i, t, h, w) is in channels-last order if (o, i, t h, w) is.
    ``to`` calls ``_apply``; 0.1.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def convert(tensor: Tensor) -> Tensor:
            try:
                return fn(tensor)
            except RuntimeError:
                if tensor.ndim != 5:
                    raise
                return fn(tensor.flatten(2, 3)).unflatten(2, tensor.shape[2:4])

        return super()._apply(convert, recurse)


class FilledAfterEmptying(nn.Module):
    """A module that initialises a part of itself when ``to_empty`` moves it off the meta device.

    ``to_empty`` calls ``_apply``; 0.1.
    """

    def initialise_rest(self) -> None:
        """Initialises the part, whose tensors hold arbitrary numbers."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        was_meta = any(parameter.is_meta for parameter in self.parameters())
        result = super()._apply(fn, recurse)
        if was_meta and not any(parameter.is_meta for parameter in self.parameters()):
            self.initialise_rest()
        return result


def initialise(module: nn.Module) -> None:
    """Initialises all layers in ``module`` that have ``reset_parameters``, which no base class declares; 0.1."""
    for layer in reversed(list(module.modules())):  # a unit after the layers in it
        reset = getattr(layer, "reset_parameters", None)
        if reset is not None:
            reset()


def children_of(module: nn.Module) -> dict[str, nn.Module | None]:
    """The dictionary of a module's children. ``named_children`` leaves out None and the second of two equal; 0.1."""
    return module._modules


def tensors_of(module: nn.Module) -> dict[str, Tensor | None]:
    """A module's own parameters and buffers. ``named_parameters`` fails on lazy ones; 0.1."""
    return {**module._parameters, **module._buffers}


def hooks_of(module: nn.Module) -> dict[str, dict[int, Any]]:
    """The dictionaries in which a module keeps its hooks, by attribute. There is no public list of hooks; 2.0."""
    return {name: getattr(module, name) for name in _HOOKS}


def clear_hooks(network: nn.Module) -> None:
    """Remove the forward and backward hooks of all modules, in place; hooks of state dicts stay. 2.0."""
    for module in network.modules():
        for name in _HOOKS[:4]:
            getattr(module, name).clear()


def is_compiled_wrapper(module: nn.Module) -> bool:
    """Whether ``torch.compile`` made the module. Its class is in ``torch._dynamo``, slow to import; 2.0."""
    return COMPILED_PREFIX in module._modules


def implicit_padding(conv: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[int]:
    """The padding of a convolution as ``F.pad`` takes it, "same" and modes other than zeros included; 1.5."""
    return conv._reversed_padding_repeated_twice


def overload_names(operator: OpOverload) -> tuple[str, str]:
    """The name and the overload of an operator, such as ("add_", "Tensor"). ``name()`` omits "default"; 1.12."""
    return operator._opname, operator._overloadname


def shapes_only() -> AbstractContextManager[Any]:
    """While it lasts, new tensors have shapes and no values, and choose kernels by their device.

    The meta device, which is public, has kernels of its own: attention there holds the whole matrix. 2.0.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def storage_id(tensor: Tensor) -> int:
    """A number that tensors of one storage share, on the meta device too, where ``data_ptr`` is 0; 2.0."""
    return tensor.untyped_storage()._cdata


def multiplies_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices. ``torch.cpu.get_capabilities`` is newer than 2.8; 2.6."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.cpu._is_avx512_bf16_supported()


def lookup_inductor() -> Callable[..., Any]:
    """Inductor as a backend, to be wrapped by one of our own. ``torch.compiler`` only lists backends; 2.0."""
    from torch._dynamo import lookup_backend

    return lookup_backend("inductor")


def frozen_weights() -> AbstractContextManager[None]:
    """While it lasts, Inductor takes weights for constants, which it may rearrange. No public option does; 2.0."""
    from torch._inductor import config

    return config.patch(freezing=True)


def compile_package(program: torch.export.ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a program as machine code. AOTInductor has no public Python module; 2.6."""
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(
        program, package_path=str(path), inductor_configs={"aot_inductor.metadata": dict(metadata)}
    )


def load_package(path: Path) -> Any:
    """The callable that `compile_package` wrote; ``.loader.get_metadata()`` has its metadata; 2.6."""
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path))


def renew_threads() -> None:
    """End the threads in which PyTorch computes on the CPU; new ones inherit the floating-point mode of this thread.

    Does nothing without an OpenMP 5 library. No PyTorch function does it; ``omp_pause_resource_all`` is OpenMP's.
    """
    pause = getattr(ctypes.CDLL(None) if os.name == "posix" else None, "omp_pause_resource_all", None)
    if pause is not None:
        pause(2)  # omp_pause_hard


def end_workers(batches: Iterator[Any]) -> None:
    """Ends the workers of an iterator of a DataLoader, which waits up to 5 s for each that is stuck; 1.0."""
    for worker in getattr(batches, "_workers", ()):
        worker.terminate()


def require_torch(version: str, what: str) -> None:
    """Raises: RuntimeError naming ``version``, such as "2.8", if the installed PyTorch is older."""
    needed, found = ([int(part) for part in text.split(".")[:2]] for text in (version, torch.__version__))
    if found < needed:
        raise RuntimeError(f"{what} needs PyTorch {version} or newer, found {torch.__version__}")


def compile_separately(network: nn.Module, backend: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """The network compiled for one input shape, apart from other networks of its class.

    PyTorch compiles one code object at most eight times, and networks of one class share theirs.
    ``torch.compile(isolate_recompiles=True)`` separates them in versions newer than 2.11; a copy of a code object
    does so in 2.11 and older.
    """
    compiler: Any = torch.compile  # its overloads lack the last argument

    # Not the network itself: Lightning, once imported, stores the arguments of torch.compile in it, for its pickle.
    def call(clip: Tensor) -> Any:
        return network(clip)

    if "isolate_recompiles" in inspect.signature(compiler).parameters:
        return compiler(call, backend=backend, dynamic=False, isolate_recompiles=True)
    call.__code__ = call.__code__.replace()
    return compiler(call, backend=backend, dynamic=False)


@contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Allows or forbids TF32 in float32 convolutions and matrix products on CUDA, while it lasts.

    TF32 keeps 10 bits of a factor, so outputs differ by about 1e-3 of the largest value. PyTorch allows it in
    convolutions and forbids it in matrix products unless told otherwise; here one switch sets both.
    """
    # ``fp32_precision`` is there since 2.9. Both kinds of flags are set, because PyTorch raises where they differ.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    parts: list[Any] = [matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul] if hasattr(cudnn, "conv") else []
    precisions = [part.fp32_precision for part in parts]
    try:
        flags = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    except RuntimeError:  # the caller uses the new flags alone, and PyTorch does not read both
        flags = None
    try:
        if flags is None:
            for part in parts[:3]:
                part.fp32_precision = "tf32" if allowed else "ieee"
        else:
            torch.set_float32_matmul_precision("high" if allowed else "highest")
            cudnn.allow_tf32 = allowed
        yield
    finally:
        if flags is not None:
            torch.set_float32_matmul_precision(flags[0])
            cudnn.allow_tf32 = flags[1]
        for part, precision in zip(parts, precisions, strict=True):
            part.fp32_precision = precision


_COMPUTING = threading.RLock()


@contextmanager
def computing_with_tf32(allowed: bool | None) -> Iterator[None]:
    """`allow_tf32` in one thread at a time, because the flags are the process's. None leaves the flags."""
    if allowed is None:
        yield
    else:
        with _COMPUTING, allow_tf32(allowed):
            yield


def tf32_is_allowed() -> bool:
    """Whether PyTorch's flags allow TF32 in float32 convolutions or matrix products on CUDA."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv"):
        return any(part.fp32_precision not in ("ieee", "none") for part in (matmul, cudnn.conv))
    return matmul.allow_tf32 or cudnn.allow_tf32
