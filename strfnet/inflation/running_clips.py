"""How many clips a network is running on, known to all its layers through one object.

An inflated network flattens the frames of b clips into the batch, (b t, c, h, w), because its 2-D layers expect
images. A layer on clips has to unflatten them. It needs b alone: b is the same everywhere in the network, while t
changes where frames are merged, and is the number of frames divided by b at any place. A layer on tokens has to know
their grid as well, which is that of the clip or of what a module before it returned, such as a patch embedding. Of
ragged clips a layer needs the lengths too, which change with t.
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
from strfnet.inflation.ragged import Ragged, lengths_after, run_ragged
from strfnet.layers.clip import AXES, flatten_time


class _Call:
    """One forward pass with gradients: clips, grids, and what each layer was given, by its frames and tokens."""

    def __init__(self, clips: int, grids: dict[str, Grid]) -> None:
        self.clips, self.grids = clips, grids
        self.seen: weakref.WeakKeyDictionary[nn.Module, dict[tuple[int, int], Ragged | None]]
        self.seen = weakref.WeakKeyDictionary()


class _ThisThread(threading.local):
    """The forward pass in the present thread."""

    def __init__(self) -> None:  # torch.compile does not find defaults of the class
        self.clips: int | None = None
        self.grids: dict[str, Grid] = {}
        self.call: _Call | None = None
        self.ragged: list[Ragged] = []  # ragged clips at the places passed so far, the last one last


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

    def run(
        self, function: Callable[[Tensor], Tensor], clip: Tensor, ragged: Ragged | None = None
    ) -> tuple[Tensor, Ragged | None]:
        """Returns ``function`` of the flattened frames of ``clip``; meanwhile `find` knows their number.

        Of ``ragged`` clips the frames are those that exist; the second value describes those of the output.
        """
        here = self._here
        before, clips = (here.clips, here.grids, here.call, here.ragged), clip.shape[0]
        grids = {"": (clip.shape[3], clip.shape[4])}
        call = None
        # Under compilers and tracers the number of clips is a symbol or a tensor, and nothing is run again.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and type(clips) is int:
            call = _Call(clips, grids)
        here.clips, here.grids, here.call = clips, grids, call
        here.ragged = [] if ragged is None else [ragged]
        try:
            output = function(flatten_time(clip) if ragged is None else ragged.flatten(clip))
            last = self._ragged(output.shape[0]) if ragged is not None and isinstance(output, Tensor) else None
        finally:
            here.clips, here.grids, here.call, here.ragged = before
        if call is not None and isinstance(output, Tensor) and output.grad_fn is not None:
            node: Any = output.grad_fn
            node.metadata[call] = call  # the graph, and nothing else, keeps the call alive
            with self._lock:
                self._calls.add(call)
        return output, last

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

    def find(self, layer: nn.Module, frames: Tensor, layout: Layout) -> tuple[int, Grid | None, Ragged | None]:
        """Returns the number of clips whose ``frames`` were given to ``layer``, the grid of tokens, and ragged clips.

        Raises: ValueError if the network is not running and no graph has the number of clips.
        """
        here, numbers = self._here, layout.numbers(frames)
        if here.clips is None:
            return self._recalled(layer, frames, layout)
        ragged = self._ragged(numbers[0])
        if here.call is not None:
            here.call.seen.setdefault(layer, {})[numbers] = ragged
        return here.clips, _grid(here.grids, layout), ragged

    def flatten(self, clip: Tensor, lengths: Tensor, given: Ragged) -> Tensor:
        """Returns the frames of ragged clips: the output of a layer, of ``lengths``, for the clips ``given``."""
        if lengths is given.lengths:
            return given.flatten(clip)
        merged = Ragged.of(clip, lengths)
        if self._here.clips is not None:
            self._here.ragged.append(merged)
        return merged.flatten(clip)

    def _ragged(self, frames: int) -> Ragged | None:
        """Returns the description of ragged clips of so many frames together; None if the clips are not ragged."""
        places = self._here.ragged
        found = next((place for place in reversed(places) if place.holds(frames)), None)
        if places and found is None:
            raise ValueError(f"{frames} flattened frames belong to no ragged clips: a 2-D layer changed their number")
        return found

    def _recalled(self, layer: nn.Module, frames: Tensor, layout: Layout) -> tuple[int, Grid | None, Ragged | None]:
        with self._lock:
            calls = list(self._calls)
        shape, numbers = tuple(frames.shape), layout.numbers(frames)
        found = {
            (call.clips, _grid(call.grids, layout), call.seen[layer][numbers])
            for call in calls
            if numbers in call.seen.get(layer, {})
        }
        if len(found) == 1:
            return found.pop()
        if found:
            places = sorted({(clips, grid) for clips, grid, _ in found})
            either = " or ".join(f"{clips} in a grid {grid}" if grid else str(clips) for clips, grid in places)
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


def each_frame(value: Any, clip: Tensor, ragged: Ragged | None = None) -> Any:
    """Returns a tensor that has a row for each clip with a row for each flattened frame of ``clip``.

    Clips, (b, c, t, h, w), are flattened. Anything else is returned as it is.
    """
    b, t = clip.shape[0], clip.shape[2]
    if not isinstance(value, Tensor) or not value.ndim or value.shape[0] != b:
        return value
    if value.ndim == 5:
        return flatten_time(value) if ragged is None else ragged.flatten(value)
    rows = value.repeat_interleave(t, dim=0)
    return rows if ragged is None or ragged.rows is None else rows.index_select(0, ragged.rows)


class OnFrames(Extension):
    """Lets a layer on clips take what a module of a 2-D network returns, and return the like.

    The frames are in its ``layout``. A clip passes straight through.
    """

    _prefix = ""

    _running: RunningClips
    _layout: Layout

    def forward(self, x: Any, lengths: Tensor | None = None) -> Any:
        """Returns ``x`` with its frames replaced by the layer's output."""
        layout = self._layout
        frames = select(x, layout.item)
        if isinstance(frames, Proxy):
            if layout != Layout():
                raise ValueError(f"torch.fx traces layers on maps only, and this one takes {layout}")
            return self._running.trace(super().forward, frames)
        if not isinstance(frames, Tensor) or frames.ndim != len(layout.axes):
            return super().forward(x) if lengths is None else super().forward(x, lengths=lengths)
        clips, grid, ragged = self._running.find(self, frames, layout)
        prefix, maps = layout.split(frames, grid)
        if ragged is None:
            maps = flatten_time(super().forward(maps.unflatten(0, (clips, -1)).transpose(1, 2)))
        else:
            maps = self._running.flatten(*self._over(ragged.unflatten(maps), ragged.lengths), ragged)
        return replace(x, layout.item, layout.join(prefix, maps))

    def _over(self, clip: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the layer's output for ragged clips, and its lengths."""
        if isinstance(self, nn.Sequential):
            return run_ragged(nn.Sequential(*self), clip, lengths)
        return super().forward(clip, lengths=lengths), lengths_after(super(), lengths)


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
