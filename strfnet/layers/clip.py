"""What a clip is: its axes, its check, and its frames folded into the batch and back.

A clip has the axes (b, c, t, h, w): b clips, c channels, t frames of h by w pixels. Held in channels-last
order its memory runs (b, t, h, w, c), and then frames for ``conv2d``, tokens for attention and the
(t, h w) plane for a convolution over time are all views of it.

Inside an inflated network the frames of all clips lie in the batch axis, as an image network wants them.
A layer that looks across frames needs to know how many belong to one clip; the network that runs says so
through `run_on_frames`, per thread and only while it runs.
"""

import torch
from torch import Tensor, nn

AXES = "(b, c, t, h, w)"


def check_clip(x: Tensor, channels: int | None = None, *, weight: Tensor | None = None, name: str = "x") -> None:
    """Refuse what is not a clip of ``channels`` channels in the dtype and on the device of ``weight``.

    Raises: TypeError if ``x`` is no floating tensor; ValueError for a wrong rank, an empty axis, wrong
    channels (naming a swapped axis order where that explains it), dtype or device.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor {AXES}, got {type(x).__name__}")
    if x.ndim != 5:
        raise ValueError(f"{name} must be a clip {AXES}, got {x.ndim} axes: {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, got {x.dtype}; convert and normalise it first")
    for axis, size in zip("bcthw", x.shape, strict=True):
        if size == 0:
            raise ValueError(f"{name} is empty along {axis}: {AXES} = {tuple(x.shape)}; every axis needs at least 1")
    if channels is not None and x.shape[1] != channels:
        hint = {2: "; it looks like (b, t, c, h, w)", 4: "; it looks like (b, t, h, w, c)"}
        swapped = next((hint[axis] for axis in (2, 4) if x.shape[axis] == channels), "")
        raise ValueError(f"{name} must have {channels} channels in axis 1 of {AXES}, got {tuple(x.shape)}{swapped}")
    if weight is not None:
        if x.device != weight.device:
            raise ValueError(f"{name} is on {x.device} and the layer on {weight.device}; move one of them")
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name} is {x.dtype} and the layer {weight.dtype}; convert one of them")


def flatten_time(clip: Tensor) -> Tensor:
    """The frames of all clips, (b t, c, h, w); a view of a channels-last clip."""
    return clip.transpose(1, 2).flatten(0, 1)


def unflatten_time(frames: Tensor, t: int) -> Tensor:
    """The clips of ``t`` frames each that were folded into the batch of ``frames``; always a view."""
    return frames.unflatten(0, (-1, t)).transpose(1, 2)


def channels_last(network: nn.Module) -> nn.Module:
    """Put the kernels of ``network`` into channels-last order, in place, so that it works in one memory order.

    Convolutions hand this order on to all that follows, whatever the clip came in. The values stay; the
    answers differ from those in the contiguous order by rounding (about 1e-6).
    """
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in orders:
            parameter.data = parameter.data.contiguous(memory_format=orders[parameter.ndim])
    return network
