"""Runtimes besides PyTorch that run a network on CPUs: OpenVINO and ONNX Runtime.

A runtime gets the network as an ONNX file in memory, for clips of one shape.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from strfnet.system.compat import tree_leaves, tree_map_only

Runtime = Literal["openvino", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
EXTRAS = {"openvino": "openvino", "onnxruntime": "onnx"}  # of this package, with all that they need
DTYPES = {"openvino": (torch.float32, torch.bfloat16), "onnxruntime": (torch.float32,)}
OPSET = 18  # of ONNX: the oldest that PyTorch writes; runtimes since spring 2023 read it
Arrays = list[np.ndarray[Any, Any]]


def missing_for(runtime: Runtime) -> list[str]:
    """The packages that a runtime needs and that are not installed."""
    return [name for name in (runtime, "onnx", "onnxscript") if importlib.util.find_spec(name) is None]


def check_runtime(runtime: Runtime) -> None:
    """Raises: ImportError naming the extra if packages that a runtime needs are missing."""
    if missing := missing_for(runtime):
        raise ImportError(f'{runtime} needs {", ".join(missing)}: pip install "strfnet[{EXTRAS[runtime]}]"')


class OnnxNetwork:
    """A network for clips of one shape as an ONNX file in memory.

    Args:
        network: in float32 on the CPU, in evaluation mode; it returns tensors, in any structure.
        clip: of that shape.
    """

    def __init__(self, network: nn.Module, clip: Tensor) -> None:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `optimize` compares outputs with those of the network
            self.structure = tree_map_only(Tensor, lambda tensor: tensor.new_empty(0), network(clip))
            program = torch.export.export(_Tensors(network), (clip,))
            made: Any = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET)
        file = io.BytesIO()
        made.save(file)
        self.file = file.getvalue()

    def open(self, runtime: Runtime, dtype: torch.dtype) -> Callable[[Tensor], Any]:
        """Returns a function of clips that computes what the network does, with as many threads as PyTorch has now.

        Args:
            runtime: "openvino" or "onnxruntime".
            dtype: of the computation: float32, or with OpenVINO bfloat16. Outputs are float32.
        """
        run = _openvino(self.file, dtype) if runtime == "openvino" else _onnxruntime(self.file)
        lock = Lock()  # OpenVINO computes one clip at a time

        def call(clip: Tensor) -> Any:
            with lock:
                arrays = iter(run(clip.float().numpy()))
            return tree_map_only(Tensor, lambda _: torch.from_numpy(next(arrays)), self.structure)

        return call


class _Tensors(nn.Module):
    """A network that returns the tensors of its output in a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> tuple[Tensor, ...]:
        return tuple(leaf for leaf in tree_leaves(self.network(clip)) if isinstance(leaf, Tensor))


def _openvino(file: bytes, dtype: torch.dtype) -> Callable[[Any], Arrays]:
    import openvino

    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(file), "CPU", settings)

    def run(clip: Any) -> Arrays:
        found = compiled({0: clip})
        return [found[output] for output in compiled.outputs]

    return run


def _onnxruntime(file: bytes) -> Callable[[Any], Arrays]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (name,) = (each.name for each in session.get_inputs())
    return lambda clip: session.run(None, {name: clip})
