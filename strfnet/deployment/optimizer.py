"""A network made ready for many clips of one shape: norms folded, compiled, checked, and no slower than it was."""

import copy
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from strfnet.deployment.fusion import fold_norms
from strfnet.deployment.winograd import with_winograd
from strfnet.layers.clip import AXES, check_clip
from strfnet.system.compat import compile_separately, require_torch

# How far an answer may be from the network's own, as a share of its largest value.
TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-9, torch.bfloat16: 0.05, torch.float16: 0.02}
# Calls are timed in three rounds, long ones in fewer: when so many seconds have passed no more is begun.
ROUNDS, LONGEST = 3, 1.0
OLDEST_TORCH = "2.8"


def optimize(
    network: nn.Module, clip_shape: tuple[int, ...], *, dtype: torch.dtype | None = None, compiled: bool = True
) -> "Deployed":
    """The network for inference alone, as fast as this machine runs it, for clips of one shape.

    Batch norms become part of the convolutions before them, P3D-C's shortcut part of its temporal kernel
    (`strfnet.deployment.fusion`); in float32 on a CPU, wide 3x3 convolutions take a quarter of the multiplications
    (`with_winograd`), where that proves faster; the rest is compiled by ``torch.compile`` with frozen weights,
    which packs kernels and fuses what follows them. The network and both forms then answer the same random clip:
    answers are compared, and the faster form is kept. What could not be done, or is no faster than the network, is
    told in a warning.

    Compiling takes from seconds to a minute, and memory for a second set of weights; kernels at Winograd's points
    take four times theirs.

    Args:
        network: takes clips (b, c, t, h, w) and returns tensors; it is not modified, and later changes to it do
            not reach the copy.
        clip_shape: (b, c, t, h, w) of the clips to come.
        dtype: to compute in, such as torch.bfloat16; None for the network's. One of fewer bits that is slower on
            this machine, as bfloat16 is on processors without its instructions, is given up for the network's.
        compiled: False stays with folded norms, which suits clips of ever other shapes.

    Raises: RuntimeError below PyTorch 2.8. ValueError if ``clip_shape`` is none, or if an answer is further from
    the network's own than rounding explains: 1e-4 of the largest value in float32, 0.05 in bfloat16.
    """
    require_torch(OLDEST_TORCH, "optimize")
    like = next(network.parameters())
    dtype = like.dtype if dtype is None else dtype
    if dtype not in TOLERANCES:
        raise ValueError(f"dtype is {dtype}, wanted one of {', '.join(map(str, TOLERANCES))}")
    if len(clip_shape) != 5 or min(clip_shape) < 1:
        raise ValueError(f"clip_shape is {tuple(clip_shape)}, wanted {AXES} of at least 1 each")
    clip = torch.randn(tuple(clip_shape), generator=torch.Generator().manual_seed(0)).to(like)
    original = torch.inference_mode()(copy.deepcopy(network).eval())
    deployed, seconds, answer = _folded(network, original, clip, dtype)
    if dtype.itemsize < like.dtype.itemsize and seconds["folded"] > seconds["network"]:
        warnings.warn(f"{like.dtype} is kept: {dtype} is slower on this machine ({_told(seconds)})", stacklevel=2)
        deployed, seconds, answer = _folded(network, original, clip, like.dtype)
    deployed = _tiled(deployed, clip, answer)
    if compiled and (failure := deployed.compile_for(clip)):
        warnings.warn(f"not compiled ({failure}); batch norms are folded all the same", stacklevel=2)
    runs = {form: partial(deployed.run, form) for form in dict.fromkeys(("folded", deployed.form))}
    deployed.seconds, answers = _timed({"network": original, **runs}, clip, least=2)
    errors = {form: _checked_error(answers[form], answers["network"], deployed.dtype, form) for form in runs}
    for line in _kept(deployed):
        warnings.warn(line, stacklevel=2)
    deployed.error = errors[deployed.form]
    return deployed


class Deployed(nn.Module):
    """What `optimize` returns: called as the network is, always in inference mode.

    Clips of another shape than ``clip_shape`` are answered with folded norms only, as are calls under other
    settings than it was compiled under, such as another number of threads. The first such call warns. Its weights
    and their type are settled. Copies and pickles of it are not compiled, until `compile_for` is called on them.

    Attributes:
        form: "compiled" or "folded": by which clips of ``clip_shape`` are answered.
        clip_shape: (b, c, t, h, w).
        dtype: in which it computes. Clips may have any floating type; answers have that of their clip.
        error: largest difference from the network's own answer to a random clip, as a share of the largest value.
        seconds: of one call, of the "network" as it was and of each form; the least of up to three.
    """

    def __init__(self, folded: nn.Module, clip_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.folded = folded
        self.clip_shape, self.dtype = clip_shape, dtype
        self.form, self.error = "folded", float("nan")
        self.seconds: dict[str, float] = {}
        self._compiled: Callable[[Tensor], Any] = folded.__call__  # no module: weights are listed once
        self._told = False
        self.eval()

    def train(self, mode: bool = True) -> "Deployed":
        """Stays in evaluation. Raises: ValueError for training: there are no norms left to train."""
        if mode:
            raise ValueError("mode is True, but a deployed network cannot be trained; train the one it came from")
        return super().train(False)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Raises: ValueError: compiled weights are frozen."""
        raise ValueError("a deployed network's weights are settled; load them into the network and optimize that")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Deployed":
        if (asked := fn(torch.empty(0, dtype=self.dtype)).dtype) != self.dtype:
            raise ValueError(
                f"a network deployed in {self.dtype} cannot change to {asked}; optimize it with dtype={asked}"
            )
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles are made of: compiled code stays here."""
        if self.form == "compiled":
            warnings.warn("a copy of a deployed network is not compiled; compile_for(clip) does that", stacklevel=2)
        return {**super().__getstate__(), "form": "folded", "_compiled": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = self.folded.__call__

    def forward(self, clip: Tensor) -> Any:
        check_clip(clip, name="clip")
        foreseen = tuple(clip.shape) == self.clip_shape
        if self.form == "compiled" and not foreseen:
            self._tell(f"clips of {tuple(clip.shape)}")
        return self.run(self.form if foreseen else "folded", clip)

    def run(self, form: str, clip: Tensor) -> Any:
        """The answer of one form, "compiled" or "folded"."""
        network = self._compiled if form == "compiled" else self.folded
        with torch.inference_mode(), torch.autocast(clip.device.type, enabled=False):
            # A copy, so that the compiler meets the same order, type and kind of tensor every time.
            taken = clip.to(self.dtype, memory_format=torch.contiguous_format, copy=True)
            return tree_map_only(Tensor, lambda value: value.to(clip.dtype), network(taken))

    def compile_for(self, clip: Tensor) -> str | None:
        """Compile for clips such as this one; what prevented it, in a line, or None."""
        from torch._dynamo import lookup_backend
        from torch._inductor import config

        seen = frozen = False

        def freeze(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            nonlocal seen
            seen = True
            if frozen:  # PyTorch wants to compile again, and this time would not freeze the weights
                self._tell("calls under other settings, such as another number of threads,")
                return graph.forward
            return lookup_backend("inductor")(graph, inputs)

        self._compiled = compile_separately(self.folded, freeze)
        try:
            with config.patch(freezing=True):
                self.run("compiled", clip)
        except Exception as error:  # whatever stops a compiler: none there, no room, an operator unknown to it
            self._compiled = self.folded.__call__
            return _in_a_line(getattr(error, "inner_exception", error))
        if not seen:
            self._compiled = self.folded.__call__
            return "PyTorch went by it; TORCH_LOGS=dynamo tells why"
        frozen, self.form = True, "compiled"
        return None

    def _tell(self, what: str) -> None:
        if not self._told:
            self._told = True
            warnings.warn(f"compiled for {self.clip_shape}: {what} are answered with folded norms only", stacklevel=3)

    def extra_repr(self) -> str:
        return f"{self.form}, clip_shape={self.clip_shape}, dtype={self.dtype}, error={self.error:.1e}"


def _checked_error(answer: Any, expected: Any, dtype: torch.dtype, form: str) -> float:
    """The largest difference, as a share of the largest value; ValueError if rounding on either side is no reason."""
    pairs = [(a.double(), e.double()) for a, e in zip(_tensors(answer), _tensors(expected), strict=True)]
    error = max(float((a - e).abs().max() / e.abs().max().clamp(min=1e-30)) for a, e in pairs)
    tolerance = max(TOLERANCES[dtype], *(TOLERANCES.get(tensor.dtype, 0) for tensor in _tensors(expected)))
    if not error <= tolerance:
        raise ValueError(
            f"the {form} network answers a random clip {error:.1e} of the largest value away from the network's own "
            f"answer, wanted at most {tolerance:.0e} in {dtype}; some of it cannot be folded or compiled"
        )
    return error


def _folded(
    network: nn.Module, original: Callable[[Tensor], Any], clip: Tensor, dtype: torch.dtype
) -> tuple[Deployed, dict[str, float], Any]:
    """The network with its norms folded; seconds of one call of "network" and "folded"; the original's answer."""
    shape = tuple(clip.shape)
    deployed = Deployed(fold_norms(network, shape).to(dtype), shape, dtype)
    seconds, answers = _timed({"network": original, "folded": deployed}, clip)
    _checked_error(answers["folded"], answers["network"], dtype, "folded")
    return deployed, seconds, answers["network"]


def _tiled(deployed: Deployed, clip: Tensor, expected: Any) -> Deployed:
    """``deployed`` with Winograd's algorithm, if that answers as ``expected`` and faster; else itself."""
    tiled = with_winograd(deployed.folded)
    if tiled is None:
        return deployed
    trial = Deployed(tiled, deployed.clip_shape, deployed.dtype)
    try:
        seconds, answers = _timed({"folded": deployed, "tiled": trial}, clip, least=2)
        _checked_error(answers["tiled"], expected, deployed.dtype, "tiled")
    except Exception as error:  # of a network that reads kernels itself: they have another form now
        warnings.warn(f"without Winograd's algorithm ({_in_a_line(error)}); the rest is done", stacklevel=3)
        return deployed
    return trial if seconds["tiled"] < seconds["folded"] else deployed


def _timed(
    calls: Mapping[str, Callable[[Tensor], Any]], clip: Tensor, *, least: int = 1
) -> tuple[dict[str, float], dict[str, Any]]:
    """The least seconds of each, called in turn three times, or ``least`` if that takes long; and their answers."""
    rounds: list[dict[str, float]] = []
    answers: dict[str, Any] = {}
    began = time.perf_counter()
    while len(rounds) < least or (len(rounds) < ROUNDS and time.perf_counter() - began < LONGEST):
        rounds.append({})
        for form, call in calls.items():
            start = time.perf_counter()
            answers[form] = call(clip)
            _tensors(answers[form])[0].sum().item()  # waits until a device is done
            rounds[-1][form] = time.perf_counter() - start
    return {form: min(seconds[form] for seconds in rounds) for form in calls}, answers


def _kept(deployed: Deployed) -> list[str]:
    """Keep the faster form; lines on what did not help."""
    seconds, lines = deployed.seconds, []
    told = _told(seconds)
    if deployed.form == "compiled" and seconds["compiled"] > seconds["folded"]:
        deployed.form = "folded"
        lines.append(f"compiling did not help ({told}): clips are answered with folded norms only")
    if seconds[deployed.form] > 1.05 * seconds["network"]:
        lines.append(f"{deployed.dtype} is slower on this machine than the network as it was ({told})")
    return lines


def _told(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{form} {value * 1e3:.1f} ms" for form, value in seconds.items())


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def _tensors(answer: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor)]
