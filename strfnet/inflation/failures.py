"""Errors inside a network, which name the module by its path."""

from types import FrameType

from torch import Tensor, nn

from strfnet.layers.clip import check_clip


def name_module(error: Exception, network: nn.Module, clip: Tensor) -> None:
    """Puts the path and class of the innermost module that ran before the message of ``error``, in place.

    Raises: ValueError, naming the axes of ``clip``, if a convolution was given its frames and takes other channels.
    """
    paths = {module: path for path, module in network.named_modules() if path}
    trace, frames = error.__traceback__, list[FrameType]()
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    running = [frame for frame in frames if _module_of(frame) in paths]
    if not running:
        return
    module = _module_of(running[-1])
    if isinstance(module, nn.Conv2d) and _holds_frames(running[-1], clip):
        check_clip(clip, module.in_channels, name="clip")
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{paths[module]} ({type(module).__name__}): {error.args[0]}",)


def _module_of(frame: FrameType) -> object:
    value = frame.f_locals.get("self")
    return value if isinstance(value, nn.Module) else None


def _holds_frames(frame: FrameType, clip: Tensor) -> bool:
    shape = (clip.shape[0] * clip.shape[2], clip.shape[1], *clip.shape[3:])
    return any(isinstance(value, Tensor) and value.shape == shape for value in frame.f_locals.values())
