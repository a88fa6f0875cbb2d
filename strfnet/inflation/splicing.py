"""Units on clips after a module, or instead of it, named by its module path."""

import copy
import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from strfnet.inflation.extension import Extension, extend, mixins_of, own_class, retract
from strfnet.inflation.layout import MAPS, Axes, Item, Layout
from strfnet.inflation.probing import Probe, Reading
from strfnet.inflation.ragged import lengths_after, run_ragged
from strfnet.inflation.running_clips import GridSource, OnFrames, RunningClips, share
from strfnet.system.compat import BatchNorm, children_of

UnitBuilder = Callable[[int], nn.Module]
Network = TypeVar("Network", bound=nn.Module)


def splice(
    network: Network,
    units: Mapping[str, nn.Module | UnitBuilder],
    *,
    instead: bool = False,
    output: Item | None = None,
    layout: Axes | None = None,
    example: Any = None,
) -> Network:
    """Returns a copy of a network on clips in which units follow, or replace, modules named by their paths.

    The network may be one that `strfnet.inflate` made or any whose tensors are clips. Its state-dict keys
    stay; a unit after ``layer2.1`` adds keys under ``layer2.1.after.0``, one instead of it under
    ``layer2.1.unit``. Further units at the same path follow the earlier ones.

    A module of an inflated network may return maps, channels-last maps, or tokens. Prefix tokens (class, registers,
    distillation) pass by a unit unchanged; the others are a grid, row by row, which is that of the convolution that
    made them, such as a patch embedding. How the output is read, and its number of channels, are found by a run of
    the network on the meta device, or by two on frames of different sizes.

    Args:
        network: it is not modified.
        units: for each path a module, of which a copy is taken, or a builder such as ``NonLocalBlock``, which
            is called with the number of channels that the module there returns. Units take the dtype, device and
            mode of that module. A path to an ``nn.Sequential`` stands for its last module.
        instead: whether units replace the modules. Default: False.
        output: index, key or attribute of the tensor, where the modules return several in a tuple, list, dictionary
            or record.
        layout: axes of the modules' output, where two readings are possible: "fchw" for maps, "fhwc" for
            channels-last maps, "fnc", "nfc" or "fcn" for tokens, with f the frames of all clips.
        example: inputs of a call of the network, for the run on the meta device: a clip, a tuple of a clip and
            further inputs, or a dictionary of keywords. Only shapes matter. Default: clips of usual sizes.

    Tools that put other norms in the place of batch norms, such as ``nn.SyncBatchNorm.convert_sync_batchnorm``, would
    drop the units after them, and raise an error: convert before splicing.

    Raises: ValueError naming a path that does not exist, cannot be followed, or whose module returns what is neither
    maps nor tokens or could be read in two ways.
    """
    spliced = copy.deepcopy(network)
    splice_into(spliced, units, Probe(network, example), instead=instead, output=output, layout=layout)
    return spliced


def splice_into(
    network: nn.Module,
    units: Mapping[str, nn.Module | UnitBuilder],
    probe: Probe,
    *,
    instead: bool = False,
    output: Item | None = None,
    layout: Axes | None = None,
) -> None:
    """`splice`, in place; ``probe`` is of a network with the same modules."""
    for path, unit in units.items():
        host_path, host = resolve(network, path, instead=instead)
        if isinstance(unit, nn.Module) and output is None and layout in ("fchw", "fhwc"):
            reading = Reading(Layout(layout), 0)  # nothing to find
        elif isinstance(host, nn.Conv2d | nn.Conv3d) and not isinstance(host, Followed):
            reading = Reading(MAPS, host.out_channels)
        else:
            reading = probe.reading(host_path, output, layout)
        built = _built(unit, host, path, reading.channels)
        if instead:
            if reading.layout.item is not None:
                raise ValueError(f"{path} returns more than one tensor, so a unit cannot be instead of it")
            set_module(network, host_path, Replacement(built, host, reading.layout))
        else:
            _follow(host, built, reading.layout)
        if "n" in reading.layout.axes and reading.layout.source:
            _record_grid(network.get_submodule(reading.layout.source), reading.layout.source)
    share(RunningClips(), network)


def _record_grid(source: nn.Module, path: str) -> None:
    if not isinstance(source, GridSource):
        extend(source, GridSource, _recorder=RunningClips(), _path=path)


def unsplice(network: Network) -> Network:
    """Returns a copy of ``network`` without the units that `splice` has added."""
    whole = copy.deepcopy(network)
    for path, module in list(whole.named_modules()):
        if isinstance(module, Replacement):
            set_module(whole, path, module.original)
        elif isinstance(module, Followed):
            unfollow(module)
            retract(module, FollowedNorm)
        if isinstance(module, GridSource):
            retract(module, GridSource)
    return whole


class Followed(Extension):
    """Passes a module's output through the units in its child ``after``."""

    after: nn.Sequential

    def forward(self, *args: Any, lengths: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Returns the output of the last unit."""
        if lengths is None:
            return self.after(super().forward(*args, **kwargs))
        output = super().forward(*args, lengths=lengths, **kwargs)
        return run_ragged(nn.Sequential(*self.after), output, lengths_after(super(), lengths))[0]

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the lengths of the output for clips of ``lengths``."""
        return lengths_after(nn.Sequential(*self.after), lengths_after(super(), lengths))


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


class FollowedList(Followed):
    """`Followed` for a list of modules whose class has a forward, which goes through all but ``after``."""

    _prefix = "Followed"

    def __iter__(self) -> Iterator[nn.Module]:
        return (child for name, child in self.named_children() if name != "after")

    def __len__(self) -> int:
        return len(children_of(self)) - 1


class FollowedDict(Followed):
    """`Followed` for a dictionary of modules whose class has a forward, which goes through all but ``after``."""

    _prefix = "Followed"

    def _others(self) -> dict[str, nn.Module]:
        return {name: child for name, child in self.named_children() if name != "after"}

    def __iter__(self) -> Iterator[str]:
        return iter(self._others())

    def __len__(self) -> int:
        return len(self._others())

    def keys(self) -> Iterable[str]:
        return self._others().keys()

    def values(self) -> Iterable[nn.Module]:
        return self._others().values()

    def items(self) -> Iterable[tuple[str, nn.Module]]:
        return self._others().items()


def unfollow(module: nn.Module) -> nn.Module:
    """Removes the units after ``module``, in place; returns them."""
    mixin = next(kind for kind in mixins_of(module) if issubclass(kind, Followed))
    units = module.get_submodule("after")
    retract(module, cast(type[Extension], mixin))
    return units


class Replacement(nn.Module):
    """A unit on clips in the place of another module, which is kept aside, out of the state dict."""

    def __init__(self, unit: nn.Module, original: nn.Module, layout: Layout = MAPS) -> None:
        super().__init__()
        self.unit = unit
        self._aside = (original,)
        self.train(original.training)
        extend(self, OnFrames, _running=RunningClips(), _layout=layout)

    @property
    def original(self) -> nn.Module:
        return self._aside[0]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.unit(x) if lengths is None else run_ragged(self.unit, x, lengths)[0]

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the lengths of the output for clips of ``lengths``."""
        return lengths_after(self.unit, lengths)


def _follow(host: nn.Module, unit: nn.Module, layout: Layout) -> None:
    """Appends ``unit`` to the units after ``host``, in place."""
    if not isinstance(host, Followed):
        if isinstance(host, BatchNorm):
            extend(host, FollowedNorm)
        lists = isinstance(host, nn.Sequential | nn.ModuleList)
        mixin = FollowedList if lists else FollowedDict if isinstance(host, nn.ModuleDict) else Followed
        extend(host, mixin, after=nn.Sequential())
        extend(host.get_submodule("after"), OnFrames, _running=RunningClips(), _layout=layout)
    cast(Followed, host).after.append(unit)


def resolve(network: nn.Module, path: str, *, instead: bool = False) -> tuple[str, nn.Module]:
    """Returns the path and module that a unit at ``path`` follows or replaces; raises ValueError if there is none."""
    module = module_at(network, path)
    while _runs_in_order(module) and not instead:
        name, module = list(module.named_children())[-1]
        path = f"{path}.{name}"
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError(f"{path} is scripted and cannot be changed; splice before scripting")
    if not instead and "after" in children_of(module) and not isinstance(module, Followed):
        raise ValueError(f"{path} already has a child named 'after', where units would go")
    called = own_class(module).forward not in (nn.Module.forward, nn.Sequential.forward)
    if not called and not (instead and isinstance(module, nn.Sequential)):
        raise ValueError(f"{path} is a {type(module).__name__}, which is never called itself; name a module in it")
    return path, module


def _runs_in_order(module: nn.Module) -> bool:
    """Whether a module only runs its children in turn, so that its output is that of the last."""
    plain = isinstance(module, nn.Sequential) and own_class(module).forward is nn.Sequential.forward
    return plain and len(children_of(module)) > 0


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


def _built(unit: nn.Module | UnitBuilder, host: nn.Module, path: str, channels: int) -> nn.Module:
    built = copy.deepcopy(unit) if isinstance(unit, nn.Module) else unit(channels)
    if not isinstance(built, nn.Module):
        raise TypeError(f"the unit for {path} must be a module or build one, got {type(built).__name__}")
    like = next((p for p in host.parameters() if p.is_floating_point()), None)
    return (built if like is None else built.to(like)).train(host.training)
