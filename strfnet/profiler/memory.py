"""Memory of activations in training and in inference, from shapes alone."""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from strfnet.profiler.counting import checked_shape, copy_without_values, type_of_input
from strfnet.system.compat import TorchDispatchMode, shapes_only, storage_id, tree_leaves, tree_map_only


@dataclass(frozen=True)
class ActivationMemory:
    """Bytes of activations. Parameters, buffers, inputs, and what a kernel needs while it runs, are not counted.

    Attributes:
        training: bytes of the tensors that autograd keeps for the backward pass at the end of the forward pass.
        inference: the most bytes of tensors that exist at one time in a forward pass without gradients.
    """

    training: int
    inference: int

    def __str__(self) -> str:
        training, inference = (f"{size / 2**20:,.1f} MiB" for size in (self.training, self.inference))
        return f"activations: {training} in training, {inference} in inference"


def activation_memory(
    model: nn.Module, clip_shape: Sequence[int] | None, *inputs: Any, **keywords: Any
) -> ActivationMemory:
    r"""Computes the memory of the activations of one forward pass, without running it.

    The model is called as ``model(clip, *inputs, **keywords)``. Tensors have shapes and no values; which kernels run,
    and so what they keep, is that of the model's device (the CPU for a model on the meta device). The model is not
    modified, and its hooks are not run.

    Args:
        model: a network, as for `profile`.
        clip_shape: (b, c, t, h, w), or another shape that the model takes; None for a model that takes no clip.
        \*inputs: further inputs; tensors in them give their shape and type.
        \*\*keywords: further inputs by name.

    Raises: TypeError or ValueError as `profile` does.
    """
    with shapes_only():
        network = copy_without_values(model, _empty)
        dtype, device = type_of_input(network)
        clip = [] if clip_shape is None else [torch.empty(checked_shape(clip_shape), dtype=dtype, device=device)]
        given, named = tree_map_only(Tensor, _empty, ((*clip, *inputs), keywords))
        kept = [*network.parameters(), *network.buffers(), *tree_leaves((given, named))]
        counted_before = {storage_id(tensor) for tensor in kept if isinstance(tensor, Tensor)}
        saved: dict[int, Any] = {}

        def save(tensor: Tensor) -> Tensor:
            if storage_id(tensor) not in counted_before:
                saved[storage_id(tensor)] = tensor.untyped_storage()
            return tensor

        network.train()
        with torch.enable_grad(), saved_tensors_hooks(save, lambda tensor: tensor):
            output = network(*given, **named)
        training = sum(storage.nbytes() for storage in saved.values())
        del output
        saved.clear()
        network.eval()
        with torch.no_grad(), LiveBytes(counted_before) as live:
            network(*given, **named)
    return ActivationMemory(training, live.peak)


class LiveBytes(TorchDispatchMode):
    """The most bytes of the storages that operators return and that exist at one time.

    Args:
        known: storages that do not count, by `storage_id`.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.seen, self.live, self.peak = set(known), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and storage_id(tensor) not in self.seen:
                storage = tensor.untyped_storage()
                self.seen.add(storage_id(tensor))
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self.forget, storage_id(tensor), storage.nbytes())
        return out

    def forget(self, storage: int, size: int) -> None:
        """Subtracts a storage that is gone."""
        self.seen.discard(storage)
        self.live -= size


def _empty(tensor: Tensor) -> Tensor:
    device = "cpu" if tensor.is_meta else tensor.device
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
