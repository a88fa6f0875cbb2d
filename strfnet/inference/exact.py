"""The embedding of a tracklet while it goes on; final frames are not computed again.

In evaluation a frame affects only the frames within the temporal receptive field of the layers. So every temporal
layer caches the last of its final input frames, those that no later frame can change. A pass takes the new frames
and passes on, from layer to layer, all frames that are not yet final, computed as if the tracklet ended here. Final
frames of the last layer are accumulated into a sum or a maximum, so memory does not grow with the tracklet. All of
this is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from strfnet.deployment.deployed import Deployed
from strfnet.inference.incremental import Progress, Span, delay
from strfnet.inference.receptive_field import cycle, refusal
from strfnet.inflation.extension import retract
from strfnet.inflation.inflated import Inflated
from strfnet.layers.clip import flatten_time, in_channels_last
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork
from strfnet.system.compat import BatchNorm
from strfnet.system.modes import evaluation_copy

LONGEST_PASS = 16  # frames of each tracklet that wait, or that are computed at a time


@dataclass(frozen=True)
class State:
    """The immutable state of b tracklets of equal length, so that an error loses nothing."""

    waiting: tuple[Tensor, ...] = ()  # clips (b, c, k, h, w) that no pass has seen
    passed: int = 0  # frames that passes have seen
    final: Tensor | None = None  # (b, d), the sum or maximum of the final frames at the top
    kept: Mapping[nn.Module, Tensor] = field(default_factory=dict)  # by the layers

    @property
    def pending(self) -> int:
        """The number of frames that no pass has seen."""
        return sum(clip.shape[2] for clip in self.waiting)


class Exact:
    """A copy of a network whose temporal layers cache their last frames.

    A state belongs to b tracklets that go on in step. States of equal `stage` share a pass, whatever their lengths.

    Raises: ValueError naming a module that depends on all frames, or is unknown, and the reason.
    """

    def __init__(self, network: ReIDNetwork) -> None:
        if type(network.head) is not Head:
            raise refusal(network.head, "head", "pools in a way that cannot be known")
        if network.head.pooling not in ("mean", "max", "max_mean"):
            raise refusal(network.head, "head", f"pools by {network.head.pooling}, for which all frames are needed")
        if not isinstance(network.backbone, Inflated):
            raise refusal(network.backbone, "backbone", "was not made by strfnet.inflate")
        for path, module in network.named_modules():
            if isinstance(module, BatchNorm) and module.running_mean is None:
                raise refusal(module, path, "takes its statistics from all frames, having no running ones")
        shared = evaluation_copy(network)
        self.head = shared.head
        retract(shared.backbone, Inflated)
        self.progress = Progress()
        self.backbone = delay(shared.backbone, self.progress, "backbone")
        self._settled, self._period = cycle(self.progress.fields)

    def add(self, state: State, clip: Tensor) -> State:
        """Appends frames (b, c, k, h, w); passes are run as soon as `LONGEST_PASS` frames wait."""
        for piece in clip.split(LONGEST_PASS, dim=2):
            if self.is_full(state, piece.shape[2]):
                (state,), _ = self._passed([state], ending=False)
            state = replace(state, waiting=(*state.waiting, piece.clone()))
        return state

    def is_full(self, state: State, more: int = 1) -> bool:
        """Whether a pass is due before so many more frames."""
        return state.pending + more > LONGEST_PASS and self._advances(state)

    def stage(self, state: State) -> tuple[int, int]:
        """Returns what states of one pass have in common.

        Past the padding at the start, layers compute the same for tracklets of any length, up to their place within
        groups of frames.
        """
        return self._place(state.passed), state.pending

    def advanced(self, states: Sequence[State]) -> list[State]:
        """Returns states of equal `stage` after a pass over the waiting frames; each is full."""
        return self._passed(states, ending=False)[0]

    def embedded(self, states: Sequence[State]) -> tuple[list[State], Tensor]:
        """Returns states of equal `stage` after a pass, and the embeddings of all frames so far, (sum of b, d)."""
        states, features = self._passed(states, ending=True)
        b = len(features) // len(states)
        pooled = together(self._merged_each(states, features))
        if self.head.pooling != "max":
            frames = [reduce(lambda n, extent: extent.total(n), self.progress.fields, s.passed) for s in states]
            pooled = pooled / torch.tensor(frames, device=pooled.device).repeat_interleave(b)[:, None]
        return states, self.head.neck(pooled.to(features.dtype))

    def _passed(self, states: Sequence[State], *, ending: bool) -> tuple[list[State], Tensor]:
        """Returns the states after a pass over the waiting frames, and the features that are not final, (b, t, d)."""
        place, pending = self.stage(states[0])
        clip = together([torch.cat(state.waiting, dim=2) for state in states])
        kept = {layer: together([state.kept[layer] for state in states]) for layer in states[0].kept}
        self.progress.begin(Span(place, place + pending, place + pending), kept, ending=ending)
        maps = self.backbone(flatten_time(in_channels_last(clip)))
        features = self.head.pool(maps[:, :, None]).unflatten(0, (len(clip), -1))
        new = self.progress.span.final - self.progress.span.before
        keeping = {layer: apart(cached, len(states)) for layer, cached in self.progress.keeping.items()}
        final = self._merged_each(states, features[:, :new])
        after = [
            State((), state.passed + pending, final[row], {layer: parts[row] for layer, parts in keeping.items()})
            for row, state in enumerate(states)
        ]
        return after, features[:, new:]

    def _place(self, passed: int) -> int:
        """Returns the fewest frames after which a pass computes the same as after ``passed``."""
        return min(passed, self._settled + (passed - self._settled) % self._period)

    def _merged_each(self, states: Sequence[State], features: Tensor) -> list[Any]:
        parts = features.chunk(len(states))
        return [self._merged(state.final, part) for state, part in zip(states, parts, strict=True)]

    def _merged(self, pooled: Tensor | None, features: Tensor) -> Tensor | None:
        """Returns the sum or maximum of earlier and new features, in float64, as sums are long."""
        if not features.shape[1]:
            return pooled
        if self.head.pooling == "max":
            more = features.double().amax(dim=1)
            return more if pooled is None else torch.maximum(pooled, more)
        more = features.double().sum(dim=1)
        return more if pooled is None else pooled + more

    def _advances(self, state: State) -> bool:
        """Returns whether the waiting frames give every layer a new final frame."""
        before, after = state.passed, state.passed + state.pending
        for extent in self.progress.fields:
            before, after = extent.final(before), extent.final(after)
        return after > before


def together(parts: Sequence[Tensor]) -> Tensor:
    """Returns the tensors as one batch."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def apart(batch: Tensor, count: int) -> Sequence[Tensor]:
    """Returns a batch as ``count`` tensors; copies, because a view would hold the whole batch."""
    return [batch] if count == 1 else [part.clone() for part in batch.chunk(count)]


def network_of(network: nn.Module) -> ReIDNetwork:
    """Returns the network that streams run: of a deployed one, the network with fused norms.

    Raises: TypeError for another kind of network.
    """
    if isinstance(network, Deployed):
        network = network.fused
    if not isinstance(network, ReIDNetwork):
        raise TypeError(f"network must be a strfnet ReIDNetwork or a deployed one, got {type(network).__name__}")
    return network
