"""Damaged and forged input, drawn by a seed: each is read, or refused by an error of strfnet's that names it.

    python benchmarks/fuzz.py                        # 10,000 inputs of each kind
    python benchmarks/fuzz.py --kind images --seed 7 --only 123   # one input again

Kinds are configurations, listings, weights, images, logs, runs, and files of embeddings in each format. An input
fails if another error than ValueError leaves the reader, if the message does not name the file, if it takes over 5 s,
or if the process grows by over 1 GiB. Failing inputs are kept in the folder that is printed.
"""

import argparse
import contextlib
import io
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from forgery import damaged, forged
from PIL import Image

from strfnet.cli import arguments
from strfnet.data import Tracklet, read_data_set
from strfnet.data.frames import read_frame
from strfnet.inference import load_embeddings, save_embeddings
from strfnet.models import create_model, find_network
from strfnet.training import Recipe, read_log
from strfnet.weights.file import BLANK, OURS, WEIGHTS, read_weights
from strfnet.weights.store import DESCRIPTION, CheckpointStore, pack, sha256

SECONDS, BYTES = 5.0, 2**30


class Kind:
    """One kind of input: a sound file, and the function that reads it.

    Args:
        folder: in which the input is written.
    """

    name = "input"

    def __init__(self, folder: Path) -> None:
        self.path = folder / self.name

    def contents(self) -> list[bytes]:
        """Sound contents, of which inputs are made."""
        return []

    def damage(self, contents: list[bytes], draw: random.Random) -> bytes:
        """One input."""
        return damaged(contents, draw)

    def read(self) -> None:
        """Reads the input."""


class Images(Kind):
    """JPEG and PNG files of several modes."""

    name = "image.png"

    def contents(self) -> list[bytes]:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
        found = []
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a person"
        forms = [("JPEG", mode) for mode in ("RGB", "L")] + [("PNG", mode) for mode in ("RGB", "P", "LA", "I;16")]
        for kind, mode in forms:
            file = io.BytesIO()
            image = (
                Image.fromarray(pixels[..., 0].astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels)
            )
            (image if mode == "I;16" else image.convert(mode)).save(file, kind, exif=exif)
            found.append(file.getvalue())
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "MPO", save_all=True, append_images=[Image.fromarray(pixels[::-1])])
        return [*found, file.getvalue()]

    def read(self) -> None:
        frame = read_frame(self.path)
        if frame.ndim != 3 or frame.shape[0] != 3 or not bool(frame.isfinite().all()):
            raise RuntimeError(f"a frame {tuple(frame.shape)} that is none")


class Listings(Kind):
    """CSV listings beside tracklets."""

    name = "tracklets.csv"

    def contents(self) -> list[bytes]:
        for number in range(4):
            folder = self.path.parent / f"{number}"
            folder.mkdir()
            (folder / "0.jpg").touch()
        lines = [f"{number},{number // 2},{number % 2},test" for number in range(4)]
        text = "\n".join(["path,identity,camera,subset", *lines])
        quoted = text.replace("test", '"test"').replace("\n", "\r\n")
        return [text.encode(), quoted.encode(), b"\xef\xbb\xbf" + text.encode()]

    def read(self) -> None:
        read_data_set("csv", self.path)


class Weights(Kind):
    """Files of `strfnet.save`, safetensors files and pickles of state dicts."""

    name = "weights.pth"

    def contents(self) -> list[bytes]:
        state = {f"layer{number}.weight": torch.randn(3, 2) for number in range(4)}
        found = [pack(state)]
        for value in (state, {"state_dict": state, "epoch": 3, "mean": np.float64(0.5)}):
            for zipped in (True, False):
                file = io.BytesIO()
                torch.save(value, file, _use_new_zipfile_serialization=zipped)
                found.append(file.getvalue())
        self.described = {"model": "c2d_resnet8", "num_classes": 2, "options": {}, "facts": {"height": 64}}
        self.described["origin"] = None
        self.small = {name: tensor for name, tensor in state.items() if tensor.numel() < 9}
        return [*found, self._of_strfnet(self.described)]

    def damage(self, contents: list[bytes], draw: random.Random) -> bytes:
        return self._of_strfnet(forged(self.described, draw)) if draw.random() < 0.3 else damaged(contents, draw)

    def _of_strfnet(self, metadata: Any) -> bytes:
        """A file of strfnet with other metadata, and the digest that belongs to it."""
        inner = metadata if isinstance(metadata, dict) else {"model": metadata}
        blank = pack(self.small, {OURS: json.dumps({"sha256": BLANK, "format": 1, **inner})})
        return blank.replace(BLANK.encode(), sha256(blank).encode(), 1)

    def read(self) -> None:
        weights = read_weights(self.path)
        if weights.metadata is not None:
            with contextlib.suppress(Misfit):
                try:
                    find_network(self.path)
                except ValueError as error:  # the weights are too few, which is found last
                    raise (Misfit if "does not fit" in str(error) else ValueError)(*error.args) from error


class Logs(Kind):
    """Logs of runs."""

    name = "log.jsonl"

    def contents(self) -> list[bytes]:
        line = {"kind": "step", "step": 1, "epoch": 0, "batch": 1, "loss": 0.5, "name": "é\u2028人"}
        lines = [json.dumps({**line, "step": step}, ensure_ascii=step % 2 == 0) for step in range(5)]
        return ["\n".join([*lines, ""]).encode()]

    def read(self) -> None:
        read_log(self.path)


class Configurations(Kind):
    """YAML files of options."""

    name = "options.yaml"

    def contents(self) -> list[bytes]:
        # A parser takes twenty times as long to make as to use; these inputs share one.
        self.same_parser = mock.patch.object(arguments, "make_parser", return_value=arguments.make_parser())
        return [
            b"model: c2d_resnet8\nbatch: 4\nweights: null\nrerank: true\nsplit: 0\nformat: mars\n",
            b"model: 'x:y'\nclips: all_frames:8\nprecision: bf16\nheight: 128\n# a comment\n",
        ]

    def read(self) -> None:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed), self.same_parser:
                arguments.parse(["evaluate", "--config", str(self.path)])
        except SystemExit as error:
            lines = printed.getvalue().splitlines()
            if error.code != 2 or len(lines) != 2 or "error:" not in lines[1]:
                raise RuntimeError(f"exit {error.code}: {printed.getvalue()[:300]!r}") from error
            raise ValueError(lines[1]) from error


class Runs(Kind):
    """Descriptions of checkpoints, damaged, or forged and sealed as ours are."""

    name = DESCRIPTION

    def contents(self) -> list[bytes]:
        network = create_model("c2d_resnet8", num_classes=None)
        recipe = Recipe(model="c2d_resnet8").to_json()
        store = CheckpointStore(self.path.parent / "run" / "checkpoints")
        files = {WEIGHTS: pack(network.state_dict())}
        self.path = store.save(1, files, {"recipe": recipe, "classes": 2}) / DESCRIPTION
        self.described = json.loads(self.path.read_bytes())["description"]
        return [self.path.read_bytes()]

    def damage(self, contents: list[bytes], draw: random.Random) -> bytes:
        if draw.random() < 0.3:
            return damaged(contents, draw)
        found = forged(self.described, draw)
        digest = sha256(json.dumps(found, sort_keys=True).encode())
        return json.dumps({"description": found, "sha256": digest}, indent=1).encode()

    def read(self) -> None:
        find_network(self.path.parents[2])


class Embeddings(Kind):
    """Files of embeddings."""

    name = "embeddings.safetensors"

    def contents(self) -> list[bytes]:
        frames = (np.zeros((2, 1, 3), np.uint8),)
        tracklets = [Tracklet(frames, identity, 1, {"track": "7"}) for identity in ("a", -1, None)]
        save_embeddings(self.path, torch.eye(3), tracklets, {"network": "c2d_resnet8", "metric": "cosine"})
        return [self.path.read_bytes()]

    def read(self) -> None:
        load_embeddings(self.path)


class Parquet(Embeddings):
    """Files of embeddings for other tools."""

    name = "embeddings.parquet"


class NumPy(Parquet):
    name = "embeddings.npz"


class CSV(Parquet):
    name = "embeddings.csv"


KINDS: dict[str, type[Kind]] = {
    kind.__name__.lower(): kind
    for kind in (Configurations, Listings, Weights, Images, Logs, Runs, Embeddings, Parquet, NumPy, CSV)
}


class Misfit(ValueError):
    """Weights that do not fit their network, which is right for those of an input."""


def fuzz(name: str, seed: int, numbers: range, folder: Path, report: Callable[[str], None]) -> tuple[int, int, int]:
    """Tries inputs of one kind. Returns how many were read, were refused, and failed."""
    kind = KINDS[name](folder)
    contents, read, refused, failed = kind.contents(), 0, 0, 0
    for content in contents:
        kind.path.write_bytes(content)
        kind.read()  # what is sound is read
    for number in numbers:
        content = kind.damage(contents, random.Random(f"{seed} {name} {number}"))
        kind.path.write_bytes(content)
        before, start, problem = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                kind.read()
            read += 1
        except ValueError as error:
            refused += 1
            message = str(error)
            if not any(str(place) in message for place in (kind.path, *list(kind.path.parents)[:3])):
                problem = f"the message names no file: {message[:200]}"
            elif "Traceback" in message:
                problem = f"the message has a traceback: {message[:200]}"
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            problem = f"{type(error).__name__}: {str(error)[:200]}"
        seconds = time.process_time() - start
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        if seconds > SECONDS or grown > BYTES:
            problem = problem or f"{seconds:.1f} s and {grown / 2**20:.0f} MiB"
        if problem is not None:
            failed += 1
            kept = Path(tempfile.gettempdir()) / "strfnet-fuzz" / f"{name}-{seed}-{number}-{kind.path.name}"
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(content)
            report(f"{name} --seed {seed} --only {number}: {problem} (kept in {kept})")
    return read, refused, failed


def main() -> int:
    """Runs the kinds that the command line names. Returns 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append", help="kinds to try (default: all)")
    parser.add_argument("--count", type=int, default=10_000, help="inputs of each kind (default: 10000)")
    parser.add_argument("--seconds", type=float, default=600.0, help="time for each kind (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--only", type=int, help="number of one input to try again")
    call = parser.parse_args()
    torch.set_num_threads(1)
    bad = 0
    for name in call.kind or KINDS:
        folder, start = Path(tempfile.mkdtemp()), time.monotonic()
        numbers = range(call.count) if call.only is None else range(call.only, call.only + 1)
        totals, tried = [0, 0, 0], 0
        try:
            for first in range(numbers.start, numbers.stop, 100):
                if time.monotonic() - start > call.seconds:
                    break
                part = range(first, min(first + 100, numbers.stop))
                inner = Path(tempfile.mkdtemp(dir=folder))
                totals = [a + b for a, b in zip(totals, fuzz(name, call.seed, part, inner, print), strict=True)]
                tried += len(part)
                shutil.rmtree(inner)
        finally:
            shutil.rmtree(folder)
        bad += totals[2]
        seconds = time.monotonic() - start
        print(
            f"{name}: {tried} inputs in {seconds:.0f} s, {totals[0]} read, {totals[1]} refused, {totals[2]} failed",
            flush=True,
        )
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
