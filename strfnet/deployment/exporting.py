"""A network written as one file for programs without this package, and checked in a fresh process."""

import copy
import importlib.util
import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from strfnet.data.sampling import evaluation_sampler
from strfnet.deployment import exported
from strfnet.deployment.fusion import fuse
from strfnet.deployment.runtimes import OPSET
from strfnet.deployment.verification import Check, random_clip, unequal_lengths, verified
from strfnet.evaluation.protocols import Distance
from strfnet.layers.attention import choose_attention
from strfnet.layers.clip import AXES
from strfnet.system.compat import compile_package, require_torch
from strfnet.system.files import check_writable, write_atomically
from strfnet.system.names import check_choice
from strfnet.system.version import __version__

Format = Literal["onnx", "pt2", "package"]
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "package": ".pt2"}  # with the suffix of such files
OLDEST_TORCH = "2.14"  # 2.8 and 2.13 cannot prove merged frames (STE-NVAN) right for every number of frames
UNIT = 1e-4  # the largest difference of a length from 1 that is taken for rounding
BATCH, FRAMES = 2, 6  # of the clip with which a network is traced; both are dynamic in the file


@dataclass(frozen=True)
class Exported:
    """A file written by `export`. ``str`` gives a table of sizes, times and differences.

    Args:
        path: of the file.
        format: "onnx", "pt2" or "package".
        description: the entry ``strfnet`` of the file's metadata.
        size: bytes of the file.
        seconds: time of the export, without the check.
        checks: one for each clip of the check.
    """

    path: Path
    format: str
    description: dict[str, Any]
    size: int
    seconds: float
    checks: tuple[Check, ...]

    def __str__(self) -> str:
        name, least = self.description["model"], self.description["frames_at_least"]
        rows = [f"{'clip':<22} {'network ms':>10} {'file ms':>10} {'difference':>10}"]
        for check in self.checks:
            times = f"{check.network_seconds * 1e3:>10.1f} {check.file_seconds * 1e3:>10.1f}"
            rows.append(f"{'x'.join(map(str, check.clip_shape)):<22} {times} {check.error:>10.1e}")
        made = f"{self.size / 1e6:.1f} MB, made in {self.seconds:.1f} s"
        head = f"{name} as {self.format} in {self.path}: {made}; any batch, {least} frames or more"
        lengths = "of length 1" if self.description["unit_length"] else "not of length 1"
        distance, clips = self.description["distance"], self.description["clips"]
        use = f"embeddings {lengths}, compared by {distance} distance, of clips sampled by {clips}"
        return "\n".join([head, use, *rows])


def export(
    network: nn.Module,
    path: str | Path,
    format: Format = "onnx",
    *,
    size: tuple[int, int] = (256, 128),
    lengths: bool = False,
    clips: tuple[str, int] = ("restricted_first", 8),
    distance: Distance = "cosine",
) -> Exported:
    """Writes a network as a file that other programs run, for any batch size and any number of frames.

    ========= ========= ===========================================================================
    format    ending    the file
    ========= ========= ===========================================================================
    onnx      .onnx     opset 18, for ONNX Runtime and other readers of ONNX
    pt2       .pt2      a program for ``torch.export.load``
    package   .pt2      machine code for ``torch._inductor.aoti_load_package``, from Python or C++;
                        needs a C++ compiler, runs on processors like this one
    ========= ========= ===========================================================================

    The input is named "clip", the output "embedding". The network is exported in evaluation mode, in float32, for the
    CPU, with its batch norms fused into its convolutions (`fuse`). A separate process, which does not import strfnet,
    then runs the file on random clips of two batch sizes and two numbers of frames. The file is kept only if its
    outputs are those of the network in float64, up to 1e-4 of the largest value, or four times the rounding of the
    network's own float32 output if that is more. It is written atomically.

    Args:
        network: takes clips (b, 3, t, h, w); returns an embedding (b, d), or an object with an attribute
            ``embedding``. It is not modified.
        path: of the file, in a folder that exists.
        format: "onnx", "pt2" or "package".
        size: height and width of the frames in pixels, which are fixed.
        lengths: the file takes clips of unequal lengths: a second input "lengths", (b,) int64, holds the number of
            frames of each clip, and the frames past it may hold anything. Default: False.
        clips: clip sampler, of `strfnet.data.evaluation_sampler`, and the frames of its clips, for the metadata.
        distance: "cosine" or "euclidean", by which embeddings are compared, for the metadata.

    Raises: ValueError for an unknown format, sampler or distance, a wrong suffix, a size that the network does not
    take, a network that cannot be exported (naming the reason), and outputs that differ; ImportError if the extra
    ``onnx`` is missing; RuntimeError for PyTorch below 2.14. No file is left, and an existing one stays.
    """
    path = Path(path)
    check_target(path, format)
    evaluation_sampler(clips[0], frames=clips[1])  # raises for an unknown one
    check_choice("distance", distance, get_args(Distance))
    clip = random_clip(BATCH, FRAMES, size)
    inputs = (clip, unequal_lengths(clip)) if lengths else (clip,)
    original = EmbeddingAlone(copy.deepcopy(network).float().cpu()).eval()
    choose_attention(original)  # that of a GPU takes a number of queries at a time, which depends on the frames
    start = time.perf_counter()
    try:
        fused = fuse(original, tuple(clip.shape))
    except Exception as error:  # a network may raise anything
        shape = f"{AXES} = {tuple(clip.shape)}, on the meta device"
        raise ValueError(f"the network does not take clips {shape}: {_reason(error)}") from error
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks decide whether the file is right
        file = Path(folder) / f"exported{FORMATS[format]}"
        try:
            program = _program(fused, inputs)
            least = _least_frames(program)
            description = _description(network, size, least, lengths) | {
                "clips": f"{clips[0]}:{clips[1]}",
                "distance": distance,
                "unit_length": _is_of_unit_length(original, clip),
            }
            _write(program, file, format, json.dumps(description))
        except Exception as error:
            raise ValueError(f"the network cannot be exported as {format}: {_reason(error)}") from error
        seconds = time.perf_counter() - start
        checks = verified(original, file, format, description, size)
        content = file.read_bytes()
    write_atomically(path, content)
    return Exported(path, format, description, len(content), seconds, checks)


def check_target(path: Path, format: str) -> None:
    """Checks the path and the format before any work.

    Raises: ValueError for an unknown format, a wrong suffix, or a path that cannot be written; ImportError if the
    extra ``onnx`` is missing; RuntimeError for PyTorch below 2.14.
    """
    require_torch(OLDEST_TORCH, "export")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, wanted one of {', '.join(FORMATS)}")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"path is {path}, wanted a name that ends in {FORMATS[format]} for {format}")
    check_writable(path)
    needed = ("onnx", "onnxscript", "onnxruntime") if format == "onnx" else ()
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'to export ONNX needs {", ".join(missing)}: pip install "strfnet[onnx]"')


class EmbeddingAlone(nn.Module):
    """A network that returns the embedding only.

    Shape: (b, c, t, h, w) -> (b, d).
    Raises: TypeError if the network's output is no tensor and has no attribute ``embedding``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor, lengths: Tensor | None = None) -> Tensor:
        output = self.network(clip) if lengths is None else self.network(clip, lengths)
        embedding = output if isinstance(output, Tensor) else getattr(output, "embedding", None)
        if not isinstance(embedding, Tensor):
            raise TypeError(f"the output is {type(output).__name__}, wanted a tensor or an object with .embedding")
        return embedding


def _program(network: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Exports for any batch size and for as few frames as PyTorch can prove the program right."""

    def exported(frames: Any) -> ExportedProgram:
        batch = Dim("batch")
        shapes = ({0: batch, 2: frames}, {0: batch})[: len(inputs)]
        with torch.no_grad():
            return torch.export.export(network, inputs, dynamic_shapes=shapes)

    try:
        program = exported(Dim("frames", min=1))
    except Exception:  # frames are merged, and PyTorch specialises a program on an axis of length one
        program = exported(Dim("frames", min=_least_frames(exported(Dim.DYNAMIC))))
    for node in program.graph.nodes:  # stack traces name folders of this machine
        node.meta.pop("stack_trace", None)
    return program


def _least_frames(program: ExportedProgram) -> int:
    frames = next(node for node in program.graph.nodes if node.name == "clip").meta["val"].shape[2]
    return int(program.range_constraints[frames.node.expr].lower)


def _write(program: ExportedProgram, file: Path, format: str, description: str) -> None:
    if format == "onnx":
        names = [node.name for node in program.graph.nodes if node.name in ("clip", "lengths")]
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=names,
            output_names=["embedding"],
            dynamic_shapes=({0: "batch", 2: "frames"}, {0: "batch"})[: len(names)],
        )
        for node in made.model.graph.all_nodes():  # places in Python code: half of a small file
            node.metadata_props.clear()
        _free_name(made.model.graph)
        made.model.metadata_props[exported.DESCRIPTION] = description
        made.save(file, external_data=False)
    elif format == "pt2":
        program.example_inputs = None  # random numbers, larger than a small network
        torch.export.save(program, file, extra_files={exported.DESCRIPTION: description})
    else:
        compile_package(program, file, {exported.DESCRIPTION: description})


def _free_name(graph: Any) -> None:
    """Renames what has the name of the output in an ONNX graph, in place: exporters name values after operators."""
    (output,) = graph.outputs
    inside = f"{output.name}_inside"
    if constant := graph.initializers.pop(output.name, None):
        constant.name = inside
        graph.initializers[inside] = constant
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name == output.name and value is not output:
                value.name = inside


def _description(network: nn.Module, size: tuple[int, int], least: int, lengths: bool) -> dict[str, Any]:
    from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD

    return {
        "model": getattr(network, "name", None) or type(network).__name__,
        "strfnet": __version__,
        "torch": torch.__version__,
        "clip": ["batch", 3, "frames", *size],
        **({"lengths": ["batch"]} if lengths else {}),
        "frames_at_least": least,
        "colours": "RGB in 0 .. 1, less the mean, divided by std",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


def _is_of_unit_length(network: nn.Module, clip: Tensor) -> bool:
    with torch.inference_mode():
        lengths = network(clip).norm(dim=-1)
    return bool(((lengths - 1).abs() <= UNIT).all())


def _reason(error: BaseException) -> str:
    """The innermost cause of an error in a line: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
