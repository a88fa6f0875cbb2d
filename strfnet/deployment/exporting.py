"""A network as one file for programs without this package, asked for its answers before it is kept."""

import copy
import importlib.util
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from strfnet.deployment import exported
from strfnet.deployment.fusion import fold_norms
from strfnet.layers.clip import AXES
from strfnet.system.compat import require_torch
from strfnet.system.files import write_whole
from strfnet.version import __version__

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "package": ".pt2"}  # and how the names of such files end
OLDEST_TORCH = "2.8"  # below, export is strict about Python code by default, and ONNX files cannot be written
OPSET = 18  # of ONNX: the oldest that PyTorch writes itself; runtimes from the spring of 2023 on read it
TOLERANCE = 1e-4  # how far an answer may be from the network's own, as a share of its largest value
BATCH, FRAMES = 2, 6  # of the clip by which a network is traced; both stay open in the file
CHECKED = (
    (1, 0),
    (1, 3),
    (3, 0),
    (3, 3),
)  # batches, and frames beyond the least, of the clips by which it is checked


@dataclass(frozen=True)
class Check:
    """A random clip, answered by the network and by the file.

    Args:
        clip_shape: (b, c, t, h, w).
        error: largest difference, as a share of the largest value.
        network_seconds: of one call of the network as it was given.
        file_seconds: of one call of the file, by as many threads.
    """

    clip_shape: tuple[int, ...]
    error: float
    network_seconds: float
    file_seconds: float


@dataclass(frozen=True)
class Exported:
    """A file that `export` has written. As text it is a small table of sizes, times and differences.

    Args:
        path: of the file.
        format: "onnx", "pt2" or "package".
        description: what the file says of itself in the entry ``strfnet`` of its metadata.
        size: of the file in bytes.
        seconds: that making the file took, without its checks.
        checks: one for each clip by which it was checked.
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
    network: nn.Module, path: str | Path, format: str = "onnx", *, size: tuple[int, int] = (256, 128)
) -> Exported:
    """Write a network as a file that other programs run, for any batch and any number of frames.

    ========= ========= ===========================================================================
    format    ending    the file
    ========= ========= ===========================================================================
    onnx      .onnx     opset 18, for ONNX Runtime and what else reads ONNX
    pt2       .pt2      a program for ``torch.export.load``
    package   .pt2      machine code for ``torch._inductor.aoti_load_package``, from Python or C++;
                        made by a C++ compiler, for processors like this one
    ========= ========= ===========================================================================

    The input is called "clip", the output, the embedding alone, "embedding". The network is exported in evaluation,
    in float32, for the CPU, with its norms folded into its convolutions (`fold_norms`). A fresh
    process that has nothing of this package then reads the file and answers random clips of two batches and two
    numbers of frames. Only a file that answers as the network does is kept, and it appears whole or not at all.

    Args:
        network: takes clips (b, 3, t, h, w); returns an embedding (b, d), or what has one as ``.embedding``. It is
            not modified.
        path: of the file, in a folder that exists.
        format: one of the above.
        size: height and width of the frames in pixels, which are fixed.

    Raises: ValueError for an unknown format or an ending of another, a size that the network does not take, what
    cannot be exported (naming the reason), and answers that are further from the network's than 1e-4 of the largest
    value; ImportError where the extra ``onnx`` is missing; RuntimeError below PyTorch 2.8. Nothing is left behind.
    """
    path = Path(path)
    check_target(path, format)
    clip = _clip(BATCH, FRAMES, size)
    original = EmbeddingAlone(copy.deepcopy(network).float().cpu()).eval()
    start = time.perf_counter()
    try:
        folded = fold_norms(original, tuple(clip.shape))
    except Exception as error:  # whatever a network may raise
        shape = f"{AXES} = {tuple(clip.shape)}, on the meta device"
        raise ValueError(f"the network does not take clips {shape}: {_reason(error)}") from error
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the checks are what tells whether the file is right
        file = Path(folder) / f"exported{FORMATS[format]}"
        try:
            program = _program(folded, clip)
            least = _least_frames(program)
            description = _description(network, size, least)
            _write(program, file, format, json.dumps(description))
        except Exception as error:
            raise ValueError(f"the network cannot be exported as {format}: {_reason(error)}") from error
        seconds = time.perf_counter() - start
        checks = _checked(original, file, format, description, size)
        content = file.read_bytes()
    write_whole(path, content)
    return Exported(path, format, description, len(content), seconds, checks)


def check_target(path: Path, format: str) -> None:
    """Refuse what cannot become such a file, before any work.

    Raises: RuntimeError below PyTorch 2.8; ValueError for an unknown format, an ending of another, or no folder;
    ImportError where the extra ``onnx`` is missing.
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
    """The embedding alone of what a network answers.

    Shape: (b, c, t, h, w) to (b, d).
    Raises: TypeError if the network's answer is no tensor and has no ``embedding``.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> Tensor:
        answer = self.network(clip)
        embedding = answer if isinstance(answer, Tensor) else getattr(answer, "embedding", None)
        if not isinstance(embedding, Tensor):
            raise TypeError(f"the answer is {type(answer).__name__}, wanted a tensor or what has one as .embedding")
        return embedding


def _program(network: nn.Module, clip: Tensor) -> ExportedProgram:
    """The network's operators, for any batch, and from as few frames on as PyTorch can prove it right for."""

    def exported(frames: Any) -> ExportedProgram:
        with torch.no_grad():
            return torch.export.export(network, (clip,), dynamic_shapes=({0: Dim("batch"), 2: frames},))

    try:
        program = exported(Dim("frames", min=1))
    except Exception:  # frames are merged, and an axis of one merged frame would be another program
        program = exported(Dim("frames", min=_least_frames(exported(Dim.DYNAMIC))))
    for node in program.graph.nodes:  # they tell of folders on this machine
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
        for node in made.model.graph.all_nodes():  # where in Python it came from: half of a small file
            node.metadata_props.clear()
        made.model.metadata_props[exported.DESCRIPTION] = description
        made.save(file, external_data=False)
    elif format == "pt2":
        program.example_inputs = None  # random numbers, many times as large as a small network
        torch.export.save(program, file, extra_files={exported.DESCRIPTION: description})
    else:
        metadata = {"aot_inductor.metadata": {exported.DESCRIPTION: description}}
        torch._inductor.aoti_compile_and_package(program, package_path=str(file), inductor_configs=metadata)


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
    """The file's answers beside the network's. Raises: ValueError if they differ, or if there are none."""
    least = description["frames_at_least"]
    clips = [_clip(b, t, size) for b, t in ((b, least + more) for b, more in CHECKED)]
    answers, file_seconds, told = _asked(file, format, clips)
    if told != json.loads(json.dumps(description)):
        raise ValueError(f"the {format} file describes itself as {told}, wanted {description}; it is not kept")
    checks = []
    for clip, answer, seconds in zip(clips, answers, file_seconds, strict=True):
        with torch.inference_mode():
            expected = original(clip)
            start = time.perf_counter()
            original(clip)
            network_seconds = time.perf_counter() - start
        if answer.shape != expected.shape:
            raise ValueError(
                f"the {format} file answers a clip of {tuple(clip.shape)} with {tuple(answer.shape)}, wanted "
                f"{tuple(expected.shape)}; it is not kept"
            )
        error = float((answer - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= TOLERANCE:
            raise ValueError(
                f"the {format} file answers a clip of {tuple(clip.shape)} {error:.1e} of the largest value away from "
                f"the network's own answer, wanted at most {TOLERANCE:.0e}; it is not kept"
            )
        checks.append(Check(tuple(clip.shape), error, network_seconds, seconds))
    return tuple(checks)


def _asked(file: Path, format: str, clips: Sequence[Tensor]) -> tuple[list[Tensor], list[float], Any]:
    """Answers to each clip, seconds of each, and the file's description, by a process that knows the file alone."""
    np.savez(file.parent / "given.npz", *(clip.numpy() for clip in clips))
    # A copy: Python imports from the folder of its program, and that of the package is no place to import from.
    program = [sys.executable, shutil.copy(exported.__file__, file.parent), format, str(file), str(file.parent)]
    done = subprocess.run([*program, str(torch.get_num_threads())], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ValueError(f"the {format} file does not answer in a fresh process: {last}; it is not kept")
    with np.load(file.parent / "answers.npz") as found:
        answers = [torch.from_numpy(found[f"arr_{number}"]) for number in range(len(clips))]
        return answers, found["seconds"].tolist(), json.loads(str(found["description"]))


def _clip(b: int, t: int, size: tuple[int, int]) -> Tensor:
    """Random numbers, the same for the same shape."""
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, wanted height and width of at least 1 pixel")
    return torch.randn(b, 3, t, *size, generator=torch.Generator().manual_seed(100 * b + t))


def _reason(error: BaseException) -> str:
    """What an error comes down to; exporters wrap it in advice several times over, and go on for pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
