"""The state of a run as tensors, and back, so that it resumes exactly."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load
from torch import Tensor, nn

from strfnet.weights.file import WEIGHTS, check_fit
from strfnet.weights.store import pack

OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True)
class Position:
    """The point that a run has reached.

    Args:
        step: optimizer steps done, over all epochs.
        epoch: epochs done, which is the index of the current one.
        batch: batches done of the current epoch.
        best: the highest first metric of all evaluations; None before the first evaluation.
        best_step: the step of that evaluation.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int | None = None


def training_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """The state dict of the network and the optimizer's state of each parameter, as safetensors files by name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    remembered = {
        f"{names[parameter]}|{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None  # as SGD's momentum is until a parameter has had a gradient
    }
    return {WEIGHTS: pack(network.state_dict()), OPTIMIZER: pack(remembered)}


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, files: Mapping[str, bytes], source: object) -> None:
    """Undo `training_state`, in place.

    Tensors keep the memory order that they have now, because kernels for another order round differently.

    Raises: ValueError that names ``source`` and lists what does not fit; nothing has changed then.
    """
    weights, remembered = load(files[WEIGHTS]), load(files[OPTIMIZER])
    check_fit(weights, network.state_dict(), f"{source} does not fit {type(network).__name__}", dtypes=True)
    parameters = dict(network.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in remembered.items():
        path, _, key = name.rpartition("|")
        if path not in parameters or (tensor.ndim and tensor.shape != parameters[path].shape):
            raise ValueError(f"{source} has optimizer state {name} {tuple(tensor.shape)}, which fits no parameter")
        # Step counts are scalars on the CPU, or beside the parameters if the optimizer is fused.
        step = tensor.to(parameters[path].device) if optimizer.defaults["fused"] else tensor
        state.setdefault(path, {})[key] = torch.empty_like(parameters[path]).copy_(tensor) if tensor.ndim else step
    network.load_state_dict(weights)
    optimizer.state.clear()
    for path, entries in state.items():
        optimizer.state[parameters[path]] = entries


def random_states(device: torch.device) -> bytes:
    """The states of the global generators of Python, NumPy, torch and the device, as a safetensors file."""
    version, words, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    tensors = {
        "python": torch.tensor([version, *words]),
        "python.gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(place), int(has_gauss)]),
        "numpy.gauss": torch.tensor([cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        tensors["device"] = torch.cuda.get_rng_state(device)
    return pack(tensors)


def restore_random_states(content: bytes, device: torch.device) -> None:
    """Undo `random_states`. The state of another kind of device is ignored."""
    tensors = load(content)
    version, *words = tensors["python"].tolist()
    gauss = tensors["python.gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    *keys, place, has_gauss = tensors["numpy"].tolist()
    cached = tensors["numpy.gauss"].item()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, cached))
    torch.set_rng_state(tensors["torch"])
    if device.type == "cuda" and "device" in tensors:
        torch.cuda.set_rng_state(tensors["device"], device)
