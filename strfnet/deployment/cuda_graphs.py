"""Calls recorded as CUDA graphs, so that one launch runs all their kernels."""

from collections.abc import Callable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from strfnet.system.compat import tree_map_only

WARM_UPS = 3  # calls before a recording, in which libraries choose their kernels and take memory


def has_cuda_graphs(device: torch.device) -> bool:
    """Whether calls on a device can be recorded."""
    return device.type == "cuda"


class RecordedCall:
    """A call for inputs of one shape and type on one CUDA device, recorded with the flags of that moment.

    It keeps the memory of the input, of all intermediate values and of the output, so one thread runs it at a time.

    Args:
        call: a function of a tensor without host syncs. Its output is a tensor, or a tuple of some.
        like: an input.
    """

    def __init__(self, call: Callable[[Tensor], Any], like: Tensor) -> None:
        self._lock = Lock()
        self.call, self.input = call, like.clone()  # the recording reads the weights that the call holds
        with torch.cuda.device(like.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    call(self.input)
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.output = call(self.input)

    def __call__(self, clip: Tensor) -> Any:
        with self._lock:
            self.input.copy_(clip)
            self.graph.replay()
            return tree_map_only(Tensor, Tensor.clone, self.output)
