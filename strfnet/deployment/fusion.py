"""Passes that compute the same with fewer layers: shortcuts, batch norms and projections are fused.

A pass changes a network for evaluation in place and returns how many modules it changed. `fuse` applies all of them
to a copy.
"""

import copy
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strfnet.inflation.extension import Extension, extend, own_class, set_own_class
from strfnet.inflation.splicing import Followed, set_module
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.clip import channels_last, flatten_time, unflatten_time
from strfnet.layers.lengths import zero_past_end
from strfnet.layers.non_local import NonLocalBlock, pixels
from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC
from strfnet.system.compat import clear_hooks

Network = TypeVar("Network", bound=nn.Module)
Norm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d
Pass = Callable[[nn.Module, tuple[int, ...]], int]
CONVOLUTIONS = (nn.Conv2d, C2D, I3D, P3DA, P3DB, P3DC, AP3DI, AP3DA, AP3DB, AP3DC)


def fuse(network: Network, clip_shape: tuple[int, ...]) -> Network:
    """Returns a copy of ``network`` for evaluation, with shortcuts, batch norms and projections fused.

    The copy requires no gradients, has no hooks, and its kernels are in channels-last order.

    Args:
        network: takes clips; it is not modified.
        clip_shape: (b, c, t, h, w) of a clip that it takes.
    """
    fused = inference_copy(network)
    for fusion in FUSIONS:
        fusion(fused, clip_shape)
    return fused


def inference_copy(network: Network) -> Network:
    """Returns a copy of ``network`` in evaluation mode, without hooks and gradients, in channels-last order."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    clear_hooks(copied)
    channels_last(copied)
    return copied


def merge_shortcuts(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Adds the shortcut of P3D-C to its temporal kernel: ``y + temporal(y)`` becomes ``temporal(y)``."""
    found = [module for module in network.modules() if isinstance(module, P3DC)]
    for conv in found:
        weight = conv.temporal.weight
        with torch.no_grad():
            channels = torch.arange(conv.out_channels, device=weight.device)
            weight[channels, channels % weight.shape[1], conv.time_kernel // 2] += 1
        set_own_class(conv, AP3DA if isinstance(conv, AP3DC) else P3DA)
    return len(found)


def fuse_batch_norms(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Fuses batch norms into the convolutions before them.

    The pairs are found by a run on the meta device. A norm stays if it follows a unit or a P3D-C convolution, is of
    another class than ``nn.BatchNorm2d`` and ``nn.BatchNorm3d``, or has no running statistics. Products are computed
    in float64.
    """
    pairs = followed_by_norm(network, clip_shape)
    for conv, norm in pairs.items():
        fuse_norm(network.get_submodule(conv), cast(Norm, network.get_submodule(norm)))
        set_module(network, norm, nn.Identity())
    channels_last(network)
    return len(pairs)


def merge_projections(network: nn.Module, clip_shape: tuple[int, ...]) -> int:
    """Turns the projections of non-local blocks on pixels into 1x1 convolutions, the norm fused into the last."""
    found = [module for module in network.modules() if isinstance(module, NonLocalBlock) and _is_mergeable(module)]
    for block in found:
        if block.norm is not None:
            fuse_norm(block.out, block.norm)
            block.norm = None
        for name in ("query", "key", "value", "out"):
            linear = cast(nn.Linear, block.get_submodule(name))
            conv = nn.Conv2d(linear.in_features, linear.out_features, 1, device="meta")
            conv.weight = nn.Parameter(linear.weight[:, :, None, None], requires_grad=False)
            conv.bias = nn.Parameter(linear.bias, requires_grad=False)
            setattr(block, name, conv)
        extend(block, Convolved)
    channels_last(network)
    return len(found)


FUSIONS: tuple[Pass, ...] = (merge_shortcuts, fuse_batch_norms, merge_projections)


class Convolved(Extension):
    """A non-local block on pixels, for inference, whose projections are 1x1 convolutions."""

    def project(self: Any, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, ...]:
        frames, t = flatten_time(zero_past_end(x, lengths)), x.shape[2]
        maps = [self.query(frames), self.key(frames), self.value(frames)]
        if self.subsample:
            cell = [min(2, size) for size in x.shape[3:]]
            maps[1:] = [F.max_pool2d(projected, cell) for projected in maps[1:]]
        return tuple(pixels(unflatten_time(projected, t)) for projected in maps)

    def forward(self: Any, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        frames = flatten_time(x)
        gathered = self.gather(*self.project(x, lengths), lengths).flatten(0, 1)  # (b t, h w, d)
        clip = unflatten_time(frames + self.out(gathered.mT.unflatten(2, x.shape[3:])), x.shape[2])
        return zero_past_end(clip, lengths)


def _is_mergeable(block: NonLocalBlock) -> bool:
    layers = (block.query, block.key, block.value, block.out)
    known = own_class(block) is NonLocalBlock and block.stripes is None
    plain = known and all(type(layer) is nn.Linear for layer in layers)
    return plain and (block.norm is None or (type(block.norm) is nn.BatchNorm1d and has_statistics(block.norm)))


def has_statistics(norm: Norm) -> bool:
    """Whether a norm computes the same for every batch in evaluation."""
    return norm.running_mean is not None and norm.running_var is not None


def scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """Returns what a norm in evaluation multiplies each channel by and adds to it, in float64.

    Raises: ValueError if the norm has no running statistics.
    """
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("norm has no running statistics, wanted one that computes the same for every batch")
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    shift = -norm.running_mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    return scale, shift


def fuse_norm(conv: Any, norm: Norm) -> None:
    """Multiplies ``norm`` into the weights and the bias of the layer before it, ``conv``, in place.

    Raises: ValueError if the norm has no running statistics, or the layer is a P3D-C convolution.
    """
    if isinstance(conv, P3DC):
        raise ValueError("the shortcut of P3D-C must be merged before a norm is fused: call merge_shortcuts first")
    scale, shift = scale_and_shift(norm)
    last = conv.temporal if isinstance(conv, P3DA) else conv
    beside = [conv.temporal] if isinstance(conv, P3DB) else []
    for part in (last, *beside):
        weight = part.weight
        scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
        part.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    if last.bias is not None:
        shift = shift + last.bias.double() * scale
    bias = nn.Parameter(shift.to(last.weight), requires_grad=False)
    nn.Module.register_parameter(last, "bias", bias)  # P3D refuses one that comes without a scaled temporal kernel


def followed_by_norm(network: nn.Module, clip_shape: tuple[int, ...]) -> dict[str, str]:
    """Returns the path of each convolution whose output is the input of a batch norm, with the path of that norm."""
    probe = copy.deepcopy(network).to("meta")
    outputs: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is used twice
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def record_output(path: str, output: Tensor) -> None:
        outputs[id(output)] = (path, output)
        calls[path] = calls.get(path, 0) + 1

    def record_input(path: str, given: Tensor) -> None:
        calls[path] = calls.get(path, 0) + 1
        if id(given) in outputs:
            pairs[outputs[id(given)][0]] = path

    for path, module in probe.named_modules():
        if own_class(module) in CONVOLUTIONS and not isinstance(module, P3DC | Followed):
            module.register_forward_hook(lambda _module, _args, output, path=path: record_output(path, output))
        elif type(module) in (nn.BatchNorm2d, nn.BatchNorm3d) and has_statistics(module):
            module.register_forward_pre_hook(lambda _module, args, path=path: record_input(path, args[0]))
    like = next(probe.parameters())
    with torch.inference_mode():
        probe(torch.empty(clip_shape, dtype=like.dtype, device="meta"))
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}
