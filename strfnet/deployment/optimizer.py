"""A network made fast for inference on clips of one shape: passes are tried one by one, checked, timed and kept."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cache, partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from strfnet.deployment.cuda_graphs import has_cuda_graphs
from strfnet.deployment.deployed import Deployed, Trial, in_a_line
from strfnet.deployment.fusion import FUSIONS, Pass, fuse, inference_copy
from strfnet.deployment.in_place import add_in_place, chunk_attention, norms_in_place
from strfnet.deployment.runtimes import DTYPES, RUNTIMES, OnnxNetwork, Runtime, check_runtime, missing_for
from strfnet.deployment.winograd import use_winograd
from strfnet.layers.clip import AXES
from strfnet.system.compat import computing_with_tf32, require_torch, tf32_is_allowed, tree_leaves
from strfnet.system.names import check_choice

OLDEST_TORCH = "2.11"  # the oldest with which the tests were run and pass
# The largest sound difference from the original's output, as a share of the largest value.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 0.05, torch.float16: 0.02}
TF32_TOLERANCE = 5e-3  # of float32 where TF32 rounds factors to 10 bits
# Calls are timed in up to three rounds; after this many seconds no further round begins.
ROUNDS, LONGEST = 3, 1.0
NOISE = 1.05  # times of equal calls differ by this factor on a busy machine
Backend = Literal["inductor", "openvino", "onnxruntime", "auto"]
Step = Callable[[Deployed, Tensor], "Deployed | str"]  # returns a changed copy, or why there is none
UNCHANGED = "nothing to change"


def optimize(
    network: nn.Module,
    clip_shape: tuple[int, ...],
    *,
    dtype: torch.dtype | None = None,
    compiled: bool = True,
    tf32: bool | None = None,
    backend: Backend = "inductor",
) -> Deployed:
    """Returns a copy of the network for inference, as fast as this machine runs it, for clips of one shape.

    Passes are tried in turn: merge_shortcuts, fuse_batch_norms, merge_projections (`strfnet.deployment.fusion`),
    norms_in_place, add_in_place, to_dtype, use_winograd, chunk_attention, compile or what ``backend`` names, and
    cuda_graphs. Each is applied to a copy. The copy's output for a random clip of ``clip_shape`` is compared with
    that of the original, and the copy is timed beside the network without the pass. A pass is dropped if the
    difference is more than rounding explains, if the pass fails, or if it is slower. `Deployed.passes` lists all
    passes with their reasons and times. A warning names each pass that failed, and compilation, a runtime or a
    narrower type that was requested and did not help.

    On CUDA, rewritten networks are compared without TF32 and timed as they are called. Compiled and recorded forms
    keep TF32 as they were made, so they are compared with it, and may then differ by 5e-3.

    Compilation takes from seconds to a minute, and memory for a second set of weights. A CUDA graph keeps the memory
    of all intermediate values.

    Args:
        network: takes clips (b, c, t, h, w) and returns tensors; it is not modified.
        clip_shape: (b, c, t, h, w).
        dtype: type of the computation, such as torch.bfloat16. Default: the network's. A narrower type is dropped,
            with a warning, where it is slower (processors without its instructions) or its output is not sound.
        compiled: whether to compile and, on CUDA, to record a CUDA graph. False suits clips of many shapes.
        tf32: whether calls allow TF32 on CUDA (see `strfnet.deployment.allow_tf32`). Default: as PyTorch's flags are.
        backend: what compiles: "inductor", PyTorch's compiler; a runtime for CPUs, "openvino" (float32, bfloat16) or
            "onnxruntime" (float32), which gets the fused network as an ONNX file; or "auto", the fastest of those
            that are installed.

    Raises: ValueError if ``clip_shape``, ``dtype`` or ``backend`` is none of these, or if a runtime is given with
    ``compiled=False``; ImportError naming the extra of a missing runtime; RuntimeError for PyTorch below 2.11.
    """
    require_torch(OLDEST_TORCH, "optimize")
    check_choice("backend", backend, get_args(Backend))
    if backend != "inductor" and not compiled:
        raise ValueError(f"compiled is False, but backend {backend!r} compiles; wanted compiled=True or no backend")
    if backend in RUNTIMES:
        check_runtime(backend)
    like = next(network.parameters())
    if dtype is not None and dtype not in TOLERANCES:
        raise ValueError(f"dtype is {dtype}, wanted one of {', '.join(map(str, TOLERANCES))}")
    if len(clip_shape) != 5 or min(clip_shape) < 1:
        raise ValueError(f"clip_shape is {tuple(clip_shape)}, wanted {AXES} of at least 1 each")
    with computing_with_tf32(tf32):
        backends = _backends(backend) if compiled else ()
        deployed = _optimize(network, tuple(clip_shape), like.dtype if dtype is None else dtype, backends, like)
    deployed.tf32 = tf32
    return deployed


def _backends(backend: Backend) -> tuple[str, ...]:
    """The names of what is tried."""
    if backend == "auto":
        return ("inductor", *(runtime for runtime in RUNTIMES if not missing_for(runtime)))
    return (backend,)


def _optimize(
    network: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, backends: tuple[str, ...], like: Tensor
) -> Deployed:
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(like)
    original = torch.inference_mode()(copy.deepcopy(network).eval())
    with computing_with_tf32(False):
        expected = original(clip)
    deployed = Deployed(inference_copy(network), shape, like.dtype)
    trials = []
    wanted = {"to_dtype", "compile", *(backends if len(backends) == 1 else ())}
    for name, step in _steps(network, dtype, backends):
        deployed, trial = _try(name, step, deployed, clip, expected, wanted)
        trials.append(trial)
    forms: dict[str, Callable[[Tensor], Any]] = {form: partial(deployed.run, form) for form in deployed.forms}
    deployed.seconds, outputs = _timed({"network": original, **forms}, clip)
    deployed.error = largest_error(outputs[deployed.form], expected)
    deployed.passes = tuple(trials)
    return deployed


def _steps(network: nn.Module, dtype: torch.dtype, backends: tuple[str, ...]) -> Iterator[tuple[str, Step]]:
    """The passes in order, by name."""

    def rewriting(change: Pass) -> Step:
        def rewrite(deployed: Deployed, clip: Tensor) -> Deployed | str:
            candidate = copy.deepcopy(deployed)
            changed = change(candidate.fused, candidate.clip_shape)
            return candidate.eval() if changed else UNCHANGED  # new modules start in training mode

        return rewrite

    def to_dtype(deployed: Deployed, clip: Tensor) -> Deployed | str:
        if deployed.dtype == dtype:
            return UNCHANGED
        candidate = copy.deepcopy(deployed)
        candidate.fused.to(dtype)
        candidate.dtype = dtype
        return candidate

    def compile(deployed: Deployed, clip: Tensor) -> Deployed | str:
        candidate = copy.deepcopy(deployed)
        if failure := candidate.compile_for(clip):
            raise RuntimeError(failure)
        return candidate

    @cache
    def as_onnx(clip: Tensor) -> OnnxNetwork:
        return OnnxNetwork(fuse(copy.deepcopy(network).float(), tuple(clip.shape)), clip.float())

    def opening(runtime: Runtime) -> Step:
        def open_in_runtime(deployed: Deployed, clip: Tensor) -> Deployed | str:
            if clip.device.type != "cpu" or deployed.dtype not in DTYPES[runtime]:
                types = " or ".join(map(str, DTYPES[runtime]))
                return f"needs {types} on a CPU, and the network is {deployed.dtype} on {clip.device.type}"
            return deployed.run_by(runtime, as_onnx(clip).open(runtime, deployed.dtype))

        return open_in_runtime

    def cuda_graphs(deployed: Deployed, clip: Tensor) -> Deployed | str:
        if not has_cuda_graphs(clip.device):
            return f"needs a CUDA GPU, and the network is on {clip.device.type}"
        candidate = deployed.sharing()
        if failure := candidate.record_for(clip):
            raise RuntimeError(failure)
        return candidate

    for change in (*FUSIONS, norms_in_place, add_in_place):
        yield change.__name__, rewriting(change)
    yield "to_dtype", to_dtype
    for change in (use_winograd, chunk_attention):  # which depend on the type
        yield change.__name__, rewriting(change)
    if "inductor" in backends:
        yield "compile", compile
    for runtime in RUNTIMES:
        if runtime in backends:
            yield runtime, opening(runtime)
    if backends:
        yield "cuda_graphs", cuda_graphs


def _try(
    name: str, step: Step, deployed: Deployed, clip: Tensor, expected: Any, wanted: Collection[str]
) -> tuple[Deployed, Trial]:
    """Applies a pass to a copy. Returns the copy if it is sound and fast, else ``deployed``; and what was found.

    Warns of a pass that fails, and of one that is ``wanted`` but does not help.
    """
    try:
        candidate = step(deployed, clip)
        if isinstance(candidate, str):
            if name in wanted and candidate != UNCHANGED:
                warnings.warn(f"optimize drops {name}: {candidate}", stacklevel=4)
            return deployed, Trial(name, False, candidate)
        seconds, outputs = _timed({"before": deployed, "after": candidate}, clip)
        bound = tolerance(candidate.dtype, expected)
        if rounds_to_tf32(clip.device):
            if candidate.form == "fused":
                with computing_with_tf32(False):
                    outputs["after"] = candidate(clip)
            else:  # it keeps the flags under which it was made
                bound = max(bound, TF32_TOLERANCE)
        error = largest_error(outputs["after"], expected)
    except Exception as failure:  # of the pass, or of a network that uses what the pass has changed
        reason = in_a_line(failure)
        warnings.warn(f"optimize drops {name}: {reason}", stacklevel=4)
        return deployed, Trial(name, False, reason)
    before, after = seconds["before"], seconds["after"]
    kept, reason = _judge(name, deployed.dtype, candidate.dtype, error, bound, seconds)
    if not kept and (name in wanted or "slower" not in reason):
        warnings.warn(f"optimize drops {name}: {reason}", stacklevel=4)
    return candidate if kept else deployed, Trial(name, kept, reason, error, before, after)


def rounds_to_tf32(device: torch.device) -> bool:
    """Whether float32 factors are rounded to TF32 on a device, as PyTorch's flags are."""
    return device.type == "cuda" and tf32_is_allowed()


def _judge(
    name: str, given: torch.dtype, dtype: torch.dtype, error: float, bound: float, seconds: Mapping[str, float]
) -> tuple[bool, str]:
    """Whether a pass is kept, and why."""
    kind = f"{dtype}, so {given} stays: " if dtype != given else ""
    times = ", ".join(f"{form} {value * 1e3:.1f} ms" for form, value in seconds.items())
    if not error <= bound:
        return False, f"{kind}the output differs by {error:.1e} of the largest value, wanted at most {bound:.0e}"
    # What costs memory or accuracy must gain time. The other passes simplify what is compiled later.
    costly = name in ("use_winograd", "compile", *RUNTIMES, "cuda_graphs") or dtype.itemsize < given.itemsize
    most = 1.0 if costly else NOISE
    if dtype.itemsize <= given.itemsize and seconds["after"] > most * seconds["before"]:
        return False, f"{kind}slower, {times}"
    return True, times


def largest_error(output: Any, expected: Any) -> float:
    """The largest difference from the expected output, as a share of the largest value; NaN stays NaN."""
    pairs = zip(_tensors(output), _tensors(expected), strict=True)
    errors = [float((_exact(one) - _exact(other)).abs().max() / _largest(other)) for one, other in pairs]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.cpu().double()  # Apple's MPS has no float64


def _largest(tensor: Tensor) -> Tensor:
    return _exact(tensor).abs().max().clamp(min=1e-30)


def tolerance(dtype: torch.dtype, expected: Any) -> float:
    """The largest sound error in ``dtype``, as far as the type of the expected output allows."""
    return max(TOLERANCES[dtype], *(TOLERANCES.get(tensor.dtype, 0) for tensor in _tensors(expected)))


def _timed(calls: Mapping[str, Callable[[Tensor], Any]], clip: Tensor) -> tuple[dict[str, float], dict[str, Any]]:
    """Returns the least seconds of each call, made in turn two or three times, and their outputs."""
    rounds: list[dict[str, float]] = []
    outputs: dict[str, Any] = {}
    began = time.perf_counter()
    while len(rounds) < 2 or (len(rounds) < ROUNDS and time.perf_counter() - began < LONGEST):
        rounds.append({})
        for form, call in calls.items():
            start = time.perf_counter()
            outputs[form] = call(clip)
            _tensors(outputs[form])[0].sum().item()  # waits until a device is done
            rounds[-1][form] = time.perf_counter() - start
    return {form: min(seconds[form] for seconds in rounds) for form in calls}, outputs


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
