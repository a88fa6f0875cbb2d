"""Communication between the processes that train one network; with one process, every function is the identity."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from strfnet.layers.head import ReIDOutput
from strfnet.system.compat import AnyBatchNorm, BatchNorm


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """The rank of this process; 0 if there is one process."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(rows: Tensor, counts: Sequence[int] | None = None) -> Tensor:
    """The rows (n, ...) of all processes in the order of their ranks, with gradient.

    The processes may have different numbers of rows. The gradient is that of the sum of the losses of all processes.
    If every process computes the same loss from the gathered rows, then the mean over processes, which
    DistributedDataParallel takes, is exactly the gradient of one process with all rows.

    Args:
        rows: of this process, with at least one axis.
        counts: n of every process; None gathers them first.

    Shape: (n, ...) to (the sum of all n, ...); the other axes are equal on all processes.
    """
    if world_size() == 1:
        return rows
    if counts is None:
        counts = gather_rows(torch.tensor([len(rows)], device=rows.device), [1] * world_size()).tolist()
    return _Gathered.apply(rows, tuple(counts))


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: dist.get_rank()]), len(rows)
        # all_gather takes equal sizes only; of others it returns garbage without an error.
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
    """The outputs and labels of all processes, and the highest of their signals."""

    output: ReIDOutput
    labels: Tensor
    signal: int


def join(output: ReIDOutput, labels: Tensor, signal: int = 0) -> Joined:
    """The output for the whole batch on every process, with gradient.

    Triplets are mined among the clips of all processes, and a mean over clips weighs all clips equally, however they
    are distributed. Loss and gradient equal those of one process (see `gather_rows`).

    Args:
        output: of this process; its tensors have one dtype.
        labels: of this process.
        signal: a number; `Joined` has the highest of all processes.

    Raises: ValueError for output without logits.
    """
    header = torch.tensor([[len(labels), signal]], device=labels.device)
    counts, signals = gather_rows(header, [1] * world_size()).unbind(dim=1)
    return Joined(*join_rows(output, labels, counts.tolist()), int(signals.max()))


def join_rows(output: ReIDOutput, labels: Tensor, counts: Sequence[int]) -> tuple[ReIDOutput, Tensor]:
    """`join` without a signal, for known numbers of rows, so that no process waits for its GPU."""
    if output.logits is None:
        raise ValueError("output has no logits: the network must be in training and have a classifier")
    if world_size() == 1:
        return output, labels
    tensors = (output.embedding, output.feature, output.logits.flatten(1))
    together = gather_rows(torch.cat(tensors, dim=1), counts)  # one message instead of three
    parts = together.split([tensor.shape[1] for tensor in tensors], dim=1)
    logits = parts[2].unflatten(1, output.logits.shape[1:])
    return ReIDOutput(parts[0], parts[1], logits), gather_rows(labels, counts)


def host_group() -> Any:
    """A process group for tensors on the CPU, which waits for no GPU; None if there is one process."""
    return dist.new_group(backend="gloo") if world_size() > 1 else None


def highest_on_host(number: int, group: Any) -> int:
    """The highest of the numbers of all processes, over their `host_group`."""
    return number if group is None else int(highest(number, torch.device("cpu"), group))


def highest(number: int | Tensor, device: torch.device, group: Any = None) -> Tensor:
    """The highest of the numbers of all processes, (1,) on the device of the group; None is the group of all."""
    most = torch.full((1,), float(number), device=device)
    if world_size() > 1:
        dist.all_reduce(most, dist.ReduceOp.MAX, group)
    return most


def share_buffers(network: nn.Module) -> None:
    """Copy the buffers of the first process to all: each batch norm has statistics of its own part of the batches."""
    if world_size() > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)


def gather_bytes(content: bytes, device: torch.device) -> list[bytes]:
    """The bytes of every process, in the order of their ranks."""
    mine = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()).to(device)
    counts = gather_rows(torch.tensor([len(mine)], device=device), [1] * world_size()).tolist()
    return [bytes(part.cpu().numpy()) for part in gather_rows(mine, counts).split(counts)]


def synchronize_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """Replace batch norms by those that compute statistics over all processes. Parameters, buffers and keys stay.

    The network is changed in place, except if it is a batch norm itself. On a GPU the norms are ``nn.SyncBatchNorm``,
    which has no kernels for the CPU; there they are `HostSyncBatchNorm`.

    Raises: ValueError naming a batch norm with a unit behind it, which would be lost.
    """
    kind = HostSyncBatchNorm if device.type == "cpu" else nn.SyncBatchNorm
    synchronized: dict[nn.Module, nn.Module] = {}
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if not isinstance(module, BatchNorm) or type(module) is kind:
            continue
        if next(module.children(), None) is not None:
            raise ValueError(f"batch norm {path} has a unit behind it: call synchronize_batchnorm before splice")
        if module not in synchronized:
            synchronized[module] = _with_tensors_of(module, kind)
    for path, module in list(network.named_modules(remove_duplicate=False)):
        if path and module in synchronized:
            network.set_submodule(path, synchronized[module])
    return synchronized.get(network, network)


def _with_tensors_of(norm: Any, kind: type[nn.Module]) -> nn.Module:
    """A batch norm of another class, with the parameters, buffers and mode of ``norm``."""
    new: Any = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, parameter in norm.named_parameters():
        new.register_parameter(name, parameter)
    for name, buffer in norm.named_buffers():
        new.register_buffer(name, buffer)
    return new.train(norm.training)


class HostSyncBatchNorm(AnyBatchNorm):
    """A batch norm with statistics over all processes, composed of operations that run on any device.

    Shape: (n, c, ...) to the same; n may differ between processes.
    """

    def forward(self, input: Tensor) -> Tensor:
        if world_size() == 1 or not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [-1 if axis == 1 else 1 for axis in range(input.ndim)]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        sums = _summed(torch.cat([wide.sum(axes), wide.new_tensor([input.numel() / input.shape[1]])]))
        count, mean = sums[-1].detach(), sums[:-1] / sums[-1].detach()
        centred = wide - mean.view(shape)
        variance = _summed(centred.square().sum(axes)) / count
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


def _summed(x: Tensor) -> Tensor:
    """The sum over processes. Its gradient is that of the sum of the losses of all processes, as in `gather_rows`."""
    return gather_rows(x[None], [1] * world_size()).sum(dim=0)
