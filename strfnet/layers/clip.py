"""The axes of a clip, its validation, and flattening of its frames into the batch.

A clip has the axes (b, c, t, h, w): b clips, c channels, t frames of h by w pixels. In channels-last order its memory
runs (b, t, h, w, c). Then frames for ``conv2d``, tokens for attention and the (t, h w) plane for a convolution over
time are views of it.
"""

import torch
from torch import Tensor, nn
from torch.fx import Proxy

AXES = "(b, c, t, h, w)"


def check_clip(x: Tensor, channels: int | None = None, *, weight: Tensor | None = None, name: str = "x") -> None:
    """Checks that ``x`` is a clip of ``channels`` channels in the dtype and on the device of ``weight``.

    Raises: TypeError if ``x`` is not a floating-point tensor; ValueError for a wrong rank, an empty axis, wrong
    channels (naming a swapped axis order where that explains it), dtype or device. Symbols of ``torch.fx`` are not
    checked.
    """
    if isinstance(x, Proxy):
        return
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
    if isinstance(weight, Tensor):  # a dynamically quantised layer has a method of that name
        # Hooks of Accelerate load weights, meanwhile on the meta device, before their own layer runs, and move clips
        # between GPUs.
        if x.device.type != weight.device.type and not weight.is_meta:
            raise ValueError(f"{name} is on {x.device} and the layer on {weight.device}; move one of them")
        if x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type):
            raise ValueError(f"{name} is {x.dtype} and the layer {weight.dtype}; convert one of them")


def flatten_time(clip: Tensor) -> Tensor:
    """Returns the frames of all clips, (b t, c, h, w); a view if the clip is in channels-last order."""
    return clip.transpose(1, 2).flatten(0, 1)


def unflatten_time(frames: Tensor, t: int) -> Tensor:
    """Returns the clips of ``t`` frames each whose frames are in the batch axis; always a view."""
    return frames.unflatten(0, (-1, t)).transpose(1, 2)


def in_channels_last(clip: Tensor) -> Tensor:
    """Returns the clip in channels-last order, which convolutions pass on to all later layers; a view if it is so."""
    return clip.movedim(1, -1).contiguous().movedim(-1, 1)  # vmap has no ``contiguous(memory_format=...)``


def channels_last(network: nn.Module) -> nn.Module:
    """Converts the kernels of ``network`` to channels-last order, in place, for inference.

    Convolutions pass this memory order on to all later layers, whatever that of the clip is. The output differs from
    that in contiguous order by rounding (about 1e-6). The tensors of the state dict are then not contiguous, which
    savers such as ``safetensors.torch.save_file`` refuse.
    """
    orders = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in network.parameters():
        if parameter.ndim in orders:
            parameter.data = parameter.data.contiguous(memory_format=orders[parameter.ndim])
    return network
