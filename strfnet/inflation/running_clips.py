"""How many clips a network is running on, known to all its layers through one object.

An inflated network flattens the frames of b clips into the batch, (b t, c, h, w), because its 2-D layers expect
images. A layer on clips has to unflatten them. It needs b alone: b is the same everywhere in the network, while t
changes where frames are merged, and is the number of frames divided by b at any place. A layer on tokens has to know
their grid as well, which is that of the clip or of what a module before it returned, such as a patch embedding.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from strfnet.inflation.extension import Extension
from strfnet.inflation.layout import Grid, Layout, replace, select
from strfnet.layers.clip import AXES, flatten_time


class _Call:
    """One forward pass with gradients: clips, grids, and how many frames and tokens each layer was given."""

    def __init__(self, clips: int, grids: dict[str, Grid]) -> None:
        self.clips, self.grids = clips, grids
        self.seen: weakref.WeakKeyDictionary[nn.Module, set[tuple[int, int]]] = weakref.WeakKeyDictionary()


class _ThisThread(threading.local):
    """The forward pass in the present thread."""

    def __init__(self) -> None:  # torch.compile does not find defaults of the class
        self.clips: int | None = None
        self.grids: dict[str, Grid] = {}
        self.call: _Call | None = None


class RunningClips:
    """The number of clips in the forward pass of an inflated network, and the grids of its tokens.

    The network and its layers share it. It is kept per thread, for as long as the network runs.
    ``torch.utils.checkpoint`` runs layers again in the backward pass, when the network does not run and perhaps in
    another thread. For this the object remembers which layer was given how many frames in the forward passes whose
    graphs are still alive.

    A copy or a pickle of it is a new object, shared by the copies of the network and of its layers.
    """

    def __init__(self) -> None:
        self._here = _ThisThread()
        self._calls: weakref.WeakSet[_Call] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return RunningClips, ()

    def run(self, function: Callable[[Tensor], Tensor], clip: Tensor) -> Tensor:
        """Returns ``function`` of the flattened frames of ``clip``; meanwhile `find` knows their number."""
        here = self._here
        before, clips = (here.clips, here.grids, here.call), clip.shape[0]
        grids = {"": (clip.shape[3], clip.shape[4])}
        call = None
        # Under compilers and tracers the number of clips is a symbol or a tensor, and nothing is run again.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and type(clips) is int:
            call = _Call(clips, grids)
        here.clips, here.grids, here.call = clips, grids, call
        try:
            output = function(flatten_time(clip))
        finally:
            here.clips, here.grids, here.call = before
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

    def record(self, path: str, output: Tensor) -> None:
        """Records the grid of what the module at ``path`` returned."""
        self._here.grids[path] = (output.shape[-2], output.shape[-1])

    def find(self, layer: nn.Module, frames: Tensor, layout: Layout) -> tuple[int, Grid | None]:
        """Returns the number of clips whose ``frames`` were given to ``layer``, and the grid of tokens.

        Raises: ValueError if the network is not running and no graph has the number of clips.
        """
        here = self._here
        if here.clips is None:
            return self._recalled(layer, frames, layout)
        if here.call is not None:
            here.call.seen.setdefault(layer, set()).add(layout.numbers(frames))
        return here.clips, _grid(here.grids, layout)

    def _recalled(self, layer: nn.Module, frames: Tensor, layout: Layout) -> tuple[int, Grid | None]:
        with self._lock:
            calls = list(self._calls)
        shape, numbers = tuple(frames.shape), layout.numbers(frames)
        found = {(call.clips, _grid(call.grids, layout)) for call in calls if numbers in call.seen.get(layer, ())}
        if len(found) == 1:
            return found.pop()
        if found:
            either = " or ".join(f"{clips} in a grid {grid}" if grid else str(clips) for clips, grid in sorted(found))
            raise ValueError(
                f"x holds flattened frames {shape} of {either} clips: graphs of several forward passes are alive; "
                "run backward through each before the next forward pass"
            )
        raise ValueError(
            f"x must be a clip {AXES}, got {len(shape)} axes: {shape}; flattened frames are understood only while "
            "the inflated network they belong to runs (call the network itself, or give this layer a clip); a copy "
            "of a layer, as fuse_conv_bn_eval makes it, belongs to none: strfnet.deployment.fuse fuses batch norms"
        )


def _grid(grids: dict[str, Grid], layout: Layout) -> Grid | None:
    """The grid of tokens in ``layout``; None for maps, and where its source has not run."""
    return layout.grid(grids[layout.source]) if "n" in layout.axes and layout.source in grids else None


def each_frame(value: Any, b: int, t: int) -> Any:
    """Returns a tensor that has a row for each of b clips with a row for each of their t frames.

    Clips, (b, c, t, h, w), are flattened. Anything else is returned as it is.
    """
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != b:
        return value
    return flatten_time(value) if value.ndim == 5 else value.repeat_interleave(t, dim=0)


class OnFrames(Extension):
    """Lets a layer on clips take what a module of a 2-D network returns, and return the like.

    The frames are in its ``layout``. A clip passes straight through.
    """

    _prefix = ""

    _running: RunningClips
    _layout: Layout

    def forward(self, x: Any) -> Any:
        """Returns ``x`` with its frames replaced by the layer's output."""
        layout = self._layout
        frames = select(x, layout.item)
        if isinstance(frames, Proxy):
            if layout != Layout():
                raise ValueError(f"torch.fx traces layers on maps only, and this one takes {layout}")
            return self._running.trace(super().forward, frames)
        if not isinstance(frames, Tensor) or frames.ndim != len(layout.axes):
            return super().forward(x)
        clips, grid = self._running.find(self, frames, layout)
        prefix, maps = layout.split(frames, grid)
        clip = super().forward(maps.unflatten(0, (clips, -1)).transpose(1, 2))
        return replace(x, layout.item, layout.join(prefix, flatten_time(clip)))


class GridSource(Extension):
    """Records the grid of a module's output, for layers on the tokens that are made from it."""

    _prefix = ""

    _recorder: RunningClips
    _path: str

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        self._recorder.record(self._path, output)
        return output


def share(running: RunningClips, module: nn.Module) -> None:
    """Gives ``running`` to all layers in ``module``, in place; those of an inflated network in it keep its own."""
    if isinstance(module, GridSource):
        module._recorder = running
    if isinstance(module, OnFrames):
        module._running = running
    else:
        running = vars(module).get("_running", running)
    for child in module.children():
        share(running, child)
