"""An exported file, asked in a process of its own that knows nothing of this package.

`strfnet.export` runs this file as a program, ``python exported.py FORMAT FILE FOLDER THREADS``: the clips are in
FOLDER/given.npz, the answers go into FOLDER/answers.npz. So it must not read the rest of the package.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Ask = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
DESCRIPTION = "strfnet"  # the entry of a file's metadata that describes its network


def open_exported(path: Path, kind: str, threads: int) -> tuple[Ask, str]:
    """A file as a function from clips (b, 3, t, h, w) to embeddings (b, d), and its description, a JSON text.

    Args:
        path: of the file.
        kind: "onnx", "pt2" or "package".
        threads: to compute with, on the CPU.
    """
    if kind == "onnx":
        return _onnx(path, threads)
    import torch

    torch.set_num_threads(threads)
    call, description = (_package if kind == "package" else _program)(path)

    def ask(clip: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.inference_mode():
            answer: np.ndarray[Any, Any] = call(torch.from_numpy(clip)).numpy()
        return answer

    return ask, description


def _onnx(path: Path, threads: int) -> tuple[Ask, str]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    description = session.get_modelmeta().custom_metadata_map[DESCRIPTION]
    return lambda clip: session.run(["embedding"], {"clip": clip})[0], description


def _program(path: Path) -> tuple[Callable[..., Any], str]:
    import torch

    beside = {DESCRIPTION: ""}
    program = torch.export.load(path, extra_files=beside)
    return program.module(), beside[DESCRIPTION]


def _package(path: Path) -> tuple[Callable[..., Any], str]:
    import torch

    package = torch._inductor.aoti_load_package(str(path))
    return package, package.loader.get_metadata()[DESCRIPTION]


def _main(kind: str, path: str, folder: str, threads: str) -> None:
    ask, description = open_exported(Path(path), kind, int(threads))
    answers: dict[str, Any] = {}
    seconds = []
    with np.load(Path(folder) / "given.npz") as given:
        for name in given.files:
            clip = given[name]
            answers[name] = ask(clip)  # the first call of a shape also plans its memory
            start = time.perf_counter()
            ask(clip)
            seconds.append(time.perf_counter() - start)
    np.savez(Path(folder) / "answers.npz", seconds=seconds, description=description, **answers)


if __name__ == "__main__":
    _main(*sys.argv[1:])
