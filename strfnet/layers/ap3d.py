"""AP3D: neighbouring frames registered to each frame by appearance before a convolution over time.

Source: Gu et al., Appearance-Preserving 3D Convolution for Video-based Person Re-Identification, ECCV 2020,
and its published code. Ours: the names, grouped convolutions (as in `strfnet.layers.temporal`) and the switch
that lets gradients through the gate.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from strfnet.layers.attention import Attending
from strfnet.layers.clip import check_clip
from strfnet.layers.temporal import I3D, P3D, P3DA, P3DB, P3DC


class AppearancePreserving(Attending):
    """Each frame between its two neighbours, whose pixels are gathered to where they look alike.

    A pixel of the previous (next) frame is replaced by the mean of that frame's pixels, weighed by a softmax
    of ``temperature`` times the cosine between mapped features; a gate in (0, 1) then dims what still differs.
    Before the first and after the last frame stand zeros.

    Args:
        channels: c of the clip.
        inner_channels: width of the mapped features; a sixteenth of ``channels``, at least 1, if None.
        temperature: factor of the cosine.
        gate: whether registered neighbours are dimmed by contrastive attention.
        detach_gate: whether gradients stop before the gate, as published.

    Shape: (b, c, t, h, w) to (b, c, 3 t, h, w): previous, frame itself, next, for each frame in turn.
    Raises: ValueError for widths below 1, or a clip of other channels.
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
    ) -> None:
        super().__init__()
        inner = max(channels // 16, 1) if inner_channels is None else inner_channels
        if channels < 1 or inner < 1:
            raise ValueError(f"channels and inner_channels must be at least 1, got {channels} and {inner}")
        self.channels, self.temperature, self.detach_gate = channels, temperature, detach_gate
        self.semantic = nn.Linear(channels, inner, bias=False)
        self.frame_map = nn.Linear(channels, inner, bias=False) if gate else None
        self.neighbour_map = nn.Linear(channels, inner, bias=False) if gate else None
        self.gate = nn.Linear(inner, 1, bias=False) if gate else None

    def forward(self, x: Tensor) -> Tensor:
        check_clip(x, self.channels, weight=self.semantic.weight)
        h, w = x.shape[3:]
        tokens = rearrange(x, "b c t h w -> b t (h w) c")
        mapped = _of_unit_length(self.semantic(tokens))
        before, after = (self._registered(tokens, mapped, step) for step in (-1, 1))
        triples = torch.stack([before, tokens, after], dim=2)
        return rearrange(triples, "b t n (h w) c -> b c (t n) h w", h=h, w=w)

    def attention(self, x: Tensor) -> Tensor:
        """Where each pixel finds itself in the previous and next frame: (b, t, 2, h w, h w), rows sum to 1."""
        check_clip(x, self.channels, weight=self.semantic.weight)
        mapped = _of_unit_length(self.semantic(rearrange(x, "b c t h w -> b t (h w) c")))
        cosines = [mapped @ _shifted(mapped, step).mT for step in (-1, 1)]
        return (self.temperature * torch.stack(cosines, dim=2)).softmax(dim=-1)

    def attention_sizes(self) -> tuple[int, int, bool]:
        return len(self.semantic.weight), self.channels, False

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
    zeros = torch.zeros_like(tokens[:, :1])
    padded = torch.cat([zeros, tokens, zeros], dim=1)
    return padded.narrow(1, 1 + step, tokens.shape[1])


class AP3DI(I3D):
    """A true 3-D convolution over registered triples; its middle slice starts as the 2-D kernel.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """

    def __init__(self, conv: nn.Conv2d, *, temperature: float = 4.0, gate: bool = True) -> None:
        super().__init__(conv)
        self.appearance = _appearance(self, self.in_channels, temperature, gate)

    def convolve(self, clip: Tensor) -> Tensor:
        return self._convolve3d(self.appearance(clip), step=3, padding=0)


class _Registered(P3D):
    """P3D whose temporal convolution reads registered triples, one triple a step."""

    def __init__(self, conv: nn.Conv2d, *, temperature: float = 4.0, gate: bool = True) -> None:
        super().__init__(conv)
        self.temporal.stride, self.temporal.padding = (3, 1), (0, 0)
        self.appearance = _appearance(self, self.temporal.in_channels, temperature, gate)

    def neighbours(self, clip: Tensor) -> Tensor:
        return self.appearance(clip)


class AP3DA(_Registered, P3DA):
    """Space, then time over registered triples; the temporal kernel starts as the identity.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """


class AP3DB(_Registered, P3DB):
    """Space and time over registered triples side by side; the temporal kernel starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``, ValueError if its padding and kernel
    leave no pixel under the middle of the kernel.
    Source: AP3D, Gu et al., ECCV 2020.
    """


class AP3DC(_Registered, P3DC):
    """Space, then time over registered triples beside a shortcut; the temporal kernel starts at zero.

    Args:
        conv: the 2-D convolution; it is not modified.
        temperature, gate: see `AppearancePreserving`.

    Shape: (b, c, t, h, w) to (b, c', t, h', w').
    Raises: TypeError if ``conv`` is anything but a plain ``nn.Conv2d``.
    Source: AP3D, Gu et al., ECCV 2020.
    """


def _appearance(conv: nn.Conv2d, channels: int, temperature: float, gate: bool) -> AppearancePreserving:
    module = AppearancePreserving(channels, temperature=temperature, gate=gate)
    return module.to(conv.weight).train(conv.training)
