"""Runs an exported file; also a program on its own, which does not import strfnet.

``python exported.py FORMAT FILE FOLDER THREADS`` reads clips from FOLDER/clips.npz and writes embeddings, times and
metadata to FOLDER/outputs.npz. `export` checks its files with it.
"""

import runpy
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
DESCRIPTION = "strfnet"  # the entry of a file's metadata that describes the network


def open_exported(path: Path, kind: str, threads: int) -> tuple[Run, str]:
    """Returns a function from clips (b, 3, t, h, w) to embeddings (b, d), and the file's description, a JSON text.

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

    def run(clip: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            embedding: np.ndarray[Any, Any] = call(torch.from_numpy(clip)).numpy()
        return embedding

    return run, description


def _onnx(path: Path, threads: int) -> tuple[Run, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    description = session.get_modelmeta().custom_metadata_map[DESCRIPTION]
    return lambda clip: session.run(["embedding"], {"clip": clip})[0], description


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
    with np.load(Path(folder) / "clips.npz") as clips:
        for name in clips.files:
            outputs[name] = run(clips[name])  # the first call of a shape also plans its memory
            start = time.perf_counter()
            run(clips[name])
            seconds.append(time.perf_counter() - start)
    np.savez(Path(folder) / "outputs.npz", seconds=seconds, description=description, **outputs)


if __name__ == "__main__":
    _main(*sys.argv[-4:])
