"""How many clips a network is running on, known to all its layers through one object.

An inflated network flattens the frames of b clips into the batch, (b t, c, h, w), because its 2-D layers expect
images. A layer on clips has to unflatten them. It needs b alone: b is the same everywhere in the network, while t
changes where frames are merged, and is the number of frames divided by b at any place.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from strfnet.inflation.extension import Extension
from strfnet.layers.clip import AXES, flatten_time


class _Call:
    """One forward pass with gradients: the number of clips, and the numbers of frames that each layer was given."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.seen: weakref.WeakKeyDictionary[nn.Module, set[int]] = weakref.WeakKeyDictionary()


class _ThisThread(threading.local):
    """The forward pass in the present thread."""

    def __init__(self) -> None:  # torch.compile does not find defaults of the class
        self.clips: int | None = None
        self.call: _Call | None = None


class RunningClips:
    """The number of clips in the forward pass of an inflated network; shared by the network and its layers.

    The number is kept per thread, for as long as the network runs. ``torch.utils.checkpoint`` runs layers again in
    the backward pass, when the network does not run and perhaps in another thread. For this the object remembers
    which layer was given how many frames in the forward passes whose graphs are still alive.

    A copy or a pickle of it is a new object, shared by the copies of the network and of its layers.
    """

    def __init__(self) -> None:
        self._here = _ThisThread()
        self._calls: weakref.WeakSet[_Call] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RunningClips, ()

    def run(self, function: Callable[[Tensor], Any], clip: Tensor) -> Any:
        """Returns ``function`` of the flattened frames of ``clip``; meanwhile `unflatten` knows their number."""
        here = self._here
        before, clips = (here.clips, here.call), clip.shape[0]
        call = None
        # Under compilers and tracers the number of clips is a symbol or a tensor, and nothing is run again.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and type(clips) is int:
            call = _Call(clips)
        here.clips, here.call = clips, call
        try:
            output = function(flatten_time(clip))
        finally:
            here.clips, here.call = before
        if call is not None and isinstance(output, Tensor) and output.grad_fn is not None:
            node: Any = output.grad_fn
            node.metadata[call] = call  # the graph, and nothing else, keeps the call alive
            with self._lock:
                self._calls.add(call)
        return output

    def trace(self, function: Callable[[Any], Any], symbol: Any) -> Any:
        """Returns ``function`` of a symbol of ``torch.fx``, which has no rank.

        It stands for frames while the network is traced, and for clips within a layer on clips.
        """
        here = self._here
        if here.clips is None:
            return function(symbol)
        clips, here.clips = here.clips, None
        try:
            return flatten_time(function(symbol.unflatten(0, (clips, -1)).transpose(1, 2)))
        finally:
            here.clips = clips

    def unflatten(self, layer: nn.Module, frames: Tensor) -> Tensor:
        """Returns the clips whose ``frames`` were given to ``layer``; a view.

        Raises: ValueError if the network is not running and no graph tells the number of clips.
        """
        clips, call = self._here.clips, self._here.call
        if clips is None:
            clips = self._recalled(layer, frames)
        elif call is not None:
            call.seen.setdefault(layer, set()).add(len(frames))
        return frames.unflatten(0, (clips, -1)).transpose(1, 2)

    def _recalled(self, layer: nn.Module, frames: Tensor) -> int:
        with self._lock:
            calls = list(self._calls)
        counts = {call.clips for call in calls if len(frames) in call.seen.get(layer, ())}
        if len(counts) == 1:
            return counts.pop()
        shape = tuple(frames.shape)
        if counts:
            either = " or ".join(map(str, sorted(counts)))
            raise ValueError(
                f"x holds flattened frames {shape} of {either} clips: graphs of several forward passes are alive; "
                "run backward through each before the next forward pass"
            )
        raise ValueError(
            f"x must be a clip {AXES}, got 4 axes: {shape}; flattened frames are understood only while the inflated "
            "network they belong to runs (call the network itself, or give this layer a clip); a copy of a layer, as "
            "fuse_conv_bn_eval makes it, belongs to no network: strfnet.deployment.fuse fuses batch norms"
        )


class OnFrames(Extension):
    """Lets a layer on clips take flattened frames too, and return them; a clip passes straight through."""

    _prefix = ""

    _running: RunningClips

    def forward(self, x: Tensor) -> Tensor:
        """Returns the layer's output, as frames if ``x`` is frames."""
        if isinstance(x, Proxy):
            return self._running.trace(super().forward, x)
        if not isinstance(x, Tensor) or x.ndim != 4:
            return super().forward(x)
        return flatten_time(super().forward(self._running.unflatten(self, x)))


def share(running: RunningClips, module: nn.Module) -> None:
    """Gives ``running`` to all layers in ``module``, in place; those of an inflated network in it keep its own."""
    if isinstance(module, OnFrames):
        module._running = running
    else:
        running = vars(module).get("_running", running)
    for child in module.children():
        share(running, child)
