"""Convolutions over space and time made from a 2-D one: C2D, I3D and the three orders of P3D.

Before training, each computes the 2-D convolution on every frame, or on every ``time_stride``-th frame. Time is
padded with zeros, so that t frames become ceil(t / time_stride). The kernel over time is a (time_kernel, 1)
convolution on the (t, h w) plane of a clip.

Sources: I3D, Carreira and Zisserman, CVPR 2017 (with the middle slice as the start, as published re-ID code
has it); P3D, Qiu et al., ICCV 2017, in the forms of AP3D, Gu et al., ECCV 2020. Ours: a grouped convolution
keeps its groups over time, and the 2-D convolution keeps its bias, dilation, padding mode,
strides per axis, dtype, device, mode, frozen parameters and hooks; strides in P3D-B and C, where the other summand
takes the same frames; dilation in time.
"""

import copy
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.layers.clip import check_clip, flatten_time, unflatten_time
from strfnet.layers.frame_stride import every_frame
from strfnet.layers.lengths import check_lengths, zero_past_end
from strfnet.system.compat import ConvertedKernels, ConvertedState, MarkedLoading, children_of, implicit_padding

How = Literal["center", "mean"]
ADDED = ("time_kernel", "time_stride", "time_dilation", "how")  # settings that a 2-D convolution does not have
USUAL = (None, 1, "center")


def inflate_weight(weight: Tensor, frames: int, *, how: How = "center") -> Tensor:
    """Inflates a 2-D kernel (o, i, h, w) in time: (o, i, frames, h, w).

    Args:
        weight: the kernel.
        frames: length of the new axis.
        how: "center" puts the kernel into slice ``frames // 2`` and zeros elsewhere, which keeps
            the output on every frame; "mean" repeats it divided by ``frames``, which keeps it on equal frames.
    """
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    _check_how(how)
    if how == "mean":
        return weight.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
    inflated = weight.new_zeros(*weight.shape[:2], frames, *weight.shape[2:])
    inflated[:, :, frames // 2] = weight
    return inflated


def _check_how(how: str) -> None:
    if how not in get_args(How):
        raise ValueError(f'how must be "center" or "mean", got {how!r}')


class TemporalConv(nn.Conv2d):
    """A 2-D convolution on clips; its subclasses define what it computes over time.

    It copies the parameters and settings of ``conv``, under the same state-dict keys, so checkpoints of the 2-D
    network load.

    Args:
        conv: the 2-D convolution; it is not modified.
        time_kernel: length of the kernel in time, in frames; odd.
        time_stride: distance in time between the frames of the output.
        time_dilation: distance in time between the taps of the kernel.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d`` (subclasses may compute something else). ValueError for
    an even kernel, or numbers below 1.
    """

    def __init__(
        self, conv: nn.Conv2d, *, time_kernel: int = 1, time_stride: int = 1, time_dilation: int = 1
    ) -> None:
        nn.Module.__init__(self)
        if type(conv) is not nn.Conv2d:
            raise TypeError(f"conv must be a plain torch.nn.Conv2d, got {type(conv).__name__}")
        check_time(time_kernel=time_kernel, time_stride=time_stride, time_dilation=time_dilation)
        vars(self).update(vars(copy.deepcopy(conv)))
        self.time_kernel, self.time_stride, self.time_dilation = time_kernel, time_stride, time_dilation

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_clip(x, self.in_channels, weight=self.weight)
        if lengths is None:
            return self.convolve(x)
        check_lengths(lengths, x)
        return zero_past_end(self.convolve(zero_past_end(x, lengths), lengths), self.lengths_after(lengths))

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the number of existing frames in each clip of the output."""
        return lengths if self.time_stride == 1 else (lengths + self.time_stride - 1) // self.time_stride

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the output for a valid clip, whose frames past the end are zeros."""
        raise TypeError(f"{type(self).__name__} does not implement convolve")

    def spatial(self, clip: Tensor) -> Tensor:
        """Computes the 2-D convolution on every frame."""
        return unflatten_time(nn.Conv2d.forward(self, flatten_time(clip)), clip.shape[2])

    def strided(self, clip: Tensor) -> Tensor:
        """Returns every ``time_stride``-th frame, from the first."""
        return clip if self.time_stride == 1 else every_frame(clip, self.time_stride)

    def image_conv(self) -> nn.Conv2d:
        """Returns the plain 2-D convolution that this one was made from, with the present weights."""
        conv = nn.Conv2d.__new__(nn.Conv2d)
        vars(conv).update(vars(copy.deepcopy(self)))
        for name in vars(conv).keys() & set(ADDED):
            delattr(conv, name)
        children_of(conv).clear()
        return conv

    def extra_repr(self) -> str:
        values = {name: getattr(self, name, None) for name in ADDED}
        return super().extra_repr() + "".join(
            f", {name}={value}" for name, value in values.items() if value not in USUAL
        )


def check_time(*, time_kernel: int, time_stride: int = 1, time_dilation: int = 1) -> None:
    """Raises: ValueError naming the argument, for an even kernel or a number below 1."""
    values = {"time_kernel": time_kernel, "time_stride": time_stride, "time_dilation": time_dilation}
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if time_kernel % 2 == 0:
        raise ValueError(f"time_kernel must be odd, so that its middle is a frame, got {time_kernel}")


class C2D(TemporalConv):
    """The 2-D convolution on every frame, with no extent in time.

    Args:
        conv: the 2-D convolution; it is not modified.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv)

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.spatial(clip)


class I3D(ConvertedState, ConvertedKernels, TemporalConv):
    """A true 3-D convolution whose middle slice starts as the 2-D kernel, the others as zero.

    Its ``weight`` is (o, i, time_kernel, h, w); a 2-D weight in a checkpoint is inflated when it is loaded.

    Args:
        conv: the 2-D convolution; it is not modified.
        how: how the 2-D kernel is inflated, see `inflate_weight`. "mean" computes the 2-D convolution where
            neighbouring frames are equal, except at the ends of a clip, and `deflate` returns the sum of the slices.
        time_kernel, time_stride, time_dilation: of the kernel in time, see `TemporalConv`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``; ValueError for an even kernel or numbers below 1.
    Source: Carreira and Zisserman, CVPR 2017 (the mean); the middle slice as the start is of published re-ID code.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        *,
        how: How = "center",
        time_kernel: int = 3,
        time_stride: int = 1,
        time_dilation: int = 1,
    ) -> None:
        super().__init__(conv, time_kernel=time_kernel, time_stride=time_stride, time_dilation=time_dilation)
        self.how: How = how
        weight = inflate_weight(self.weight.detach(), time_kernel, how=how)
        self.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        padding = self.time_dilation * (self.time_kernel // 2)
        return self._convolve3d(clip, step=self.time_stride, padding=padding, spread=self.time_dilation)

    def _convolve3d(self, clip: Tensor, *, step: int, padding: int, spread: int = 1) -> Tensor:
        rows_and_columns = self.padding
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            frames = F.pad(flatten_time(clip), implicit_padding(self), mode=mode)
            clip, rows_and_columns = unflatten_time(frames, clip.shape[2]), (0, 0)
        stride, pad, dilation = (step, *self.stride), (padding, *rows_and_columns), (spread, *self.dilation)
        return F.conv3d(clip, self.weight, self.bias, stride, pad, dilation, self.groups)

    def image_conv(self) -> nn.Conv2d:
        conv, weight = super().image_conv(), self.weight.detach()
        kernel = weight[:, :, self.time_kernel // 2].clone() if self.how == "center" else weight.sum(dim=2)
        conv.weight = nn.Parameter(kernel, requires_grad=self.weight.requires_grad)
        return conv

    def convert_state(self, state_dict: dict[str, Any], prefix: str) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is not None and weight.ndim == 4:
            state_dict[f"{prefix}weight"] = inflate_weight(weight, self.time_kernel, how=self.how)


class P3D(MarkedLoading, TemporalConv):
    """A spatial and a temporal convolution; its subclasses combine them.

    ``temporal.weight`` is (o, i, time_kernel, 1), without bias, and starts at zero. A batch norm behind the layer is
    fused by `strfnet.deployment.fuse`. ``torch.nn.utils.fuse_conv_bn_eval`` would leave out the temporal convolution,
    so a bias may be loaded and changed, but not assigned anew.
    """

    def __init__(
        self, conv: nn.Conv2d, *, time_kernel: int = 3, time_stride: int = 1, time_dilation: int = 1
    ) -> None:
        super().__init__(conv, time_kernel=time_kernel, time_stride=time_stride, time_dilation=time_dilation)
        self.temporal = temporal_conv(self, self.out_channels)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Registers a parameter.

        Raises: ValueError for another bias, as folding a batch norm assigns it, except while a state dict is loaded
        or on the meta device.
        """
        bias = getattr(self, "bias", param)
        other = name == "bias" and param is not None and param is not bias
        if other and not self.loading and (bias is None or not bias.is_meta):
            raise ValueError(
                "bias is assigned, wanted its values changed in place: a batch norm folded into weight and bias, "
                "as fuse_conv_bn_eval does it, leaves out the temporal convolution; "
                "strfnet.deployment.fuse fuses batch norms"
            )
        super().register_parameter(name, param)

    def reset_temporal(self) -> None:
        """Initialises the temporal kernel, so that the layer is the 2-D convolution on every frame."""
        nn.init.zeros_(self.temporal.weight)

    def neighbours(self, clip: Tensor) -> Tensor:
        """Returns the input frames of the temporal convolution: those of the clip."""
        return clip

    def over_time(self, clip: Tensor, stride: tuple[int, ...] = (1, 1), lengths: Tensor | None = None) -> Tensor:
        """Computes the temporal convolution on the (t, h w) plane, at every ``stride``-th row and column."""
        plane = self.neighbours(zero_past_end(clip, lengths))[..., :: stride[0], :: stride[1]]
        h, w = plane.shape[3:]
        return self.temporal(plane.flatten(3)).unflatten(3, (h, w))


class P3DA(P3D):
    """Space, then time: ``temporal(spatial(x))``; the temporal kernel starts as the identity.

    Args:
        conv: the 2-D convolution; it is not modified.
        how: "center" puts the identity into the middle tap, "mean" a part of it into every tap.
        time: ``time_kernel``, ``time_stride`` and ``time_dilation``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``; ValueError for an even kernel or numbers below 1.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def __init__(self, conv: nn.Conv2d, *, how: How = "center", **time: int) -> None:
        super().__init__(conv, **time)
        _check_how(how)
        self.how: How = how
        self.reset_temporal()

    def reset_temporal(self) -> None:
        super().reset_temporal()
        center = self.how == "center"
        taps, part = (self.time_kernel // 2, 1.0) if center else (slice(None), 1 / self.time_kernel)
        with torch.no_grad():
            channels = torch.arange(self.out_channels)
            self.temporal.weight[channels, channels % self.temporal.weight.shape[1], taps] = part

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.over_time(self.spatial(clip), lengths=lengths)


class P3DB(P3D):
    """Space and time in parallel: ``spatial(x) + temporal(x)``; the temporal kernel starts at zero.

    The temporal branch reads the pixel under the middle of the spatial kernel and steps with its strides.

    Args:
        conv: the 2-D convolution; it is not modified.
        time: ``time_kernel``, ``time_stride`` and ``time_dilation``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``; ValueError if padding and kernel leave no such
    pixel, for an even kernel or numbers below 1.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def __init__(self, conv: nn.Conv2d, **time: int) -> None:
        super().__init__(conv, **time)
        _check_centred(conv)
        self.temporal = temporal_conv(self, self.in_channels)

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.spatial(self.strided(clip)) + self.over_time(clip, self.stride)


class P3DC(P3D):
    """Space, then time beside a shortcut: ``y + temporal(y)``, ``y = spatial(x)``; time starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.
        time_kernel, time_stride, time_dilation: as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is not a plain ``nn.Conv2d``; ValueError for an even kernel or numbers below 1.
    Source: Qiu et al., P3D, ICCV 2017.
    """

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        y = self.spatial(clip)
        return self.strided(y) + self.over_time(y, lengths=lengths)


def temporal_conv(conv: TemporalConv, in_channels: int) -> nn.Conv2d:
    """Returns a convolution over frames, all zero, with the settings in time, groups, dtype and mode of ``conv``."""
    weight = conv.weight
    temporal = nn.Conv2d(
        in_channels,
        conv.out_channels,
        (conv.time_kernel, 1),
        (conv.time_stride, 1),
        (conv.time_dilation * (conv.time_kernel // 2), 0),
        (conv.time_dilation, 1),
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
