"""The embedding of a tracklet while it goes on; final frames are not computed again.

In evaluation a frame affects only the frames within the temporal receptive field of the layers. So every temporal
layer caches the last of its final input frames, those that no later frame can change. A pass takes the new frames
and passes on, from layer to layer, all frames that are not yet final, computed as if the tracklet ended here. Final
frames of the last layer are accumulated into a sum or a maximum, so memory does not grow with the tracklet. All of
this is ours.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor, nn

from strfnet.data.sampling import restricted_first
from strfnet.deployment.deployed import Deployed
from strfnet.inference.incremental import Progress, Span, delay
from strfnet.inference.receptive_field import refusal
from strfnet.inflation.extension import retract
from strfnet.inflation.inflation import Inflated
from strfnet.layers.clip import check_clip, flatten_time, in_channels_last
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork
from strfnet.system.compat import BatchNorm
from strfnet.system.modes import evaluation_copy

LONGEST_PASS = 16  # frames of each tracklet that wait, or that are computed at a time


class Stream:
    """The embedding of the frames of a tracklet so far; frames arrive one by one or in groups.

    It equals the network's embedding of the clip of all frames so far, up to rounding, and only frames that changed
    are computed. Networks whose output frames depend on all frames are refused. With ``frames``, any network embeds
    a clip of that many of the frames so far, sampled as ``strfnet embed`` does, and runs again when the sample
    changes; all frames are stored then.

    The stream shares the network's weights, and runs in evaluation and inference mode. It does not modify the
    network. After further training, call `reset` or create a new stream.

    Args:
        network: one of `strfnet.create_model`, or any ``ReIDNetwork``; or one deployed by `strfnet.optimize`, of
            which it takes the one with fused norms, which has the lowest cost per frame.
        frames: number of frames in the sampled clip. Default: None, the exact embedding of all frames.

    Raises: ValueError naming the module and the reason, if ``frames`` is None and a module depends on all frames or
    is unknown; TypeError for another kind of network.
    """

    def __init__(self, network: ReIDNetwork | Deployed, *, frames: int | None = None) -> None:
        if isinstance(network, Deployed):
            network = cast(ReIDNetwork, network.fused)
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
        """Discards all frames; the next frames begin another tracklet, of any size."""
        self._form.reset()
        self._shape: tuple[int, ...] | None = None
        self._length = 0
        self._answer: Tensor | None = None

    def __len__(self) -> int:
        """Returns the number of frames so far."""
        return self._length

    def push(self, frames: Tensor) -> None:
        """Appends frames: (c, k, h, w), or (b, c, k, h, w) for b tracklets of equal length.

        The frames are copied. Most of the work is done in `embedding`. An error leaves the stream unchanged.
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
        """Returns the embedding of all frames so far, (b, d). Raises: ValueError if there are none."""
        if not self._length:
            raise ValueError("no frames so far; push at least one")
        if self._answer is None:
            with torch.inference_mode():
                self._answer = self._form.embedding()
        return self._answer.clone()


class _Clip:
    """A network that runs on a sample of the frames so far."""

    def __init__(self, network: ReIDNetwork, frames: int) -> None:
        self.network = evaluation_copy(network)
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
    """The immutable state of an exact stream, so that an error loses nothing."""

    waiting: tuple[Tensor, ...] = ()  # clips that no pass has seen
    passed: int = 0  # frames that passes have seen
    final: Tensor | None = None  # (b, d), the sum or maximum of the final frames at the top
    kept: Mapping[nn.Module, Tensor] = field(default_factory=dict)  # by the layers


class _Exact:
    """A copy of a network whose temporal layers cache their last frames, with the accumulated final features."""

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
        """Returns the state after a pass over the waiting frames, and the features that are not final, (b, t, d)."""
        clip = torch.cat(state.waiting, dim=2)
        total = state.passed + clip.shape[2]
        self.progress.begin(Span(state.passed, total, total), state.kept, ending=ending)
        maps = self.backbone(flatten_time(in_channels_last(clip)))
        features = self.head.pool(maps[:, :, None]).unflatten(0, (len(clip), -1))
        new = self.progress.span.final - self.progress.span.before
        final = self._merged(state.final, features[:, :new])
        return _State((), total, final, self.progress.keeping), features[:, new:]

    def _merged(self, pooled: Tensor | None, features: Tensor) -> Tensor | None:
        """Returns the sum or maximum of earlier and new features, in float64, as sums are long."""
        if not features.shape[1]:
            return pooled
        if self.head.pooling == "max":
            more = features.double().amax(dim=1)
            return more if pooled is None else torch.maximum(pooled, more)
        more = features.double().sum(dim=1)
        return more if pooled is None else pooled + more

    def _advances(self, state: _State) -> bool:
        """Returns whether the waiting frames give every layer a new final frame."""
        before, after = state.passed, state.passed + _count(state.waiting)
        for extent in self.progress.fields:
            before, after = extent.final(before), extent.final(after)
        return after > before


def _count(clips: Iterable[Tensor]) -> int:
    return sum(clip.shape[2] for clip in clips)
