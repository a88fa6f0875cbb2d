"""Units on clips after a module, or instead of it, named by its module path."""

import copy
import difflib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from strfnet.inflation.extension import Extension, extend, retract
from strfnet.inflation.running_clips import OnFrames, RunningClips, share
from strfnet.system.compat import BatchNorm, children_of

UnitBuilder = Callable[[int], nn.Module]
Network = TypeVar("Network", bound=nn.Module)


def splice(network: Network, units: Mapping[str, nn.Module | UnitBuilder], *, instead: bool = False) -> Network:
    """Returns a copy of a network on clips in which units follow, or replace, modules named by their paths.

    The network may be one that `strfnet.inflate` made or any whose tensors are clips. Its state-dict keys
    stay; a unit after ``layer2.1`` adds keys under ``layer2.1.after.0``, one instead of it under
    ``layer2.1.unit``. Further units at the same path follow the earlier ones.

    Args:
        network: it is not modified.
        units: for each path a module, of which a copy is taken, or a builder such as ``NonLocalBlock``, which
            is called with the number of channels there (of the last 2-D or 3-D convolution or batch norm in
            the module). Units take the dtype, device and mode of that module. A path to an ``nn.Sequential`` stands
            for its last module.
        instead: whether units replace the modules. Default: False.

    Tools that put other norms in the place of batch norms, such as ``nn.SyncBatchNorm.convert_sync_batchnorm``, would
    drop the units after them, and raise an error: convert before splicing.

    Raises: ValueError naming a path that does not exist or cannot be followed.
    """
    spliced = copy.deepcopy(network)
    splice_into(spliced, units, instead=instead)
    return spliced


def splice_into(network: nn.Module, units: Mapping[str, nn.Module | UnitBuilder], *, instead: bool = False) -> None:
    """`splice`, in place."""
    for path, unit in units.items():
        host_path, host = resolve(network, path, instead=instead)
        built = _built(unit, host, path)
        if instead:
            set_module(network, host_path, Replacement(built, host))
        else:
            _follow(host, built)
    share(RunningClips(), network)


def unsplice(network: Network) -> Network:
    """Returns a copy of ``network`` without the units that `splice` has added."""
    whole = copy.deepcopy(network)
    for path, module in list(whole.named_modules()):
        if isinstance(module, Replacement):
            set_module(whole, path, module.original)
        elif isinstance(module, Followed):
            retract(module, Followed)
            retract(module, FollowedNorm)
    return whole


class Followed(Extension):
    """Passes a module's output through the units in its child ``after``."""

    after: nn.Sequential

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Returns the output of the last unit."""
        return self.after(super().forward(*args, **kwargs))


class FollowedNorm(Extension):
    """Refuses tools that build another norm in the place of a batch norm, without the units after it."""

    _prefix = ""

    @property
    def num_features(self) -> int:
        """Raises ValueError: such tools read the number of channels of a norm, and nothing else does."""
        units = ", ".join(type(unit).__name__ for unit in self.get_submodule("after").children())
        raise ValueError(
            f"a batch norm is followed by {units}, which another norm would drop; convert before splicing"
        )


class Replacement(nn.Module):
    """A unit on clips in the place of another module, which is kept aside, out of the state dict."""

    def __init__(self, unit: nn.Module, original: nn.Module) -> None:
        super().__init__()
        self.unit = unit
        self._aside = (original,)
        self.train(original.training)
        extend(self, OnFrames, _running=RunningClips())

    @property
    def original(self) -> nn.Module:
        return self._aside[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(x)


def _follow(host: nn.Module, unit: nn.Module) -> None:
    """Appends ``unit`` to the units after ``host``, in place."""
    if not isinstance(host, Followed):
        if isinstance(host, BatchNorm):
            extend(host, FollowedNorm)
        extend(host, Followed, after=nn.Sequential())
        extend(host.get_submodule("after"), OnFrames, _running=RunningClips())
    cast(Followed, host).after.append(unit)


def resolve(network: nn.Module, path: str, *, instead: bool = False) -> tuple[str, nn.Module]:
    """Returns the path and module that a unit at ``path`` follows or replaces; raises ValueError if there is none."""
    module = module_at(network, path)
    while isinstance(module, nn.Sequential) and len(module) and not instead:
        name, module = list(module.named_children())[-1]
        path = f"{path}.{name}"
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{path} is scripted and cannot be changed; splice before scripting")
    if isinstance(module, nn.ModuleList | nn.ModuleDict) or (isinstance(module, nn.Sequential) and not instead):
        raise ValueError(f"{path} is a {type(module).__name__}, which is never called itself; name a module in it")
    if not instead and "after" in children_of(module) and not isinstance(module, Followed):
        raise ValueError(f"{path} already has a child named 'after', where units would go")
    return path, module


def module_at(network: nn.Module, path: str) -> nn.Module:
    """Returns the module at ``path``; raises ValueError with the nearest paths if there is none."""
    modules = dict(network.named_modules())
    if not path:
        raise ValueError("the empty path names the network itself; name a module in it")
    if path not in modules:
        near = difflib.get_close_matches(path, modules, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"{type(network).__name__} has no module {path!r}{hint}")
    return modules[path]


def set_module(network: nn.Module, path: str, module: nn.Module) -> None:
    """Sets the module at ``path``, in place."""
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).add_module(name, module)


def _built(unit: nn.Module | UnitBuilder, host: nn.Module, path: str) -> nn.Module:
    built = copy.deepcopy(unit) if isinstance(unit, nn.Module) else unit(_channels(host, path))
    if not isinstance(built, nn.Module):
        raise TypeError(f"the unit for {path} must be a module or build one, got {type(built).__name__}")
    like = next((p for p in host.parameters() if p.is_floating_point()), None)
    return (built if like is None else built.to(like)).train(host.training)


def _channels(host: nn.Module, path: str) -> int:
    if isinstance(host, nn.Conv2d | nn.Conv3d):
        return host.out_channels
    for module in reversed(list(host.modules())):
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            return module.out_channels
        if isinstance(module, BatchNorm):
            return int(vars(module)["num_features"])
    raise ValueError(f"{path} holds no convolution or batch norm to read channels from; give a module, not a builder")
