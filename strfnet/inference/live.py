"""How the embedding of a live track is computed: of all frames, of a sample of them, or of all clips."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from strfnet.data.sampling import restricted_first
from strfnet.inference.exact import Exact, State
from strfnet.models.network import ReIDNetwork
from strfnet.system.modes import evaluation_copy

Frame = NDArray[np.uint8]  # RGB (h, w, 3)
Prepare = Callable[[Sequence[Frame], Sequence[int]], Tensor]  # the clip (c, t, h, w) of frames at some indices


class LiveForm(Protocol):
    """How embeddings are computed. States are immutable, so that an error loses nothing."""

    def begin(self) -> Any:
        """Returns the state of a track without frames."""

    def add(self, state: Any, frame: Frame) -> Any:
        """Returns the state with one more frame, RGB."""

    def is_full(self, state: Any) -> bool:
        """Whether the state has to be advanced before another frame."""

    def stage(self, state: Any) -> Hashable:
        """Returns what states of one batch have in common."""

    def basis(self, state: Any) -> Hashable:
        """Returns the frames on which the embedding depends."""

    def advanced(self, states: Sequence[Any]) -> Sequence[Any]:
        """Returns the states with room for more frames."""

    def embedded(self, states: Sequence[Any]) -> tuple[Sequence[Any], Tensor]:
        """Returns the states and their embeddings, (n, d)."""


class AllFrames:
    """All frames, exactly."""

    def __init__(self, network: ReIDNetwork, prepare: Prepare) -> None:
        self.exact, self.prepare = Exact(network), prepare

    def begin(self) -> State:
        return State()

    def add(self, state: State, frame: Frame) -> State:
        return replace(state, waiting=(*state.waiting, self.prepare([frame], [0])[None]))

    def is_full(self, state: State) -> bool:
        return self.exact.is_full(_but_last(state), more=2)

    def stage(self, state: State) -> Hashable:
        return self.exact.stage(state)

    def basis(self, state: State) -> Hashable:
        return state.passed + state.pending

    def advanced(self, states: Sequence[State]) -> list[State]:
        """Leaves the last frame: without one, there is no embedding."""
        after = self.exact.advanced([_but_last(state) for state in states])
        return [replace(new, waiting=old.waiting[-1:]) for new, old in zip(after, states, strict=True)]

    def embedded(self, states: Sequence[State]) -> tuple[list[State], Tensor]:
        return self.exact.embedded(states)


def _but_last(state: State) -> State:
    return replace(state, waiting=state.waiting[:-1])


@dataclass(frozen=True)
class KeptFrames:
    """Frames that are kept of a track, and the sum of the embeddings of earlier clips, weighted by their frames."""

    kept: tuple[Frame, ...] = ()
    count: int = 0  # of frames so far, kept or not
    step: int = 1  # every so-manieth frame is kept
    total: Any = 0.0  # zero, or (d,) in float64


class SampledClip:
    """One clip of n of the frames so far, by ``restricted_first``."""

    def __init__(self, network: ReIDNetwork, prepare: Prepare, frames: int, longest: int) -> None:
        self.network, self.prepare, self.frames, self.longest = evaluation_copy(network), prepare, frames, longest

    def begin(self) -> KeptFrames:
        return KeptFrames()

    def add(self, state: KeptFrames, frame: Frame) -> KeptFrames:
        kept, step = state.kept, state.step
        if state.count % step == 0:
            kept = (*kept, frame)
        if len(kept) > self.longest:
            kept, step = kept[::2], 2 * step
        return replace(state, kept=kept, count=state.count + 1, step=step)

    def is_full(self, state: KeptFrames) -> bool:
        return False

    def stage(self, state: KeptFrames) -> Hashable:
        return None

    def basis(self, state: KeptFrames) -> Hashable:
        return tuple(state.step * index for index in self._chosen(state))

    def advanced(self, states: Sequence[KeptFrames]) -> Sequence[KeptFrames]:
        return states

    def embedded(self, states: Sequence[KeptFrames]) -> tuple[Sequence[KeptFrames], Tensor]:
        clips = [self.prepare(state.kept, self._chosen(state)) for state in states]
        return states, self.network(torch.stack(clips)).embedding

    def _chosen(self, state: KeptFrames) -> list[int]:
        return restricted_first(len(state.kept), self.frames)


class AllClips:
    """The mean over clips of n frames, by ``all_frames``; clips that are complete are only a sum."""

    def __init__(self, network: ReIDNetwork, prepare: Prepare, frames: int) -> None:
        self.network, self.prepare, self.frames = evaluation_copy(network), prepare, frames

    def begin(self) -> KeptFrames:
        return KeptFrames()

    def add(self, state: KeptFrames, frame: Frame) -> KeptFrames:
        return replace(state, kept=(*state.kept, frame), count=state.count + 1)

    def is_full(self, state: KeptFrames) -> bool:
        return len(state.kept) == self.frames

    def stage(self, state: KeptFrames) -> Hashable:
        return not state.kept  # right after a clip is complete

    def basis(self, state: KeptFrames) -> Hashable:
        return state.count

    def advanced(self, states: Sequence[KeptFrames]) -> Sequence[KeptFrames]:
        totals = self._totals(states)
        return [replace(state, kept=(), total=total) for state, total in zip(states, totals, strict=True)]

    def embedded(self, states: Sequence[KeptFrames]) -> tuple[Sequence[KeptFrames], Tensor]:
        totals = self._totals(states) if states[0].kept else [state.total for state in states]
        return states, torch.stack([total / state.count for state, total in zip(states, totals, strict=True)])

    def _totals(self, states: Sequence[KeptFrames]) -> list[Tensor]:
        clips = [self.prepare(state.kept, range(len(state.kept))).movedim(1, 0) for state in states]
        lengths = [len(clip) for clip in clips]
        options = (torch.tensor(lengths),) if len(set(lengths)) > 1 else ()
        padded = pad_sequence(clips, batch_first=True).movedim(2, 1)
        vectors = self.network(padded, *options).embedding.double()
        return [s.total + n * v for s, n, v in zip(states, lengths, vectors, strict=True)]
