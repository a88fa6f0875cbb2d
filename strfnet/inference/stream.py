"""A tracklet embedded frame by frame, while it goes on, without computing again what cannot change.

In evaluation a frame changes only the frames near it, as far as the layers over time reach. So every such layer
keeps the few last frames given to it that are final, that is, that no later frame can change. A pass takes the
new frames and hands on, from layer to layer, all frames that are not yet final, the last of them as they are if
the tracklet ends here: these come out of the layers' own padding. What is final at the top goes into a sum or a
maximum, so memory does not grow with the tracklet. All of this is ours.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from strfnet.data.sampling import restricted_first
from strfnet.deployment.optimizer import Deployed
from strfnet.heads.head import Head
from strfnet.inference.incremental import Progress, Span, delay
from strfnet.inference.receptive_field import refusal
from strfnet.inflation.extension import retract
from strfnet.inflation.inflation import Inflated
from strfnet.layers.clip import check_clip, flatten_time
from strfnet.models.network import ReIDNetwork

LONGEST_PASS = 16  # frames of each tracklet that wait, or that are computed at a time


class Stream:
    """The embedding of a tracklet so far, whose frames come one by one or in groups.

    It is that of the network on the clip of all frames so far (but for rounding), at the cost of the frames
    that changed. Networks of which every frame of the answer depends on all frames cannot be embedded so, and
    are refused; with ``frames``, any network is given a clip of that many of the frames so far, as ``strfnet
    embed`` chooses them, and runs again when the choice changes. Then all frames are kept.

    The stream works with the network's weights, in evaluation and inference mode; the network itself is not
    modified. Train it, and what the stream holds is of other weights: `reset` or make a new one.

    Args:
        network: one of `strfnet.create_model`, or any ``ReIDNetwork``; or one deployed by `strfnet.optimize`, of
            which it takes the form with folded norms, in which one more frame costs the least.
        frames: of the clip, by ``restricted_first``; None for the embedding of all frames, exactly.

    Raises: ValueError naming the module and the reason, if ``frames`` is None and the network has a module that
    looks at all frames, or that cannot be known; TypeError for another kind of network.
    """

    def __init__(self, network: ReIDNetwork | Deployed, *, frames: int | None = None) -> None:
        if isinstance(network, Deployed):
            network = cast(ReIDNetwork, network.folded)
        if not isinstance(network, ReIDNetwork):
            raise TypeError(f"network must be a strfnet ReIDNetwork or a deployed one, got {type(network).__name__}")
        if frames is not None and frames < 1:
            raise ValueError(f"frames must be at least 1, or None for all frames exactly, got {frames}")
        convs = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
        self._channels = next((conv.in_channels for conv in convs), None)
        self._like = next(network.parameters())
        self._form = _Exact(network) if frames is None else _Clip(network, frames)
        self.reset()

    def reset(self) -> None:
        """Forget all frames: the next ones begin another tracklet, of any size."""
        self._form.reset()
        self._shape: tuple[int, ...] | None = None
        self._length = 0
        self._answer: Tensor | None = None

    def __len__(self) -> int:
        """Frames so far."""
        return self._length

    def push(self, frames: Tensor) -> None:
        """The next frames: (c, k, h, w), or (b, c, k, h, w) of b tracklets in step.

        They are copied. Most of the work waits for `embedding`. Frames that are refused leave all as it was.
        Raises: TypeError or ValueError for other channels, dtype or device than the network's, or for another
        number of tracklets or size than before.
        """
        clip = frames[None] if isinstance(frames, Tensor) and frames.ndim == 4 else frames
        check_clip(clip, self._channels, weight=self._like, name="frames")
        shape = (clip.shape[0], *clip.shape[3:])
        if self._shape not in (None, shape):
            b, h, w = self._shape
            raise ValueError(
                f"frames are of {shape[0]} tracklets in {shape[1]} x {shape[2]} pixels, those before of {b} in "
                f"{h} x {w}; reset() begins another tracklet"
            )
        with torch.inference_mode():
            self._form.add(clip)
        self._shape, self._answer = shape, None
        self._length += clip.shape[2]

    def embedding(self) -> Tensor:
        """(b, d), of all frames so far. Raises: ValueError if there are none."""
        if not self._length:
            raise ValueError("no frames so far; push at least one")
        if self._answer is None:
            with torch.inference_mode():
                self._answer = self._form.embedding()
        return self._answer.clone()


class _Clip:
    """A network run on the chosen frames of all those so far."""

    def __init__(self, network: ReIDNetwork, frames: int) -> None:
        self.network = _sharing_weights(network)
        self.count = frames

    def reset(self) -> None:
        self.frames: list[Tensor] = []
        self.chosen: list[int] = []
        self.answer: Tensor | None = None

    def add(self, clip: Tensor) -> None:
        self.frames += [frame.clone() for frame in clip.unbind(2)]

    def embedding(self) -> Tensor:
        chosen = restricted_first(len(self.frames), self.count)
        if self.answer is None or chosen != self.chosen:
            self.answer = self.network(torch.stack([self.frames[at] for at in chosen], dim=2)).embedding
            self.chosen = chosen
        return self.answer


@dataclass(frozen=True)
class _State:
    """All that a stream of exact embeddings knows of its frames; never changed, so that a failure loses nothing."""

    waiting: tuple[Tensor, ...] = ()  # clips that no pass has seen
    passed: int = 0  # frames that passes have seen
    final: Tensor | None = None  # (b, d), the sum or maximum of the final frames at the top
    kept: Mapping[nn.Module, Tensor] = field(default_factory=dict)  # by the layers


class _Exact:
    """A copy of a network whose layers over time keep their last frames, and what is final of its feature."""

    def __init__(self, network: ReIDNetwork) -> None:
        if type(network.head) is not Head:
            raise refusal(network.head, "head", "pools in a way that cannot be known")
        if not isinstance(network.backbone, Inflated):
            raise refusal(network.backbone, "backbone", "was not made by strfnet.inflate")
        for path, module in network.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
                raise refusal(module, path, "takes its statistics from all frames, having no running ones")
        shared = _sharing_weights(network)
        self.head = shared.head
        retract(shared.backbone, Inflated)
        self.progress = Progress()
        self.backbone = delay(shared.backbone, self.progress, "backbone")

    def reset(self) -> None:
        self.state = _State()

    def add(self, clip: Tensor) -> None:
        state = self.state
        for piece in clip.split(LONGEST_PASS, dim=2):
            if _count(state.waiting) + piece.shape[2] > LONGEST_PASS and self._advances(state):
                state, _ = self._passed(state, ending=False)
            state = replace(state, waiting=(*state.waiting, piece.clone()))
        self.state = state

    def embedding(self) -> Tensor:
        state, features = self._passed(self.state, ending=True)
        pooled = cast(Tensor, self._merged(state.final, features))
        if self.head.pooling != "max":
            pooled = pooled / self.progress.span.end
        answer = self.head.neck(pooled.to(features.dtype))
        self.state = state
        return answer

    def _passed(self, state: _State, *, ending: bool) -> tuple[_State, Tensor]:
        """The state after a pass over the frames that wait, and the features that are not final, (b, t, d)."""
        clip = torch.cat(state.waiting, dim=2)
        total = state.passed + clip.shape[2]
        self.progress.begin(Span(state.passed, total, total), state.kept, ending=ending)
        maps = self.backbone(flatten_time(clip))
        features = self.head.pool(maps[:, :, None]).unflatten(0, (len(clip), -1))
        new = self.progress.span.final - self.progress.span.before
        final = self._merged(state.final, features[:, :new])
        return _State((), total, final, self.progress.keeping), features[:, new:]

    def _merged(self, pooled: Tensor | None, features: Tensor) -> Tensor | None:
        """The sum or maximum of features and of those before, in float64: a long sum must not lose its last."""
        if not features.shape[1]:
            return pooled
        if self.head.pooling == "max":
            more = features.double().amax(dim=1)
            return more if pooled is None else torch.maximum(pooled, more)
        more = features.double().sum(dim=1)
        return more if pooled is None else pooled + more

    def _advances(self, state: _State) -> bool:
        """Whether every layer would get a newly final frame from those that wait."""
        before, after = state.passed, state.passed + _count(state.waiting)
        for reach in self.progress.reaches:
            before, after = reach.final(before), reach.final(after)
        return after > before


def _count(clips: Iterable[Tensor]) -> int:
    return sum(clip.shape[2] for clip in clips)


def _sharing_weights(network: ReIDNetwork) -> ReIDNetwork:
    """A copy in evaluation mode that holds the very parameters and buffers of the network."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor for tensor in tensors}).eval()
