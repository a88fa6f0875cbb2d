"""A network for inference alone, compiled for clips of one shape."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from strfnet.layers.clip import check_clip
from strfnet.system.compat import CheckedConversion, frozen_weights, lookup_inductor, tree_map_only

Form = Literal["fused", "compiled"]


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
    their type cannot be changed. Copies and pickles are not compiled until `compile_for` is called on them.

    Attributes:
        fused: the network without compilation.
        form: "compiled" or "fused": what runs clips of ``clip_shape``.
        clip_shape: (b, c, t, h, w).
        dtype: type of the computation. Clips may have any floating type; outputs have that of their clip.
        error: largest difference from the original's output for a random clip, as a share of the largest value.
        seconds: of one call, of the original as "network" and of each form; the least of up to three.
        passes: a `Trial` for each pass, in order.
    """

    def __init__(self, fused: nn.Module, clip_shape: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__()
        self.fused = fused
        self.clip_shape, self.dtype = clip_shape, dtype
        self.form: Form = "fused"
        self.error = float("nan")
        self.seconds: dict[str, float] = {}
        self.passes: tuple[Trial, ...] = ()
        self._compiled: Callable[[Tensor], Any] = fused.__call__  # no module: weights are listed once
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
        if self.form == "compiled":
            warnings.warn("a copy of a deployed network is not compiled; compile_for(clip) compiles it", stacklevel=2)
        return {**super().__getstate__(), "form": "fused", "_compiled": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._compiled = self.fused.__call__

    def forward(self, clip: Tensor) -> Any:
        check_clip(clip, name="clip")
        expected = tuple(clip.shape) == self.clip_shape
        if self.form == "compiled" and not expected:
            self._warn(f"clips of {tuple(clip.shape)}")
        return self.run(self.form if expected else "fused", clip)

    def run(self, form: Form, clip: Tensor) -> Any:
        """Returns the output of one form, "compiled" or "fused"."""
        network = self._compiled if form == "compiled" else self.fused
        with torch.inference_mode(), torch.autocast(clip.device.type, enabled=False):
            # A copy, so that the compiler meets the same order, type and kind of tensor every time.
            taken = clip.to(self.dtype, memory_format=torch.contiguous_format, copy=True)
            return tree_map_only(Tensor, lambda value: value.to(clip.dtype), network(taken))

    def compile_for(self, clip: Tensor) -> str | None:
        """Compiles the network for clips such as this one. Returns the reason, in a line, if that fails."""
        seen = frozen = False
        inductor = lookup_inductor()
        compiler: Any = torch.compile  # its overloads lack the last argument

        def freeze(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
            nonlocal seen
            seen = True
            if frozen:  # PyTorch compiles once more, and would not freeze the weights this time
                self._warn("calls under other settings, such as another number of threads,")
                return graph.forward
            return inductor(graph, inputs)

        # Isolated, because networks of a class share their code, and PyTorch compiles no code more than eight times.
        compiled = compiler(self.fused, backend=freeze, dynamic=False, isolate_recompiles=True)
        self._compiled = compiled.__call__
        try:
            with frozen_weights():
                self.run("compiled", clip)
        except Exception as error:  # any failure of a compiler: none installed, no memory, an unknown operator
            self._compiled = self.fused.__call__
            return in_a_line(getattr(error, "inner_exception", error))
        if not seen:
            self._compiled = self.fused.__call__
            return "torch.compile ran the network without compiling it; TORCH_LOGS=dynamo logs the reason"
        frozen, self.form = True, "compiled"
        return None

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(f"compiled for {self.clip_shape}: {what} run without compilation", stacklevel=3)

    def extra_repr(self) -> str:
        return f"{self.form}, clip_shape={self.clip_shape}, dtype={self.dtype}, error={self.error:.1e}"


def in_a_line(error: Exception) -> str:
    """The class and the first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
