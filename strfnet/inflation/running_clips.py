"""How many clips a network is running on, known to all its layers through one object.

An inflated network flattens the frames of b clips into the batch, (b t, c, h, w), because its 2-D layers expect
images. A layer on clips has to unflatten them. It needs b alone: b is the same everywhere in the network, while t
changes where frames are merged, and is the number of frames divided by b at any place. Of ragged clips it needs their
lengths too, which change with t.
"""

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from strfnet.inflation.extension import Extension
from strfnet.inflation.ragged import Ragged, lengths_after, run_ragged
from strfnet.layers.clip import AXES, flatten_time


class _Call:
    """One forward pass with gradients: the number of clips, and what each layer was given by its number of frames."""

    def __init__(self, clips: int) -> None:
        self.clips = clips
        self.seen: weakref.WeakKeyDictionary[nn.Module, dict[int, Ragged | None]] = weakref.WeakKeyDictionary()


class _ThisThread(threading.local):
    """The forward pass in the present thread."""

    def __init__(self) -> None:  # torch.compile does not find defaults of the class
        self.clips: int | None = None
        self.call: _Call | None = None
        self.ragged: list[Ragged] = []  # ragged clips at the places passed so far, the last one last


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

    def run(
        self, function: Callable[[Tensor], Any], clip: Tensor, lengths: Tensor | None = None
    ) -> tuple[Any, Ragged | None]:
        """Returns ``function`` of the flattened frames of ``clip``; meanwhile `unflatten` knows their number.

        With ``lengths`` (b,) the frames are those that exist, and the second value describes those of the output.
        """
        here = self._here
        before, clips = (here.clips, here.call, here.ragged), clip.shape[0]
        first = None if lengths is None else Ragged.of(clip, lengths)
        call = None
        # Under compilers and tracers the number of clips is a symbol or a tensor, and nothing is run again.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and type(clips) is int:
            call = _Call(clips)
        here.clips, here.call, here.ragged = clips, call, [] if first is None else [first]
        try:
            output = function(flatten_time(clip) if first is None else first.flatten(clip))
            last = self._ragged(output.shape[0]) if first is not None and isinstance(output, Tensor) else None
        finally:
            here.clips, here.call, here.ragged = before
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

    def unflatten(self, layer: nn.Module, frames: Tensor) -> tuple[Tensor, Ragged | None]:
        """Returns the clips whose ``frames`` were given to ``layer``, and their description if they are ragged.

        Raises: ValueError if the network is not running and no graph tells the number of clips.
        """
        clips, call = self._here.clips, self._here.call
        if clips is None:
            clips, ragged = self._recalled(layer, frames)
        else:
            ragged = self._ragged(frames.shape[0])
            if call is not None:
                call.seen.setdefault(layer, {})[len(frames)] = ragged
        if ragged is not None:
            return ragged.unflatten(frames), ragged
        return frames.unflatten(0, (clips, -1)).transpose(1, 2), None

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

    def _recalled(self, layer: nn.Module, frames: Tensor) -> tuple[int, Ragged | None]:
        with self._lock:
            calls = list(self._calls)
        count = len(frames)
        found = {(call.clips, call.seen[layer][count]) for call in calls if count in call.seen.get(layer, {})}
        if len(found) == 1:
            return found.pop()
        shape = tuple(frames.shape)
        if found:
            either = " or ".join(map(str, sorted({clips for clips, _ in found})))
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

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the layer's output, as frames if ``x`` is frames."""
        if isinstance(x, Proxy):
            return self._running.trace(super().forward, x)
        if not isinstance(x, Tensor) or x.ndim != 4:
            return super().forward(x) if lengths is None else super().forward(x, lengths=lengths)
        clip, ragged = self._running.unflatten(self, x)
        if ragged is None:
            return flatten_time(super().forward(clip))
        if isinstance(self, nn.Sequential):
            output, lengths = run_ragged(nn.Sequential(*self), clip, ragged.lengths)
        else:
            output, lengths = super().forward(clip, lengths=ragged.lengths), lengths_after(super(), ragged.lengths)
        return self._running.flatten(output, lengths, ragged)


def share(running: RunningClips, module: nn.Module) -> None:
    """Gives ``running`` to all layers in ``module``, in place; those of an inflated network in it keep its own."""
    if isinstance(module, OnFrames):
        module._running = running
    else:
        running = vars(module).get("_running", running)
    for child in module.children():
        share(running, child)
