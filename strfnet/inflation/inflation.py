"""2-D networks extended to clips, with their keys and outputs kept, and restored."""

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, cast

import torch
from torch import nn

from strfnet.inflation.extension import extend, retract
from strfnet.inflation.inflated import Inflated, Output
from strfnet.inflation.layout import MAPS
from strfnet.inflation.probing import Probe
from strfnet.inflation.running_clips import OnFrames, RunningClips, share
from strfnet.inflation.splicing import Replacement, UnitBuilder, module_at, set_module, splice_into, unsplice
from strfnet.layers.ap3d import AP3DA, AP3DB, AP3DC, AP3DI
from strfnet.layers.frame_stride import FrameStride
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.layers.temporal import I3D, P3DA, P3DB, P3DC, TemporalConv
from strfnet.layers.temporal_attention import TemporalAttention
from strfnet.system.compat import children_of, is_compiled_wrapper

TemporalBuilder = Callable[[nn.Conv2d], nn.Module]
Temporal = Literal["c2d", "i3d", "p3d_a", "p3d_b", "p3d_c", "ap3d_i3d", "ap3d_p3d_a", "ap3d_p3d_b", "ap3d_p3d_c"]
Unit = Literal["strf", "non_local", "temporal_attention"]

TEMPORAL: dict[Temporal, TemporalBuilder | None] = {
    "c2d": None,
    "i3d": I3D,
    "p3d_a": P3DA,
    "p3d_b": P3DB,
    "p3d_c": P3DC,
    "ap3d_i3d": AP3DI,
    "ap3d_p3d_a": AP3DA,
    "ap3d_p3d_b": AP3DB,
    "ap3d_p3d_c": AP3DC,
}
UNITS: dict[Unit, UnitBuilder] = {
    "strf": STRF,
    "non_local": NonLocalBlock,
    "temporal_attention": TemporalAttention,
}


def inflate(
    network: nn.Module | Callable[[], nn.Module],
    *,
    temporal: Temporal | TemporalBuilder | None = None,
    unit: Unit | UnitBuilder | None = "strf",
    places: Iterable[str] | None = None,
    last_stride: int | None = None,
    output: Output | None = None,
    example: Any = None,
) -> Any:
    """Returns a copy of a 2-D network (or of what a builder such as ``resnet50`` returns) that takes clips.

    The network runs on the flattened frames. At the module paths in ``places`` a 2-D convolution becomes a temporal
    one, and a unit follows it. A unit also follows any other block, such as one of a vision transformer (see
    `splice`). Before training, the output equals that of the 2-D network on every frame (that is kept, if the
    temporal convolution has a stride in time; the shortcut of a residual block follows it): vectors, (b t, d), are
    averaged over the frames of a clip to (b, d); maps, (b t, c, h, w) or channels-last, are unflattened into clips.
    The defaults build the headline network of the STRF paper: STRF on P3D-C.

    The copy keeps the class, module paths, state-dict keys, dtype, device, mode, hooks and frozen parameters of the
    network. It loads checkpoints of the 2-D network, with ``strict=True`` too, if they hold none of the added keys;
    these keep their values. `deflate` restores the 2-D network.

    The copy is called as the network is, with a clip as the first argument, by position or by name. Of further
    inputs, tensors of b rows, such as camera labels, are repeated for each frame; others are passed on as they are.
    An error inside names the module's path.

    Args:
        network: any module from (n, c, h, w) to vectors or maps; it is not modified.
        temporal: the temporal convolution, where "c2d" keeps the 2-D one; or a callable that builds a module on
            clips from a 2-D convolution, such as ``partial(I3D, time_kernel=5)``. Default: "p3d_c" where the place is
            a convolution.
        unit: the unit after it, or None; or a callable that builds a module on clips from a number of channels.
            Default: "strf".
        places: module paths of 2-D convolutions, of residual blocks, which stand for their ``conv2``, or of other
            blocks. Default: every second block of stages 2 and 3, from the first, as in AP3D.
        last_stride: stride of the last stage; 1 keeps the resolution, as both papers do. Default: None, as it is.
        output: index, key or attribute of the vectors or maps in the tuple, list, dictionary or record that the
            network returns, or a function of it. A network that returns a tensor in one mode and several in another
            may be given one: an index, a key or an attribute leaves a tensor as it is.
        example: inputs of a call on clips, with which the network is run on the meta device; see `splice`.

    Shape: (b, c, t, h, w) to (b, d) or (b, d, t, h', w').
    Raises: ValueError or TypeError, with the path and the reason, for a path that does not exist or is no plain 2-D
    convolution or block, for a network other than a ResNet without ``places``, for one that returns neither vectors
    nor maps, and for one that is inflated already, compiled, scripted, quantised or wrapped for parallel training.
    """
    built = network() if callable(network) and not isinstance(network, nn.Module) else network
    if not isinstance(built, nn.Module):
        raise TypeError(f"network must be a module or build one, got {type(built).__name__}")
    _check_inflatable(built)
    probe = Probe(built, example, frames=True)
    _check_takes_frames(built, probe)
    make_temporal = _named("p3d_c" if temporal is None else temporal, TEMPORAL, "temporal")
    make_unit = None if unit is None else _named(unit, UNITS, "unit")
    wanted = _default_places(built) if places is None else _listed(places)
    blocks = places is not None and make_unit is not None and (temporal is None or make_temporal is None)
    paths = [_path(built, place, blocks=blocks) for place in wanted]
    if len(set(paths)) != len(paths):
        raise ValueError(f"places must differ, got {paths}")
    layout = probe.returned(output)

    inflated = copy.deepcopy(built)
    strides = {} if last_stride is None else _set_last_stride(inflated, last_stride)
    for path in paths if make_temporal is not None else ():
        conv = inflated.get_submodule(path)
        if isinstance(conv, nn.Conv2d):
            set_module(inflated, path, _with_time(conv, make_temporal, path))
            _stride_shortcut(inflated, path, probe)
    if make_unit is not None:
        splice_into(inflated, dict.fromkeys(paths, make_unit), probe)
    for module in inflated.modules():
        if isinstance(module, TemporalConv) and not isinstance(module, OnFrames):
            extend(module, OnFrames, _running=RunningClips(), _layout=MAPS)
    settings = {"_steps_before": strides, "_output": output, "_layout": layout, "_input": _first_input(built)}
    extend(inflated, Inflated, _running=RunningClips(), **settings)
    share(RunningClips(), inflated)
    return inflated


def deflate(network: nn.Module) -> Any:
    """Returns a copy of an inflated network as the 2-D network that it was made from, with its present weights.

    It drops units and temporal kernels, keeps the middle slice of 3-D kernels, and restores strides.
    Raises: ValueError if ``network`` was not made by `inflate`.
    """
    if not isinstance(network, Inflated):
        raise ValueError(f"{type(network).__name__} is not an inflated network, wanted one of strfnet.inflate")
    image = unsplice(network)
    for path, module in list(image.named_modules()):
        if isinstance(module, TemporalConv):
            retract(module, OnFrames)
            set_module(image, path, module.image_conv())
        elif isinstance(module, FrameStride):
            block = image.get_submodule(path.rpartition(".")[0])
            delattr(block, "downsample")
            cast(Any, block).downsample = None
    for path, step in image._steps_before.items():
        vars(image.get_submodule(path)).update(step)
    retract(image, Inflated)
    return image


def _first_input(network: nn.Module) -> str:
    """The name of the first argument of a network's forward pass."""
    return next(iter(inspect.signature(network.forward).parameters), "clip")


def _named(choice: Any, known: Mapping[Any, Any], name: str) -> Any:
    if not isinstance(choice, str):
        if not callable(choice):
            raise TypeError(f"{name} must be one of {', '.join(known)} or a builder, got {choice!r}")
        return choice
    if choice not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)} or a builder, got {choice!r}")
    return known[choice]


def _listed(places: Iterable[str]) -> list[str]:
    return [places] if isinstance(places, str) else list(places)


def _check_inflatable(network: nn.Module) -> None:
    if isinstance(network, Inflated):
        raise ValueError(f"network is inflated already ({type(network).__name__}); use strfnet.splice to add units")
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    for path, module in network.named_modules():
        where = f"{path or 'network'} ({type(module).__name__})"
        if isinstance(module, wrappers) or is_compiled_wrapper(module):
            raise ValueError(f"{where} wraps another network; inflate that one, then wrap or compile the result")
        if isinstance(module, torch.jit.ScriptModule | torch.fx.GraphModule):
            raise ValueError(
                f"{where} is scripted or traced and cannot be changed; inflate the network it was made from"
            )
        if type(module).__module__.startswith(("torch.ao.nn", "torch.nn.quantized", "torchao")):
            raise ValueError(f"{where} is quantised and has no exact form in time; inflate first, then quantise")


def _check_takes_frames(network: nn.Module, probe: Probe) -> None:
    for path, module in network.named_modules():
        if isinstance(module, nn.Conv3d) and not probe.runs:
            raise ValueError(f"{path} is a 3-D convolution: the network takes clips already; use strfnet.splice")


def _default_places(network: nn.Module) -> list[str]:
    return [f"layer{stage}.{block}" for stage in (2, 3) for block in range(0, len(_stage(network, stage)), 2)]


def _stage(network: nn.Module, stage: int) -> nn.Sequential:
    blocks = getattr(network, f"layer{stage}", None)
    if not isinstance(blocks, nn.Sequential) or not len(blocks) or not hasattr(blocks[0], "conv2"):
        raise ValueError(
            f"network is no plain ResNet: {type(network).__name__} has no layer{stage} of residual blocks with "
            "a conv2; name the places to inflate, and leave last_stride out"
        )
    return blocks


def _path(network: nn.Module, place: str, *, blocks: bool) -> str:
    """Returns the path of the convolution that ``place`` names or has as its ``conv2``; or ``place``, if a block."""
    module = module_at(network, place)
    inner = children_of(module).get("conv2")
    if type(inner) is nn.Conv2d or (isinstance(inner, nn.Conv2d) and not blocks):
        return f"{place}.conv2"
    if isinstance(module, nn.Conv2d) or (blocks and children_of(module)):
        return place
    wanted = "a 2-D convolution or a block with a conv2" + (", or another block" if blocks else "")
    hint = "" if blocks else '; other blocks take a unit alone: temporal="c2d"'
    raise ValueError(f"{place} is a {type(module).__name__}; a place must be {wanted}{hint}")


def _with_time(conv: nn.Module, make: TemporalBuilder, path: str) -> nn.Module:
    try:
        built = make(cast(nn.Conv2d, conv))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path} cannot be given an extent in time: {error}") from error
    if not isinstance(built, nn.Module):
        raise TypeError(f"temporal must build a module, got {type(built).__name__} for {path}")
    return built if isinstance(built, TemporalConv) else Replacement(built, conv)


def _stride_shortcut(network: nn.Module, path: str, probe: Probe) -> None:
    """Lets the shortcut of a residual block take the frames of its convolution that strides in time, in place."""
    stride = getattr(network.get_submodule(path), "time_stride", 1)
    parent = path.rpartition(".")[0]
    block: Any = network.get_submodule(parent)
    if stride == 1 or not hasattr(block, "downsample"):
        return
    if block.downsample is None:
        block.downsample = FrameStride(stride)
        extend(block.downsample, OnFrames, _running=RunningClips(), _layout=MAPS)
    else:
        splice_into(network, {f"{parent}.downsample": FrameStride(stride)}, probe, layout="fchw")


def _set_last_stride(network: nn.Module, stride: int) -> dict[str, dict[str, Any]]:
    """Sets the stride of the last stage, in place; returns the former settings by module path."""
    if stride not in (1, 2):
        raise ValueError(f"last_stride must be 1, 2 or None, got {stride}")
    path, block = "layer4.0", _stage(network, 4)[0]
    stepping = {
        f"{path}.{name}": module
        for name, module in block.named_modules()
        if name and getattr(module, "stride", 1) not in (1, (1,), (1, 1))
    }
    if stride == 2 and not stepping:
        raise ValueError(f"last_stride is 2, but {path} has no layer with a stride; wanted 1 or None")
    before: dict[str, dict[str, Any]] = {}
    for name, module in stepping.items() if stride == 1 else ():
        if type(module) is nn.Conv2d:
            before[name] = {"stride": module.stride}
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d):
            before[name] = {"stride": module.stride, "kernel_size": module.kernel_size}
            module.stride = module.kernel_size = 1
        else:
            raise ValueError(
                f"last_stride=1: {name} has a stride, and that of a {type(module).__name__} cannot be changed"
            )
    return before
