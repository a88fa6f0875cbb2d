"""A network rewritten for evaluation alone: its batch norms become part of the convolutions before them."""

import copy
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from strfnet.deployment.in_place_norm import InPlaceNorm
from strfnet.inflation.extension import own_class, set_own_class
from strfnet.inflation.splicing import Followed, set_module
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.clip import channels_last, flatten_time, unflatten_time
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.temporal import C2D, I3D, P3DA, P3DB, P3DC

Network = TypeVar("Network", bound=nn.Module)
CONVOLUTIONS = (nn.Conv2d, C2D, I3D, P3DA, P3DB, P3DC, AP3DI, AP3DA, AP3DB, AP3DC)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def fold_norms(network: Network, clip_shape: tuple[int, ...]) -> Network:
    """A copy of ``network`` for evaluation, with its batch norms inside the convolutions before them.

    The shortcut of P3D-C becomes part of its temporal kernel, and the projections of a non-local block become
    convolutions, which compilers pack and fuse with what follows. Which norm follows which convolution is found
    by running the network once on the meta device, without time or memory. A norm behind a unit, one of another
    class (such as timm's with a built-in activation), or one without running statistics stays as it is.
    Products are taken in float64; kernels come out in channels-last order. Hooks are left out, as nothing that
    they watched may still be there; so is the wish for gradients.

    Args:
        network: takes clips; it is not modified.
        clip_shape: (b, c, t, h, w) of a clip that it takes.
    """
    folded = _without_hooks(copy.deepcopy(network)).eval().requires_grad_(False)
    for conv_path, norm_path in _followed_by_norm(folded, clip_shape).items():
        conv, norm = folded.get_submodule(conv_path), cast(nn.BatchNorm2d, folded.get_submodule(norm_path))
        absorb_shortcut(conv)
        absorb_norm(conv, norm)
        set_module(folded, norm_path, nn.Identity())
    for module in list(folded.modules()):
        absorb_shortcut(module)
        convolve_projections(module)
    channels_last(folded)
    return folded


def absorb_shortcut(module: nn.Module) -> None:
    """Make a P3D-C convolution one of P3D-A, whose temporal kernel holds the shortcut too, in place."""
    if not isinstance(module, P3DC):
        return
    temporal = module.temporal
    with torch.no_grad():
        channels = torch.arange(module.out_channels, device=temporal.weight.device)
        temporal.weight[channels, channels % temporal.weight.shape[1], 1] += 1
    set_own_class(module, AP3DA if isinstance(module, AP3DC) else P3DA)


class ConvolvedNonLocalBlock(NonLocalBlock):
    """A non-local block on pixels, for evaluation: its projections are 1x1 convolutions, its norm is in the last."""

    def project(self, x: Tensor) -> list[Tensor]:
        frames, t = flatten_time(x), x.shape[2]
        projected = [self.query(frames), self.key(frames), self.value(frames)]
        if self.subsample:
            cell = [min(2, size) for size in x.shape[3:]]
            projected[1:] = [F.max_pool2d(maps, cell) for maps in projected[1:]]
        return [rearrange(maps, "(b t) d h w -> b t (h w) d", t=t) for maps in projected]

    def _added(self, x: Tensor, gathered: Tensor, matrix: Tensor | None) -> Tensor:
        h, w = x.shape[3:]
        gathered = gathered if matrix is None else gathered @ matrix[:, None]
        maps = rearrange(gathered, "b t (h w) d -> (b t) d h w", h=h, w=w)
        return unflatten_time(flatten_time(x) + self.out(maps), x.shape[2])


def convolve_projections(block: nn.Module) -> None:
    """Make the projections of a non-local block on pixels 1x1 convolutions, the norm part of the last, in place."""
    if type(block) is not NonLocalBlock or block.stripes is not None:
        return
    if block.norm is not None and block.norm.running_mean is None:
        return
    if block.norm is not None:
        absorb_norm(block.out, block.norm)
        block.norm = None
    for name in ("query", "key", "value", "out"):
        linear = cast(nn.Linear, block.get_submodule(name))
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, device="meta")
        conv.weight = nn.Parameter(linear.weight[:, :, None, None], requires_grad=False)
        conv.bias = nn.Parameter(linear.bias, requires_grad=False)
        setattr(block, name, conv)
    block.__class__ = ConvolvedNonLocalBlock


def absorb_norm(conv: Any, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Put what ``norm`` does in evaluation into weights and bias of the layer before it, ``conv``, in place."""
    mean, variance = norm.running_mean, norm.running_var
    if mean is None or variance is None:
        raise ValueError("norm has no running statistics, wanted one that does the same to every batch")
    scale = (variance.double() + norm.eps).rsqrt()
    shift = -mean.double() * scale
    if norm.affine:
        scale, shift = scale * norm.weight.double(), shift * norm.weight.double() + norm.bias.double()
    last = conv.temporal if isinstance(conv, P3DA) else conv
    beside = [conv.temporal] if isinstance(conv, P3DB) else []
    for part in (last, *beside):
        weight = part.weight
        scaled = weight.double() * scale.view(-1, *[1] * (weight.ndim - 1))
        part.weight = nn.Parameter(scaled.to(weight), requires_grad=False)
    if last.bias is not None:
        shift = shift + last.bias.double() * scale
    last.bias = nn.Parameter(shift.to(last.weight), requires_grad=False)


def _followed_by_norm(network: nn.Module, clip_shape: tuple[int, ...]) -> dict[str, str]:
    """Paths of the convolutions whose answer goes straight into a batch norm, each with that norm's path."""
    probe = copy.deepcopy(network).to("meta")
    answers: dict[int, tuple[str, Tensor]] = {}  # tensors are kept, or others would be given their ids
    calls: dict[str, int] = {}
    pairs: dict[str, str] = {}

    def answered(path: str, answer: Tensor) -> None:
        answers[id(answer)] = (path, answer)
        calls[path] = calls.get(path, 0) + 1

    def asked(path: str, given: Tensor) -> None:
        calls[path] = calls.get(path, 0) + 1
        if id(given) in answers:
            pairs[answers[id(given)][0]] = path

    for path, module in probe.named_modules():
        if own_class(module) in CONVOLUTIONS and not isinstance(module, Followed):
            module.register_forward_hook(lambda _module, _args, answer, path=path: answered(path, answer))
        elif type(module) in (nn.BatchNorm2d, InPlaceNorm) and module.running_mean is not None:
            module.register_forward_pre_hook(lambda _module, args, path=path: asked(path, args[0]))
    like = next(probe.parameters())
    with torch.inference_mode():
        probe(torch.empty(clip_shape, dtype=like.dtype, device="meta"))
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}


def _without_hooks(network: Network) -> Network:
    for module in network.modules():
        for hooks in HOOKS:
            getattr(module, hooks).clear()
    return network
