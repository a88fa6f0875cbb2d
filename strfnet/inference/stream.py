"""The embedding of a tracklet while it goes on."""

import torch
from torch import Tensor, nn

from strfnet.data.sampling import restricted_first
from strfnet.deployment.deployed import Deployed
from strfnet.inference.exact import Exact, State, network_of
from strfnet.layers.clip import check_clip
from strfnet.models.network import ReIDNetwork
from strfnet.system.modes import evaluation_copy


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
        network = network_of(network)
        if frames is not None and frames < 1:
            raise ValueError(f"frames must be at least 1, or None for all frames exactly, got {frames}")
        convs = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
        self._channels = next((conv.in_channels for conv in convs), None)
        self._like = next(network.parameters())
        self._form = _Whole(network) if frames is None else _Clip(network, frames)
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


class _Whole:
    """A network that continues from the frames so far."""

    def __init__(self, network: ReIDNetwork) -> None:
        self.exact = Exact(network)

    def reset(self) -> None:
        self.state = State()

    def add(self, clip: Tensor) -> None:
        self.state = self.exact.add(self.state, clip)

    def embedding(self) -> Tensor:
        (self.state,), embedding = self.exact.embedded([self.state])
        return embedding
