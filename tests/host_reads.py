"""Finds the operations for which a processor would wait for its GPU, in computations on the CPU."""

from contextlib import ExitStack

import torch
from torch.overrides import TorchFunctionMode

from strfnet.system.compat import TorchDispatchMode

READS = {"item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "__array__"}
SIZED_BY_VALUES = {"_local_scalar_dense", "nonzero", "masked_select", "unique", "_unique2", "bincount"}


class HostReads:
    """A context that lists every read of a tensor by the host, and every operation whose output's size is a value."""

    def __init__(self):
        self.found, self.paused = [], False

    def __enter__(self):
        self._stack = ExitStack()
        self._stack.enter_context(_Calls(self))
        self._stack.enter_context(_Operations(self))
        return self

    def __exit__(self, *error):
        self._stack.close()

    def add(self, name):
        if not self.paused:
            self.found.append(name)


class _Calls(TorchFunctionMode):
    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = getattr(function, "__name__", "")
        if name in READS and isinstance(arguments[0], torch.Tensor):
            self.reads.add(name)
        return function(*arguments, **(options or {}))


class _Operations(TorchDispatchMode):
    def __init__(self, reads):
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        name = function.overloadpacket.__name__
        masks = arguments[1] if name in ("index", "index_put", "index_put_") else ()
        if name in SIZED_BY_VALUES or any(mask is not None and mask.dtype == torch.bool for mask in masks):
            self.reads.add(name)
        return function(*arguments, **(options or {}))
