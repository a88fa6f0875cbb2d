"""The optimizer and the learning-rate schedule of a recipe."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from strfnet.system.names import check_name
from strfnet.training.recipe import Recipe

FUSED = ("cpu", "cuda", "mps", "xpu")  # devices with fused optimizers since PyTorch 2.6


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer of all parameters that require a gradient, in one fused kernel where PyTorch has it.

    The parameters are on the device on which they are trained. Each factor of the recipe has a group of parameters,
    which carries it as "factor"; the others are one group.

    Raises: ValueError if no parameter requires a gradient, or for a path of a factor that is no module's.
    """
    check_modules(network, "lr_factors", recipe.lr_factors or {})
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(_factor(name, recipe.lr_factors or {}), []).append(parameter)
    trained = [parameter for group in groups.values() for parameter in group]
    if not trained:
        raise ValueError(f"{type(network).__name__} has no parameter that requires a gradient, wanted at least one")
    fused = all(parameter.is_floating_point() and parameter.device.type in FUSED for parameter in trained)
    options: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": fused}
    parts = [{"params": group, "factor": factor} for factor, group in groups.items()]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(parts, momentum=0.9, **options)
    else:
        optimizer = (torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam)(parts, **options)
    optimizer.register_step_pre_hook(_align_gradients)
    return optimizer


def freeze(network: nn.Module, paths: Sequence[str]) -> None:
    """Freezes modules, in place: their parameters have no gradient, and they stay in evaluation mode.

    Call it after ``network.train()``. Raises: ValueError for a path that is no module's, with the nearest.
    """
    check_modules(network, "frozen", paths)
    for path in paths:
        network.get_submodule(path).requires_grad_(False).eval()


def check_modules(network: nn.Module, field: str, paths: Iterable[str]) -> None:
    """Raises: ValueError naming the field of a recipe for a path that is no module's, with the nearest."""
    known = [name for name, _ in network.named_modules() if name]
    for path in paths:
        check_name(f"module for {field},", path, known)


def _factor(name: str, factors: Mapping[str, float]) -> float:
    """The factor of the longest module path that holds a parameter; 1 without one."""
    paths = [path for path in factors if name.startswith(f"{path}.")]
    return factors[max(paths, key=len)] if paths else 1.0


def _align_gradients(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give gradients the strides of their parameters, which fused kernels need, also those of 1 x 1 kernels."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                parameter.grad = gradient.new_empty_strided(parameter.shape, parameter.stride()).copy_(gradient)


def learning_rate(recipe: Recipe, at: float) -> float:
    """The learning rate of a step that begins ``at`` epochs after the start; fractions are parts of an epoch.

    It depends on ``at`` alone, so a resumed run needs no state of a scheduler. A warm-up is linear from a hundredth
    of the rate. ``one_cycle`` is half a cosine from 1/25 of the rate up to it, then half a cosine down to 1/250,000.

    Source: one_cycle of Smith and Topin, Super-Convergence, 2018, arXiv:1708.07120, with PyTorch's defaults.
    """
    if recipe.schedule == "one_cycle":
        top = recipe.warmup or 0.3 * recipe.epochs
        if at < top:
            return _half_cosine(recipe.lr / 25, recipe.lr, at / top)
        return _half_cosine(recipe.lr, recipe.lr / 250_000, (at - top) / max(recipe.epochs - top, 1e-9))
    warm = 0.01 + 0.99 * at / recipe.warmup if at < recipe.warmup else 1.0
    if recipe.schedule == "cosine":
        return warm * _half_cosine(recipe.lr, 0.0, at / recipe.epochs)
    drops = sum(milestone <= at for milestone in recipe.milestones)
    return warm * recipe.lr * recipe.gamma**drops


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2
