"""What several processes that train one network tell each other; with one process, nothing happens here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from strfnet.heads.head import ReIDOutput


def processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process; 0 if there is one process."""
    return dist.get_rank() if processes() > 1 else 0


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows (n, ...) of all processes in the order of their ranks, with gradient.

    Processes may bring different numbers of rows. The gradient is that of the sum of all processes' losses;
    where every process computes one and the same loss from the gathered rows, DistributedDataParallel, which
    takes the mean over processes, then leaves exactly the gradient that one process with all rows has.

    Args:
        rows: of this process, at least one axis.
        counts: n of every process, if they are known; else they are asked for.

    Shape: (n, ...) to (the sum of all n, ...); axes behind the first are the same on all processes.
    """
    if processes() == 1:
        return rows
    if counts is None:
        counts = gather_rows(torch.tensor([len(rows)], device=rows.device), [1] * processes()).tolist()
    return _Gathered.apply(rows, tuple(counts))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: dist.get_rank()]), len(rows)
        # A plain all_gather takes equal sizes only, and hands out garbage, without an error, for others.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.count], None


class Joined(NamedTuple):
    """The outputs and labels of all processes, and the highest of the signals that they brought."""

    output: ReIDOutput
    labels: Tensor
    signal: int


def join(output: ReIDOutput, labels: Tensor, signal: int = 0) -> Joined:
    """What the network made of the whole batch, on every process, with gradient.

    A triplet is so mined among the clips of all processes, and a mean over clips weighs each of them alike,
    however unevenly they are spread. Loss and gradient are those of one process (see `gather_rows`).

    Args:
        output: of this process; its tensors are of one dtype.
        labels: of this process.
        signal: a number to tell all processes; `Joined` has the highest.

    Raises: ValueError for output without logits.
    """
    if output.logits is None:
        raise ValueError("output has no logits: the network must be in training and have a classifier")
    if processes() == 1:
        return Joined(output, labels, signal)
    told = torch.tensor([[len(labels), signal]], device=labels.device)
    counts, signals = gather_rows(told, [1] * processes()).unbind(dim=1)
    tensors = (output.embedding, output.feature, output.logits)
    together = gather_rows(torch.cat(tensors, dim=1), counts.tolist())  # one message instead of three
    parts = together.split([tensor.shape[1] for tensor in tensors], dim=1)
    return Joined(ReIDOutput(*parts), gather_rows(labels, counts.tolist()), int(signals.max()))


def share_buffers(network: nn.Module) -> None:
    """Give all processes the buffers of the first; batch norms keep statistics of their own part of a batch."""
    if processes() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def gather_bytes(content: bytes, device: torch.device) -> list[bytes]:
    """What every process brings, in the order of their ranks."""
    mine = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()).to(device)
    counts = gather_rows(torch.tensor([len(mine)], device=device), [1] * processes()).tolist()
    return [bytes(part.cpu().numpy()) for part in gather_rows(mine, counts).split(counts)]


def synchronize_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """The network with batch norms that take the statistics of all processes; weights and keys stay.

    The modules are replaced in place, except the network itself if it is a batch norm. On a GPU they are torch's
    ``nn.SyncBatchNorm``, which has no kernels for the CPU; there they are `HostSyncBatchNorm`.

    Raises: ValueError naming a batch norm with a unit behind it, which would be lost.
    """
    for path, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module._modules:
            advice = "convert first, splice then"
            raise ValueError(f"a unit follows the batch norm {path}, and would be lost in synchronising it: {advice}")
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules() if device.type == "cpu" else ():
        if isinstance(module, nn.SyncBatchNorm):
            module.__class__ = HostSyncBatchNorm  # type: ignore[assignment]
    return network


class HostSyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch norm that takes the statistics of all processes, in plain steps that run on any device.

    Shape: (n, c, ...) to the same; the n of the processes may differ.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"input must be (n, c, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if processes() == 1 or not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        sums = _Summed.apply(torch.cat([wide.sum(axes), wide.new_tensor([input.numel() / input.shape[1]])]))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = wide - mean.view(shape)
        variance = _Summed.apply(centred.square().sum(axes)) / count
        self._track(mean, variance * count / (count - 1))
        scale = (variance + self.eps).rsqrt()
        scaled = centred * (scale if self.weight is None else scale * self.weight).view(shape)
        return (scaled if self.bias is None else scaled + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(variance.to(self.running_var.dtype), share)


class _Summed(torch.autograd.Function):
    """The sum over processes; its gradient is that of the sum of all processes' losses, as in `gather_rows`."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
