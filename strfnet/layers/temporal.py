"""Convolutions over space and time made from a 2-D one: C2D, I3D and the three orders of P3D.

Before training, each computes the 2-D convolution on every frame. Time is padded with zeros and
keeps its length. The kernel over time is a (3, 1) convolution on the (t, h w) plane of a clip.

Sources: I3D, Carreira and Zisserman, CVPR 2017 (with the middle slice as the start, as published re-ID code
has it); P3D, Qiu et al., ICCV 2017, in the forms of AP3D, Gu et al., ECCV 2020. Ours: a grouped convolution
keeps its groups over time, and the 2-D convolution keeps its bias, dilation, padding mode,
strides per axis, dtype, device, mode, frozen parameters and hooks.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.system.compat import ConvertedKernels, ConvertedState, children_of, implicit_padding


def inflate_weight(weight: Tensor, frames: int, *, how: str = "center") -> Tensor:
    """Inflates a 2-D kernel (o, i, h, w) in time: (o, i, frames, h, w).

    Args:
        weight: the kernel.
        frames: length of the new axis.
        how: "center" puts the kernel into slice ``frames // 2`` and zeros elsewhere, which keeps
            the output on every frame; "mean" repeats it divided by ``frames``, which keeps it on equal frames.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    if how not in ("center", "mean"):
        raise ValueError(f'how must be "center" or "mean", got {how!r}')
    if how == "mean":
        return weight.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    inflated = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    inflated[:, :, frames // 2] = weight
    return inflated


class TemporalConv(nn.Conv2d):
    """A 2-D convolution on clips; its subclasses define what it computes over time.

    It copies the parameters and settings of ``conv``, under the same state-dict keys, so checkpoints of the 2-D
    network load.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d`` (subclasses may compute something else).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        if type(conv) is not nn.Conv2d:
            raise TypeError(f"conv must be a plain torch.nn.Conv2d, got {type(conv).__name__}")
        vars(self).update(vars(copy.deepcopy(conv)))

    def forward(self, x: Tensor) -> Tensor:
        check_clip(x, self.in_channels, weight=self.weight)
        return self.convolve(x)

    def convolve(self, clip: Tensor) -> Tensor:
        """Returns the output for a valid clip."""
        raise TypeError(f"{type(self).__name__} does not implement convolve")

    def spatial(self, clip: Tensor) -> Tensor:
        """Computes the 2-D convolution on every frame."""
        return unflatten_time(nn.Conv2d.forward(self, flatten_time(clip)), clip.shape[2])

    def image_conv(self) -> nn.Conv2d:
        """Returns the plain 2-D convolution that this one was made from, with the present weights."""
        conv = nn.Conv2d.__new__(nn.Conv2d)
        vars(conv).update(vars(copy.deepcopy(self)))
        children_of(conv).clear()
        return conv


class C2D(TemporalConv):
    """The 2-D convolution on every frame, with no extent in time.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``.
    """

    def convolve(self, clip: Tensor) -> Tensor:
        return self.spatial(clip)


class I3D(ConvertedState, ConvertedKernels, TemporalConv):
    """A true 3-D convolution whose middle slice starts as the 2-D kernel, the others as zero.

    Its ``weight`` is (o, i, 3, h, w); a 2-D weight in a checkpoint is inflated when it is loaded.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``.
    Source: Carreira and Zisserman, CVPR 2017; the middle slice as the start is of published re-ID code.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        weight = inflate_weight(self.weight.detach(), 3)
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)

    def convolve(self, clip: Tensor) -> Tensor:
        return self._convolve3d(clip, step=1, padding=1)

    def _convolve3d(self, clip: Tensor, *, step: int, padding: int) -> Tensor:
        rows_and_columns = self.padding
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            frames = F.pad(flatten_time(clip), implicit_padding(self), mode=mode)
            clip, rows_and_columns = unflatten_time(frames, clip.shape[2]), (0, 0)
        stride, pad, dilation = (step, *self.stride), (padding, *rows_and_columns), (1, *self.dilation)
        return F.conv3d(clip, self.weight, self.bias, stride, pad, dilation, self.groups)

    def image_conv(self) -> nn.Conv2d:
        conv = super().image_conv()
        conv.weight = nn.Parameter(self.weight.detach()[:, :, 1].clone(), requires_grad=self.weight.requires_grad)
        return conv

    def convert_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.ndim == 4:
            state_dict[f"{prefix}weight"] = inflate_weight(weight, 3)


class P3D(TemporalConv):
    """A spatial and a temporal convolution; its subclasses combine them.

    ``temporal.weight`` is (o, i, 3, 1), without bias, and starts at zero.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        self.temporal = temporal_conv(self, self.out_channels)

    def reset_temporal(self) -> None:
        """Initialises the temporal kernel, so that the layer is the 2-D convolution on every frame."""
        nn.init.zeros_(self.temporal.weight)

    def neighbours(self, clip: Tensor) -> Tensor:
        """Returns the input frames of the temporal convolution: those of the clip."""
        return clip

    def over_time(self, clip: Tensor, stride: tuple[int, ...] = (1, 1)) -> Tensor:
        """Computes the (3, 1) convolution on the (t, h w) plane, at every ``stride``-th row and column."""
        plane = self.neighbours(clip)[..., :: stride[0], :: stride[1]]
        h, w = plane.shape[3:]
        return self.temporal(plane.flatten(3)).unflatten(3, (h, w))


class P3DA(P3D):
    """Space, then time: ``temporal(spatial(x))``; the temporal kernel starts as the identity.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        self.reset_temporal()

    def reset_temporal(self) -> None:
        super().reset_temporal()
        with torch.no_grad():
            channels = torch.arange(self.out_channels)
            self.temporal.weight[channels, channels % self.temporal.weight.shape[1], 1] = 1

    def convolve(self, clip: Tensor) -> Tensor:
        return self.over_time(self.spatial(clip))


class P3DB(P3D):
    """Space and time in parallel: ``spatial(x) + temporal(x)``; the temporal kernel starts at zero.

    The temporal branch reads the pixel under the middle of the spatial kernel and steps with its strides.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``, ValueError if padding and kernel
    leave no such pixel.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)
        _check_centred(conv)
        self.temporal = temporal_conv(self, self.in_channels)

    def convolve(self, clip: Tensor) -> Tensor:
        return self.spatial(clip) + self.over_time(clip, self.stride)


class P3DC(P3D):
    """Space, then time beside a shortcut: ``y + temporal(y)``, ``y = spatial(x)``; time starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def convolve(self, clip: Tensor) -> Tensor:
        y = self.spatial(clip)
        return y + self.over_time(y)


def temporal_conv(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """Returns a convolution over three frames, all zero, with the groups, dtype, device and mode of ``conv``."""
    weight = conv.weight
    temporal = nn.Conv2d(
        in_channels,
        conv.out_channels,
        (3, 1),
        padding=(1, 0),
        groups=conv.groups,
        bias=False,
        device=weight.device,
        dtype=weight.dtype,
    )
    nn.init.zeros_(temporal.weight)
    return temporal.train(conv.training)


def _check_centred(conv: nn.Conv2d) -> None:
    extents = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if isinstance(conv.padding, str):
        padding = extents if conv.padding == "same" else [0, 0]
    else:
        padding = [2 * p for p in conv.padding]
    if padding != extents or any(extent % 2 for extent in extents):
        raise ValueError(
            f"a temporal branch beside the convolution needs padding of half its extent {extents} on either "
            f"side, got padding {conv.padding} with kernel {conv.kernel_size} and dilation {conv.dilation}"
        )
