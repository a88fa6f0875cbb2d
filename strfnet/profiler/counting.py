"""Multiply-adds, elementwise operations and parameters of a network, counted on the meta device."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from fnmatch import translate
from itertools import accumulate
from math import prod
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import flop_registry

from strfnet.profiler.report import KINDS, Counts, Profile, Row, Uncounted
from strfnet.system.compat import (
    OpOverload,
    OpOverloadPacket,
    TorchDispatchMode,
    hooks_of,
    overload_names,
    storage_id,
    tensors_of,
    tree_leaves,
)

aten = torch.ops.aten


def any_of(patterns: str) -> Callable[[str], object]:
    """Returns a test whether a name matches one of the shell patterns, separated by blanks."""
    return re.compile("|".join(map(translate, patterns.split()))).match


# ATen operators by name, without the underscore of the in-place form.
# One operation for each element written, as for operators with the tag pointwise. The first line lacks the tag.
is_written = any_of("""
    floor_divide rsub masked_fill hardswish prelu _prelu_kernel rrelu_with_noise glu log_sigmoid_forward
    native_*_norm _native_batch_norm_legit* _batch_norm_* _fused_rms_norm _weight_norm_interface
    *softmax native_dropout upsample_* _upsample_* grid_sampler* """)
# One operation for each element read.
is_read = any_of("""
    sum nansum mean prod var var_mean std std_mean norm linalg_vector_norm logsumexp
    amax amin max min aminmax argmax argmin all any count_nonzero
    cumsum cumprod cummax cummin logcumsumexp col2im
    *avg_pool?d max_pool?d_with_indices *adaptive_max_pool?d """)
# No operation: copies and creation. Views are recognised by their signature.
is_moved = any_of("""
    clone copy *_copy detach cat stack block_diag unsafe_split* _unsafe_view repeat flip roll rot90 tril triu
    index index_select index_put index_fill _unsafe_index* gather take scatter *_scatter embedding diag_embed
    repeat_interleave im2col pixel_shuffle pixel_unshuffle *channel_shuffle max_unpool?d
    constant_pad_nd reflection_pad?d replication_pad?d _local_scalar_dense _assert_*
    empty* new_* *_like zeros ones full eye arange range linspace logspace scalar_tensor
    tril_indices triu_indices fill zero resize* rand* normal* uniform bernoulli """)
SINGLE_PRODUCTS = {aten.mm, aten.addmm, aten._scaled_mm, aten.mv, aten.addmv}
BATCHED_PRODUCTS = {aten.bmm, aten.baddbmm, aten.addbmm}
# Products without a formula in PyTorch: MACs from the arguments.
MORE_PRODUCTS: dict[OpOverloadPacket, Callable[..., int]] = {
    aten.mv: lambda matrix, vector: prod(matrix.shape),
    aten.addmv: lambda added, matrix, vector, **scales: prod(matrix.shape),
    aten.dot: lambda left, right: prod(left.shape),
    aten.vdot: lambda left, right: prod(left.shape),
    aten.addbmm: lambda added, left, right, **scales: prod(left.shape) * right.shape[-1],
}


def profile(model: nn.Module, clip_shape: Sequence[int]) -> Profile:
    """Counts the parameters and operations of one forward pass of ``model`` in evaluation mode.

    The pass runs on PyTorch's meta device, with shapes but without values, so it takes neither the model's time nor
    its memory. The model is not modified, and its hooks are not run. A module that is called twice counts twice. A
    module with two paths counts under the path that ``named_modules`` gives. Operations outside a module's children
    are its own.

    Args:
        model: a network whose ``forward`` takes a clip, on any device.
        clip_shape: (b, c, t, h, w), or another shape that the model takes. The clip has the type of the model's
            first floating-point parameter. Default: float32.

    Raises:
        TypeError: ``model`` is no ``nn.Module``, or ``clip_shape`` no sequence.
        ValueError: ``clip_shape`` holds other than positive integers; the model cannot be copied to the meta device;
            or its forward pass fails there, because the clip does not fit or because the pass depends on values. The
            message names the module; the cause is chained.

    Source: the formulas of ``torch.utils.flop_counter``, where ``register_flop_formula`` adds those of other
    operators. Ours: elementwise operations, the split by kind, and the list of operators that are not counted.
    """
    shape = checked_shape(clip_shape)
    network = meta_copy(model).eval()
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    counter = OperationCounter(network)
    try:
        with torch.no_grad(), counter:
            network(torch.empty(shape, dtype=dtype, device="meta"))
    except Exception as error:
        raise ValueError(failure(network, counter.running[-1], shape, error)) from error
    uncounted = tuple(Uncounted(name, path, calls) for (name, path), calls in counter.uncounted.items())
    return Profile(shape, tuple(rows_of(network, counter.counted)), uncounted)


def checked_shape(clip_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns ``clip_shape`` as a tuple of integers. Raises: TypeError or ValueError if it is none."""
    wanted = "a sequence of positive whole numbers such as (1, 3, 8, 256, 128) is wanted"
    if not isinstance(clip_shape, Sequence) or isinstance(clip_shape, str | bytes):
        raise TypeError(f"clip_shape is {clip_shape!r}; {wanted}")
    wrong = [n for n in clip_shape if not isinstance(n, Integral) or isinstance(n, bool) or n < 1]
    if wrong or not clip_shape:
        raise ValueError(f"clip_shape is {tuple(clip_shape)}; {wanted}")
    return tuple(map(int, clip_shape))


def meta_copy(model: nn.Module) -> nn.Module:
    """Returns a copy of ``model`` on the meta device, made without copying weights, and without hooks.

    Raises: TypeError if ``model`` is no module; ValueError if it is lazy or cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {model!r}; a network (an instance of torch.nn.Module) is wanted")
    memo: dict[int, object] = {}  # copies that deepcopy uses instead of making its own
    for path, module in model.named_modules():
        memo |= {id(hooks): type(hooks)() for hooks in hooks_of(module).values()}
        for name, value in [*vars(module).items(), *tensors_of(module).items()]:
            if is_lazy(value):
                raise ValueError(f"model: {name} in {path or 'model'!r} has no shape yet; call the model once first")
            if isinstance(value, Tensor):
                memo[id(value)] = on_meta(value)
    try:
        network = deepcopy(model, memo)
    except Exception as error:
        raise ValueError(f"model is a {type(model).__name__} that cannot be copied: {error}") from error
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not tensor.is_meta:
            raise ValueError(f"model: {name!r} stays on {tensor.device}; profile the model before scripting it")
    return network


def on_meta(tensor: Tensor) -> Tensor:
    """Returns a tensor with the shape, strides and type of ``tensor``, without values."""
    empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class OperationCounter(TorchDispatchMode):
    """Counts the operators that run while it is active, for each module of ``network``.

    Attributes:
        counted: amounts by path and kind (one of ``KINDS``).
        uncounted: calls by operator and path.
        running: paths of the modules that run, the innermost last; after an exception, those that ran then.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.counted: Counter[tuple[str, str]] = Counter()
        self.uncounted: Counter[tuple[str, str]] = Counter()
        self.running = [""]
        self.weights = {storage_id(tensor) for tensor in [*network.parameters(), *network.buffers()]}
        for path, module in network.named_modules():
            module.register_forward_pre_hook(lambda *_, path=path: self.running.append(path))
            module.register_forward_hook(lambda *_, path=path: self.leave(path))

    def leave(self, path: str) -> None:
        """Ends the module at ``path``, and the modules it called whose exceptions it caught."""
        while self.running.pop() != path:
            pass

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        """Runs and counts ``func``. An operator without a rule is decomposed, and its parts are counted."""
        kwargs = kwargs or {}
        known = functional_form(func)
        rule = rule_for(known)
        if rule is None:
            with self:  # under inference_mode even aten.linear arrives undecomposed
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out, path = func(*args, **kwargs), self.running[-1]
        if rule is None:
            self.uncounted[str(func), path] += 1
        elif rule == "product":
            packet = known.overloadpacket
            self.counted[path, self.kind_of_product(packet, args)] += macs_of(packet, args, kwargs, out)
        elif rule != "moved":
            self.counted[path, "elementwise"] += elements(out if rule == "written" else (args, kwargs))
        return out

    def kind_of_product(self, packet: OpOverloadPacket, args: Any) -> str:
        """Returns "convolution", "linear" (a single matrix product, or one side is a weight) or "products"."""
        if "conv" in str(packet):
            return "convolution"
        # A frozen nn.Linear on permuted tokens is a bmm, with the weight expanded over the batch.
        weighted = packet in BATCHED_PRODUCTS and any(storage_id(side) in self.weights for side in args[-2:])
        return "linear" if weighted or packet in SINGLE_PRODUCTS else "products"


def functional_form(func: OpOverload) -> OpOverload:
    """Returns the operator of which ``func`` is the in-place form, else ``func``; it has the formula and the tags."""
    name, overload = overload_names(func)
    packet = getattr(torch.ops.aten, name.rstrip("_"), None) if func.namespace == "aten" else None
    return getattr(packet, overload, func)


def rule_for(func: OpOverload) -> str | None:
    """Returns how an operator is counted: "product", "written", "read" or "moved" (not at all); None: unknown."""
    packet = func.overloadpacket
    if packet in flop_registry or packet in MORE_PRODUCTS:
        return "product"
    name = overload_names(func)[0].rstrip("_") if func.namespace == "aten" else ""
    if func.is_view or torch.Tag.inplace_view in func.tags or is_moved(name):
        return "moved"
    if torch.Tag.pointwise in func.tags or is_written(name):
        return "written"
    return "read" if is_read(name) else None


def macs_of(packet: OpOverloadPacket, args: Any, kwargs: Any, out: Any) -> int:
    """Returns the MACs of a product; PyTorch's formulas count two FLOPs for each."""
    if packet in flop_registry:
        return -(-flop_registry[packet](*args, **kwargs, out_val=out) // 2)
    return MORE_PRODUCTS[packet](*args, **kwargs)


def elements(values: object) -> int:
    """Returns the size of the first tensor in ``values``: the main output of a norm, or the input of a reduction."""
    return next((leaf.numel() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)), 0)


def rows_of(network: nn.Module, counted: Counter[tuple[str, str]]) -> Iterator[Row]:
    """Yields a row for each module; the counts of its subtree are summed along the paths."""
    own: dict[str, Counts] = {}
    subtree: defaultdict[str, Counts] = defaultdict(Counts)
    parameters: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parameters[name.rpartition(".")[0]] += parameter.numel()
    for path, _ in network.named_modules():
        own[path] = Counts(parameters[path], *(counted[path, kind] for kind in KINDS))
        for ancestor in {"", *accumulate(path.split("."), "{}.{}".format)}:  # "", "a" and "a.b" for "a.b"
            subtree[ancestor] += own[path]
    return (Row(path, type(m).__name__, own[path], subtree[path]) for path, m in network.named_modules())


def failure(network: nn.Module, path: str, shape: tuple[int, ...], error: Exception) -> str:
    """Returns the message for a model that failed in the module at ``path``."""
    module = network.get_submodule(path)
    where = f"{path or 'model'!r}, a {type(module).__name__}({module.extra_repr()})"
    reason = f"{type(error).__name__}: {error}"
    if "meta" in reason.lower():
        reason += (
            "\nOn the meta device tensors have shapes but no values: a forward pass may depend on shapes, "
            "not on values (item(), nonzero(), if or while on a tensor)."
        )
    return f"model: the forward pass on clip_shape {shape} failed in {where}: {reason}"
