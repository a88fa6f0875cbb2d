"""A network written as one file for programs without this package, and checked in a fresh process."""

import copy
import importlib.util
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from strfnet.deployment import exported
from strfnet.deployment.fusion import fuse
from strfnet.layers.clip import AXES
from strfnet.system.compat import compile_package, require_torch
from strfnet.system.files import write_atomically
from strfnet.system.version import __version__

Format = Literal["onnx", "pt2", "package"]
FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "package": ".pt2"}  # with the suffix of such files
OLDEST_TORCH = "2.14"  # 2.8 and 2.13 cannot prove merged frames (STE-NVAN) right for every number of frames
OPSET = 18  # of ONNX: the oldest that PyTorch writes; runtimes since spring 2023 read it
TOLERANCE = 1e-4  # the largest difference from the network's output, as a share of the largest value
BATCH, FRAMES = 2, 6  # of the clip with which a network is traced; both are dynamic in the file
CHECKED = ((1, 0), (1, 3), (3, 0), (3, 3))  # batch, and frames beyond the fewest, of the clips of the check


@dataclass(frozen=True)
class Check:
    """The outputs of the network and of the file for one random clip, compared.

    Args:
        clip_shape: (b, c, t, h, w).
        error: largest difference, as a share of the largest value.
        network_seconds: of one call of the original network.
        file_seconds: of one call of the file, with as many threads.
    """

    clip_shape: tuple[int, ...]
    error: float
    network_seconds: float
    file_seconds: float


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
        return "\n".join([head, *rows])


def export(
    network: nn.Module, path: str | Path, format: Format = "onnx", *, size: tuple[int, int] = (256, 128)
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
    outputs are those of the network; it is written atomically.

    Args:
        network: takes clips (b, 3, t, h, w); returns an embedding (b, d), or an object with an attribute
            ``embedding``. It is not modified.
        path: of the file, in a folder that exists.
        format: "onnx", "pt2" or "package".
        size: height and width of the frames in pixels, which are fixed.

    Raises: ValueError for an unknown format, a wrong suffix, a size that the network does not take, a network that
    cannot be exported (naming the reason), and outputs that differ by more than 1e-4 of the largest value;
    ImportError if the extra ``onnx`` is missing; RuntimeError for PyTorch below 2.14. No file is
    left, and an existing one stays.
    """
    path = Path(path)
    check_target(path, format)
    clip = _clip(BATCH, FRAMES, size)
    original = EmbeddingAlone(copy.deepcopy(network).float().cpu()).eval()
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
            program = _program(fused, clip)
            least = _least_frames(program)
            description = _description(network, size, least)
            _write(program, file, format, json.dumps(description))
        except Exception as error:
            raise ValueError(f"the network cannot be exported as {format}: {_reason(error)}") from error
        seconds = time.perf_counter() - start
        checks = _checked(original, file, format, description, size)
        content = file.read_bytes()
    write_atomically(path, content)
    return Exported(path, format, description, len(content), seconds, checks)


def check_target(path: Path, format: str) -> None:
    """Checks the path and the format before any work.

    Raises: ValueError for an unknown format, a wrong suffix, or a missing folder; ImportError if the extra ``onnx``
    is missing; RuntimeError for PyTorch below 2.14.
    """
    require_torch(OLDEST_TORCH, "export")
    if format not in FORMATS:
        raise ValueError(f"format is {format!r}, wanted one of {', '.join(FORMATS)}")
    if path.suffix != FORMATS[format]:
        raise ValueError(f"path is {path}, wanted a name that ends in {FORMATS[format]} for {format}")
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"cannot write {path}, wanted a file in a folder that exists")
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

    def forward(self, clip: Tensor) -> Tensor:
        output = self.network(clip)
        embedding = output if isinstance(output, Tensor) else getattr(output, "embedding", None)
        if not isinstance(embedding, Tensor):
            raise TypeError(f"the output is {type(output).__name__}, wanted a tensor or an object with .embedding")
        return embedding


def _program(network: nn.Module, clip: Tensor) -> ExportedProgram:
    """Exports for any batch size and for as few frames as PyTorch can prove the program right."""

    def exported(frames: Any) -> ExportedProgram:
        with torch.no_grad():
            return torch.export.export(network, (clip,), dynamic_shapes=({0: Dim("batch"), 2: frames},))

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
        made: Any = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["clip"],
            output_names=["embedding"],
            dynamic_shapes=({0: "batch", 2: "frames"},),
        )
        for node in made.model.graph.all_nodes():  # places in Python code: half of a small file
            node.metadata_props.clear()
        made.model.metadata_props[exported.DESCRIPTION] = description
        made.save(file, external_data=False)
    elif format == "pt2":
        program.example_inputs = None  # random numbers, larger than a small network
        torch.export.save(program, file, extra_files={exported.DESCRIPTION: description})
    else:
        compile_package(program, file, {exported.DESCRIPTION: description})


def _description(network: nn.Module, size: tuple[int, int], least: int) -> dict[str, Any]:
    from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD

    return {
        "model": getattr(network, "name", None) or type(network).__name__,
        "strfnet": __version__,
        "torch": torch.__version__,
        "clip": ["batch", 3, "frames", *size],
        "frames_at_least": least,
        "colours": "RGB in 0 .. 1, less the mean, divided by std",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }


def _checked(
    original: nn.Module, file: Path, format: str, description: dict[str, Any], size: tuple[int, int]
) -> tuple[Check, ...]:
    """Compares the outputs of the file and of the network. Raises: ValueError if they differ."""
    least = description["frames_at_least"]
    clips = [_clip(b, t, size) for b, t in ((b, least + more) for b, more in CHECKED)]
    outputs, file_seconds, stored = _run(file, format, clips)
    if stored != json.loads(json.dumps(description)):
        raise ValueError(f"the {format} file has the metadata {stored}, wanted {description}; it is not kept")
    checks = []
    for clip, output, seconds in zip(clips, outputs, file_seconds, strict=True):
        with torch.inference_mode():
            expected = original(clip)
            start = time.perf_counter()
            original(clip)
            network_seconds = time.perf_counter() - start
        if output.shape != expected.shape:
            raise ValueError(
                f"the {format} file returns {tuple(output.shape)} for a clip of {tuple(clip.shape)}, wanted "
                f"{tuple(expected.shape)}; it is not kept"
            )
        error = float((output - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= TOLERANCE:
            raise ValueError(
                f"the {format} file's output for a clip of {tuple(clip.shape)} differs from the network's by "
                f"{error:.1e} of the largest value, wanted at most {TOLERANCE:.0e}; it is not kept"
            )
        checks.append(Check(tuple(clip.shape), error, network_seconds, seconds))
    return tuple(checks)


def _run(file: Path, format: str, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[float], Any]:
    """Runs the file in a separate process. Returns the output and the seconds of each clip, and the metadata."""
    np.savez(file.parent / "clips.npz", *(clip.numpy() for clip in clips))
    # Not `python exported.py`, which would import from that file's folder, a part of this package.
    start = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    program = [sys.executable, "-c", start, exported.__file__, format, str(file), str(file.parent)]
    threads = str(torch.get_num_threads())
    done = subprocess.run([*program, threads], capture_output=True, text=True, cwd=file.parent)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"the {format} file does not run in a separate process: {last}; it is not kept")
    with np.load(file.parent / "outputs.npz") as found:
        outputs = [torch.from_numpy(found[f"arr_{number}"]) for number in range(len(clips))]
        return outputs, found["seconds"].tolist(), json.loads(str(found["description"]))


def _clip(b: int, t: int, size: tuple[int, int]) -> Tensor:
    """A random clip, equal for equal shapes."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, wanted height and width of at least 1 pixel")
    return torch.randn(b, 3, t, *size, generator=torch.Generator().manual_seed(100 * b + t))


def _reason(error: BaseException) -> str:
    """The innermost cause of an error in a line: exporters wrap it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
