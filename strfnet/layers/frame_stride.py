"""A stride over the frames of a clip."""

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip
from strfnet.layers.lengths import check_lengths, zero_past_end


def every_frame(clip: Tensor, stride: int) -> Tensor:
    """Returns every ``stride``-th frame, from the first, in channels-last order.

    The number of frames is written as that of a convolution, and frames are copied, so that `torch.export` proves
    both equal for any number of frames.
    """
    frames = stride * torch.arange(1 + (clip.shape[2] - 1) // stride, device=clip.device)
    return clip.movedim(1, -1).index_select(1, frames).movedim(-1, 1)


class FrameStride(nn.Module):
    """Every ``stride``-th frame of a clip, from the first: the shortcut around convolutions that stride in time.

    Shape: (b, c, t, h, w) to (b, c, ceil(t / stride), h, w).
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        check_clip(x)
        if lengths is None:
            return every_frame(x, self.stride)
        check_lengths(lengths, x)
        return zero_past_end(every_frame(x, self.stride), self.lengths_after(lengths))

    def lengths_after(self, lengths: Tensor) -> Tensor:
        """Returns the number of existing frames in each clip of the output."""
        return (lengths + self.stride - 1) // self.stride
