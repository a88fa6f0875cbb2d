"""Runs an exported file; also a program on its own, which does not import strfnet.

``python exported.py FORMAT FILE FOLDER THREADS`` reads clips from FOLDER/clips.npz, and their lengths from
FOLDER/lengths.npz if the file takes them, and writes embeddings, times and metadata to FOLDER/outputs.npz. `export`
checks its files with it.
"""

import runpy
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[..., np.ndarray[Any, Any]]
DESCRIPTION = "strfnet"  # the entry of a file's metadata that describes the network


def open_exported(path: Path, kind: str, threads: int) -> tuple[Run, str]:
    """Returns a function from clips (b, 3, t, h, w) to embeddings (b, d), and the file's description, a JSON text.

    The function of a file with lengths takes them, (b,) int64, as its second argument.

    Args:
        path: of the file.
        kind: "onnx", "pt2" or "package".
        threads: number of CPU threads.
    """
    if kind == "onnx":
        return _onnx(path, threads)
    import torch

    torch.set_num_threads(threads)
    call, description = (_package if kind == "package" else _program)(path)

    def run(*inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            embedding: np.ndarray[Any, Any] = call(*map(torch.from_numpy, inputs)).numpy()
        return embedding

    return run, description


def _onnx(path: Path, threads: int) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    description = session.get_modelmeta().custom_metadata_map[DESCRIPTION]
    return lambda *inputs: session.run(["embedding"], dict(zip(("clip", "lengths"), inputs, strict=False)))[
        0
    ], description


def _program(path: Path) -> tuple[Callable[..., Any], str]:
    import torch

    files = {DESCRIPTION: ""}
    program = torch.export.load(path, extra_files=files)
    return program.module(), files[DESCRIPTION]


def _package(path: Path) -> tuple[Callable[..., Any], str]:
    # By its path, because an import of strfnet.system would import strfnet.
    compat = runpy.run_path(str(Path(__file__).parents[1] / "system" / "compat.py"))
    package = compat["load_package"](path)
    return package, package.loader.get_metadata()[DESCRIPTION]


def _main(kind: str, path: str, folder: str, threads: str) -> None:
    run, description = open_exported(Path(path), kind, int(threads))
    outputs: dict[str, Any] = {}
    seconds = []
    files = [path for path in (Path(folder) / "clips.npz", Path(folder) / "lengths.npz") if path.exists()]
    with ExitStack() as stack:
        arrays = [stack.enter_context(np.load(path)) for path in files]
        for name in arrays[0].files:
            inputs = [array[name] for array in arrays]
            outputs[name] = run(*inputs)  # the first call of a shape also plans its memory
            start = time.perf_counter()
            run(*inputs)
            seconds.append(time.perf_counter() - start)
    np.savez(Path(folder) / "outputs.npz", seconds=seconds, description=description, **outputs)


if __name__ == "__main__":
    _main(*sys.argv[-4:])
