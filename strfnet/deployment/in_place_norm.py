"""The batch norm of frames, with a form for evaluation that needs no memory of its own."""

import torch
from torch import Tensor, nn


class InPlaceNorm(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that, in evaluation and without gradients, writes its answer over its input.

    Apart from rounding it computes the same, under the same state-dict keys. On large batches, getting memory
    for the answer takes longer than computing it. It belongs behind a convolution whose answer nobody else
    reads, as in torchvision's ResNets, where the ReLU after it does the same; inputs in another order than
    channels-last, training, and compilers get the plain form.

    Shape: (n, c, h, w) to the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        if (
            self.training
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or self.running_mean is None
            or self.running_var is None
            or not x.is_contiguous(memory_format=torch.channels_last)
        ):
            return super().forward(x)
        scale = (self.running_var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = -self.running_mean * scale
        if self.affine:
            shift = shift + self.bias
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None], out=x)


def in_place_norms(network: nn.Module) -> nn.Module:
    """Give every plain ``nn.BatchNorm2d`` of ``network`` the form for evaluation that writes in place; in place."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = InPlaceNorm
    return network
