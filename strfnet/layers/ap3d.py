"""AP3D: neighbouring frames registered to each frame by appearance before a convolution over time.

Source: Gu et al., Appearance-Preserving 3D Convolution for Video-based Person Re-Identification, ECCV 2020,
and its published code. Ours: the names, grouped convolutions (as in `strfnet.layers.temporal`) and the switch
that lets gradients through the gate.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from strfnet.layers.attention import Attending, width_of
from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import check_lengths, zero_past_end
from strfnet.layers.temporal import I3D, P3D, P3DA, P3DB, P3DC, TemporalConv, check_time
from strfnet.system.names import check_count, check_flags, check_number


class AppearancePreserving(Attending):
    """Each frame between its neighbours, whose pixels are gathered to where they look alike.

    A pixel of a neighbouring frame is replaced by the mean of that frame's pixels, weighed by a softmax
    of ``temperature`` times the cosine between mapped features; a gate in (0, 1) then dims what still differs.
    Before the first and after the last frame stand zeros.

    Args:
        channels: c of the clip.
        inner_channels: width of the mapped features; a sixteenth of ``channels``, at least 1, if None.
        temperature: factor of the cosine.
        gate: whether registered neighbours are dimmed by contrastive attention.
        detach_gate: whether gradients stop before the gate, as published.
        time_kernel: number of frames for each frame, itself in the middle; odd.
        time_dilation: distance in time between them.

    Shape: (b, c, t, h, w) to (b, c, time_kernel t, h, w): for each frame in turn its neighbours and itself, in order.
    Raises: ValueError for widths below 1, an even kernel, or a clip of other channels.
    Source: Gu et al., AP3D, ECCV 2020. Ours: the names, and gradients through the gate where they are wanted.
    """

    def __init__(
        self,
        channels: int,
        *,
        inner_channels: int | None = None,
        temperature: float = 4.0,
        gate: bool = True,
        detach_gate: bool = True,
        time_kernel: int = 3,
        time_dilation: int = 1,
    ) -> None:
        super().__init__()
        check_time(time_kernel=time_kernel, time_dilation=time_dilation)
        check_count("channels", channels)
        inner = max(channels // 16, 1) if inner_channels is None else inner_channels
        check_count("inner_channels", inner)
        check_number("temperature", temperature, least=0)
        check_flags(gate=gate, detach_gate=detach_gate)
        self.channels, self.temperature, self.detach_gate = channels, temperature, detach_gate
        self.time_kernel, self.time_dilation = time_kernel, time_dilation
        self.semantic = nn.Linear(channels, inner, bias=False)
        self.frame_map = nn.Linear(channels, inner, bias=False) if gate else None
        self.neighbour_map = nn.Linear(channels, inner, bias=False) if gate else None
        self.gate = nn.Linear(inner, 1, bias=False) if gate else None

    @property
    def steps(self) -> list[int]:
        """The distances in frames from a frame to the frames beside it, from the earliest; 0 for itself."""
        half = self.time_kernel // 2
        return [self.time_dilation * tap for tap in range(-half, half + 1)]

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_clip(x, self.channels, weight=self.semantic.weight)
        if lengths is None:
            return self._triples(x)
        check_lengths(lengths, x)
        return zero_past_end(self._triples(zero_past_end(x, lengths)), self.lengths_after(lengths))

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the number of existing frames in each clip of the output."""
        return self.time_kernel * lengths

    def _triples(self, x: Tensor) -> Tensor:
        h, w = x.shape[3:]
        tokens = rearrange(x, "b c t h w -> b t (h w) c")
        mapped = _of_unit_length(self.semantic(tokens))
        frames = [self._registered(tokens, mapped, step) if step else tokens for step in self.steps]
        return rearrange(torch.stack(frames, dim=2), "b t n (h w) c -> b c (t n) h w", h=h, w=w)

    def attention(self, x: Tensor) -> Tensor:
        """Where each pixel finds itself in its neighbours: (b, t, time_kernel - 1, h w, h w), rows sum to 1."""
        check_clip(x, self.channels, weight=self.semantic.weight)
        mapped = _of_unit_length(self.semantic(rearrange(x, "b c t h w -> b t (h w) c")))
        cosines = [mapped @ _shifted(mapped, step).mT for step in self.steps if step]
        return (self.temperature * torch.stack(cosines, dim=2)).softmax(dim=-1)

    def attention_sizes(self) -> tuple[int, int, bool]:
        return width_of(self.semantic), self.channels, False

    def _registered(self, tokens: Tensor, mapped: Tensor, step: int) -> Tensor:
        query = self.temperature * mapped
        neighbour = self.attend(query, _shifted(mapped, step), _shifted(tokens, step))
        if self.gate is None or self.frame_map is None or self.neighbour_map is None:
            return neighbour
        frame, seen = (tokens.detach(), neighbour.detach()) if self.detach_gate else (tokens, neighbour)
        return neighbour * self.gate(self.frame_map(frame) * self.neighbour_map(seen)).sigmoid()


def _of_unit_length(mapped: Tensor) -> Tensor:
    """Features of length 1; zeros stay zeros in half precision too, where the usual bound of 1e-12 is zero."""
    return F.normalize(mapped, dim=-1, eps=max(1e-12, torch.finfo(mapped.dtype).tiny))


def _shifted(tokens: Tensor, step: int) -> Tensor:
    """Frame t + step in the place of frame t, zeros where there is none; (b, t, n, c)."""
    padded = F.pad(tokens, (0, 0, 0, 0, abs(step), abs(step)))
    return padded.narrow(1, abs(step) + step, tokens.shape[1])


class AP3DI(I3D):
    """A true 3-D convolution over registered frames; its middle slice starts as the 2-D kernel.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.
        time: ``time_kernel``, ``time_stride``, ``time_dilation`` and ``how``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """

    def __init__(self, conv: nn.Conv2d, *, temperature: float = 4.0, gate: bool = True, **time: Any) -> None:
        super().__init__(conv, **time)
        self.appearance = _appearance(self, self.in_channels, temperature, gate)

    def convolve(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self._convolve3d(self.appearance(clip), step=self.time_kernel * self.time_stride, padding=0)


class _Registered(P3D):
    """P3D whose temporal convolution reads registered frames, ``time_kernel`` of them a step."""

    def __init__(self, conv: nn.Conv2d, *, temperature: float = 4.0, gate: bool = True, **time: Any) -> None:
        super().__init__(conv, **time)
        self.temporal.stride = (self.time_kernel * self.time_stride, 1)
        self.temporal.padding, self.temporal.dilation = (0, 0), (1, 1)
        self.appearance = _appearance(self, self.temporal.in_channels, temperature, gate)

    def neighbours(self, clip: Tensor) -> Tensor:
        return self.appearance(clip)


class AP3DA(_Registered, P3DA):
    """Space, then time over registered frames; the temporal kernel starts as the identity.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.
        time: ``time_kernel``, ``time_stride``, ``time_dilation`` and ``how``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """


class AP3DB(_Registered, P3DB):
    """Space and time over registered frames side by side; the temporal kernel starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.
        time: ``time_kernel``, ``time_stride`` and ``time_dilation``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``, ValueError if its padding and kernel
    leave no pixel under the middle of the kernel.
    Source: AP3D, Gu et al., ECCV 2020.
    """


class AP3DC(_Registered, P3DC):
    """Space, then time over registered frames beside a shortcut; the temporal kernel starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.
        time: ``time_kernel``, ``time_stride`` and ``time_dilation``, as in `I3D`.

    Shape: (b, c, t, h, w) to (b, c', ceil(t / time_stride), h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """


def _appearance(conv: TemporalConv, channels: int, temperature: float, gate: bool) -> AppearancePreserving:
    module = AppearancePreserving(
        channels,
        temperature=temperature,
        gate=gate,
        time_kernel=conv.time_kernel,
        time_dilation=conv.time_dilation,
    )
    return module.to(conv.weight).train(conv.training)
