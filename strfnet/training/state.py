"""All the state of a run as plain tensors and plain facts, and back, so that it goes on exactly."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from strfnet.weights.file import read_file
from strfnet.weights.store import checkpoints, take

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a run stands: steps made, epochs done, and batches done of the next one; what is known of the best.

    Args:
        step: of the optimizer, over all epochs.
        epoch: the epoch that runs, counted from 0, which is how many are done.
        batch: batches of it that are done.
        best: the highest figure of an evaluation; None before the first.
        best_step: after which it was found.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int | None = None


def tensor_files(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, bytes]:
    """Weights with buffers, and what the optimizer remembers of each parameter, as safetensors."""
    return {WEIGHTS: weights_file(network), OPTIMIZER: save(_optimizer_tensors(network, optimizer))}


def weights_file(network: nn.Module) -> bytes:
    """The state dict of a network as a safetensors file."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()})


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, files: Mapping[str, bytes], source: object) -> None:
    """Undo `tensor_files`, in place; nothing is changed if anything does not fit.

    Tensors keep the memory order that they have now: kernels for another order round differently.

    Raises: ValueError listing what does not fit, ``source`` being where the files are from.
    """
    weights, remembered = load(files[WEIGHTS]), load(files[OPTIMIZER])
    check_fit(network, weights, source)
    parameters = dict(network.named_parameters())
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in remembered.items():
        path, _, key = name.rpartition("|")
        if path not in parameters or (tensor.ndim and tensor.shape != parameters[path].shape):
            raise ValueError(f"{source} remembers {name} {tuple(tensor.shape)}, which is no parameter of the network")
        # Counts of steps have no axes and stay where torch.optim keeps them, on the CPU.
        state.setdefault(path, {})[key] = torch.empty_like(parameters[path]).copy_(tensor) if tensor.ndim else tensor
    network.load_state_dict(weights)
    optimizer.state.clear()
    for path, entries in state.items():
        optimizer.state[parameters[path]] = entries


def check_fit(network: nn.Module, weights: Mapping[str, Tensor], source: object) -> None:
    """Raises: ValueError listing keys that are missing, left over, or of another shape or kind."""
    own = network.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in weights]
    wrong += [f"{name} is not in the network" for name in weights if name not in own]
    for name, tensor in weights.items():
        if name in own and (tensor.shape != own[name].shape or tensor.dtype != own[name].dtype):
            given, wanted = (f"{one.dtype} {tuple(one.shape)}" for one in (tensor, own[name]))
            wrong.append(f"{name} is {given}, wanted {wanted}")
    if wrong:
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise ValueError(f"{source} does not fit {type(network).__name__}: {', '.join(wrong[:8])}{more}")


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Weights from a file, a checkpoint, or the folder of a run, whose newest checkpoint is taken.

    Raises: ValueError if there are none there, or they are damaged.
    """
    path = Path(path)
    if path.is_dir():
        found = checkpoints(path / "checkpoints")
        checkpoint = found[-1] if found else path
        return load(take(checkpoint)[1][WEIGHTS])
    return read_file(path).tensors


def start_from(network: nn.Module, path: str | Path) -> None:
    """Load the weights at ``path``, as `read_weights` finds them, into a network, in place.

    Every key must fit, so a network for another number of identities is refused, unless it has no classifier.
    NVAN's weights fit STE-NVAN, whose names and shapes are the same.

    Raises: ValueError listing what does not fit; nothing has been changed then.
    """
    weights = read_weights(path)
    check_fit(network, weights, path)
    network.load_state_dict(weights)


def random_states(device: torch.device) -> bytes:
    """The states of Python's, NumPy's, torch's and the device's global generators, as a safetensors file."""
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
    return save(tensors)


def restore_random_states(content: bytes, device: torch.device) -> None:
    """Undo `random_states`; the state of another kind of device is left aside."""
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


def _optimizer_tensors(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    return {
        f"{names[parameter]}|{key}": value.detach().cpu().contiguous()
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None  # as SGD's momentum is, before a parameter has had a gradient
    }
