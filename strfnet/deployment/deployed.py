"""A network for inference alone, compiled for clips of one shape."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from strfnet.deployment.cuda_graphs import RecordedCall
from strfnet.layers.clip import check_clip
from strfnet.system.compat import (
    CheckedConversion,
    compile_separately,
    computing_with_tf32,
    frozen_weights,
    lookup_inductor,
    tree_map_only,
)

Form = Literal["fused", "compiled", "recorded", "openvino", "onnxruntime"]
COPIES = {
    "compiled": "is not compiled; compile_for(clip) compiles it",
    "recorded": "is not recorded; record_for(clip) records it",
}


@dataclass(frozen=True)
class Trial:
    """One pass that `optimize` tried.

    Args:
        name: of the pass, such as "fuse_batch_norms".
        kept: whether the deployed network uses it.
        reason: why it was kept or dropped.
        error: largest difference from the network's output, as a share of the largest value; None if not measured.
        before, after: seconds of one call without and with the pass, measured in turn; None if not measured.
    """

    name: str
    kept: bool
    reason: str
    error: float | None = None
    before: float | None = None
    after: float | None = None

    def __str__(self) -> str:
        return f"{self.name}: {'kept' if self.kept else 'dropped'}, {self.reason}"


class Deployed(CheckedConversion):
    """The network that `optimize` returns. It is called as the original is, always in inference mode.

    Clips of another shape than ``clip_shape``, and calls under other settings than it was compiled under (such as
    another number of threads), run the fused network without compilation; the first such call warns. Weights and
    their type cannot be changed. Copies and pickles are neither compiled nor recorded until `compile_for` or
    `record_for` is called on them, and do not use another runtime.

    Attributes:
        fused: the network without compilation.
        form: what runs clips of ``clip_shape``: "fused"; "compiled"; "recorded", a CUDA graph of the one before; or
            the runtime "openvino" or "onnxruntime".
        clip_shape: (b, c, t, h, w).
        dtype: type of the computation. Clips may have any floating type; outputs have that of their clip.
        tf32: whether calls allow TF32 on CUDA (see `strfnet.deployment.allow_tf32`); None: as PyTorch's flags are.
        error: largest difference from the original's output for a random clip, as a share of the largest value.
        seconds: of one call, of the original as "network" and of each form; the least of up to three.
        passes: a `Trial` for each pass, in order.
    """

    def __init__(self, fused: nn.Module, clip_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.fused = fused
        self.clip_shape, self.dtype = clip_shape, dtype
        self.form: Form = "fused"
        self.tf32: bool | None = None
        self.error = float("nan")
        self.seconds: dict[str, float] = {}
        self.passes: tuple[Trial, ...] = ()
        self._calls: dict[Form, Callable[[Tensor], Any]] = {"fused": fused.__call__}  # weights are listed once
        self._warned = False
        self.eval()

    def train(self, mode: bool = True) -> "Deployed":
        """Stays in evaluation mode. Raises: ValueError for training, because the norms are fused."""
        if mode:
            raise ValueError("mode is True, but a deployed network cannot be trained; train the original instead")
        return super().train(False)

    def load_state_dict(self, *_: Any, **__: Any) -> Any:
        """Raises: ValueError, because compiled weights are frozen."""
        raise ValueError("a deployed network's weights are frozen; load them into the network and optimize that")

    def check_conversion(self, function: Callable[[Tensor], Tensor]) -> None:
        if (wanted := function(torch.empty(0, dtype=self.dtype)).dtype) != self.dtype:
            raise ValueError(
                f"a network deployed in {self.dtype} cannot change to {wanted}; optimize it with dtype={wanted}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for copies and pickles, without compiled code."""
        if self.form != "fused":
            lost = COPIES.get(self.form, f"does not use {self.form}; optimize the network again")
            warnings.warn(f"a copy of a deployed network {lost}", stacklevel=2)
        return {**super().__getstate__(), "form": "fused", "_calls": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._calls = {"fused": self.fused.__call__}

    def forward(self, clip: Tensor) -> Any:
        check_clip(clip, name="clip")
        expected = tuple(clip.shape) == self.clip_shape
        if self.form != "fused" and not expected:
            self._warn(f"clips of {tuple(clip.shape)}")
        return self.run(self.form if expected else "fused", clip)

    def run(self, form: Form, clip: Tensor) -> Any:
        """Returns the output of one form, "recorded", "compiled" or "fused"."""
        plain = torch.autocast(clip.device.type, enabled=False)
        with torch.inference_mode(), plain, computing_with_tf32(self.tf32):
            output = self._calls[form](self._taken(clip))
            return tree_map_only(Tensor, lambda value: value.to(clip.dtype), output)

    def _taken(self, clip: Tensor) -> Tensor:
        """A copy, so that the compiler meets the same order, type and kind of tensor every time."""
        return clip.to(self.dtype, memory_format=torch.contiguous_format, copy=True)

    def compile_for(self, clip: Tensor) -> str | None:
        """Compiles the network for clips such as this one. Returns the reason, in a line, if that fails."""
        seen = frozen = False
        inductor = lookup_inductor()

        def freeze(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            nonlocal seen
            seen = True
            if frozen:  # PyTorch compiles once more, and would not freeze the weights this time
                self._warn("calls under other settings, such as another number of threads,")
                return graph.forward
            return inductor(graph, inputs)

        self._calls["compiled"] = compile_separately(self.fused, freeze)
        try:
            with frozen_weights():
                self.run("compiled", clip)
        except Exception as error:  # any failure of a compiler: none installed, no memory, an unknown operator
            del self._calls["compiled"]
            return in_a_line(getattr(error, "inner_exception", error))
        if not seen:
            del self._calls["compiled"]
            return "torch.compile ran the network without compiling it; TORCH_LOGS=dynamo logs the reason"
        frozen, self.form = True, "compiled"
        return None

    def record_for(self, clip: Tensor) -> str | None:
        """Records the present form for clips such as this one as a CUDA graph. Returns the reason if that fails."""
        call = self._calls["compiled" if "compiled" in self._calls else "fused"]
        try:
            with torch.inference_mode(), torch.autocast(clip.device.type, enabled=False):
                self._calls["recorded"] = RecordedCall(call, self._taken(clip))
        except Exception as error:  # no CUDA, a host sync in the network, no memory
            return in_a_line(error)
        self.form = "recorded"
        return None

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms that there are."""
        return tuple(self._calls)

    def sharing(self) -> "Deployed":
        """Returns another deployed network with the same weights and compiled code."""
        other = Deployed(self.fused, self.clip_shape, self.dtype)
        other.form, other.tf32, other._calls = self.form, self.tf32, dict(self._calls)
        return other

    def run_by(self, runtime: Form, call: Callable[[Tensor], Any]) -> "Deployed":
        """Returns another deployed network with the same weights, whose clips of ``clip_shape`` a runtime takes."""
        other = Deployed(self.fused, self.clip_shape, self.dtype)
        other.form, other.tf32, other._calls[runtime] = runtime, self.tf32, call
        return other

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"compiled for {self.clip_shape}: {what} run without compilation", stacklevel=3)

    def extra_repr(self) -> str:
        return f"{self.form}, clip_shape={self.clip_shape}, dtype={self.dtype}, error={self.error:.1e}"


def in_a_line(error: Exception) -> str:
    """The class and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
