"""Peak memory of the non-local block and NVAN beside the published computation, by the length of a clip.

    python benchmarks/memory.py

Each value is measured in a fresh process: peak resident memory during one inference, or one training step (forward
and backward), minus resident memory before, which includes inputs and weights. Large buffers are freed at once
(malloc's M_MMAP_THRESHOLD), so resident memory is live memory. Linux only. The published computation is
left out at 64 frames, where one matrix takes 4 GiB; NVAN has 16 at most, for its time. Exits 1 if a goal is missed.
"""

import argparse
import ctypes
import json
import math
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from figures import Figure, dumped, table
from restatements import restate
from torch import Tensor, nn

import strfnet
from strfnet import NonLocalBlock

CHANNELS, HEIGHT, WIDTH = 512, 32, 16
SHARES = {"strfnet": {8: 0.18, 32: 0.05}, "nvan, strfnet": {8: 0.35}}
OF = {"strfnet": "explicit", "nvan, strfnet": "nvan, published"}
M_MMAP_THRESHOLD, LARGE = -3, 256 * 1024  # of <malloc.h>; bytes that are given back at once
MOST_MIB, EXPONENT = 250, 1.0  # of the block at 64 frames, and of its growth
TRAINING, TRAINING_EXPONENT = "strfnet, training", 1.05  # linear, but for what does not grow

SUBJECTS: dict[str, Callable[[], nn.Module]] = {
    "explicit": lambda: restate(NonLocalBlock(CHANNELS)),
    "strfnet": lambda: NonLocalBlock(CHANNELS),
    TRAINING: lambda: NonLocalBlock(CHANNELS),
    "strfnet, dot": lambda: NonLocalBlock(CHANNELS, pairing="dot"),
    "strfnet, 16 stripes": lambda: NonLocalBlock(CHANNELS, stripes=16),
    "nvan, published": lambda: restate(strfnet.create_model("nvan_resnet50", num_classes=None)),
    "nvan, strfnet": lambda: strfnet.create_model("nvan_resnet50", num_classes=None),
}


def resident(field: str) -> float:
    """A field of this process's status, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measure(subject: str, frames: int) -> float:
    """MiB that one pass adds at its peak; changes this process, so run it in a fresh one."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, LARGE)
    training = subject == TRAINING
    network = SUBJECTS[subject]().train(training)
    clip = torch.randn(1, 3, frames, 256, 128)
    if not subject.startswith("nvan"):
        order = torch.contiguous_format if subject == "explicit" else torch.channels_last_3d
        clip = torch.randn(1, CHANNELS, frames, HEIGHT, WIDTH).contiguous(memory_format=order)

    def once(clip: Tensor) -> None:
        answer = network(clip.requires_grad_(training))
        if training:
            answer.sum().backward()

    with torch.inference_mode(not training):
        once(clip[:, :, :1].clone())
        network.zero_grad()
        libc.malloc_trim(0)
        with open("/proc/self/clear_refs", "w") as peak:
            peak.write("5")
        before = resident("VmRSS")
        once(clip)
    return resident("VmHWM") - before


def measured_afresh(subject: str, frames: int) -> float:
    """`measure` in a process of its own, forked from one that has imported this file and done nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memory"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, subject, frames).result()


def figures(*, judged: bool = True) -> list[Figure]:
    """All figures; without ``judged`` only those of eight frames, and no goals."""
    peaks: dict[str, dict[int, float]] = {}
    for name in SUBJECTS:
        longer = (16,) if name.startswith("nvan") else (32,) if name in ("explicit", TRAINING) else (32, 64)
        lengths = (8, *longer) if judged else (8,)
        peaks[name] = {t: measured_afresh(name, t) for t in lengths}
    rows = [Figure("memory", f"{name}, T = {t}", peak[t], "MiB") for name, peak in peaks.items() for t in peak]
    for name, shares in SHARES.items():
        for t in shares.keys() & peaks[name].keys():
            share = peaks[name][t] / peaks[OF[name]][t]
            goal = shares[t] if judged else None
            rows.append(Figure("memory", f"{name}, T = {t}: of {OF[name]}", share, "share", goal=goal, at_most=True))
    if judged:
        block = peaks["strfnet"]
        growth = math.log(block[64] / block[8], 8)
        rows.append(Figure("memory", "strfnet, at T = 64", block[64], "MiB", goal=MOST_MIB, at_most=True))
        rows.append(Figure("memory", "strfnet: growth exponent", growth, "", goal=EXPONENT, at_most=True))
        growth = math.log(peaks[TRAINING][32] / peaks[TRAINING][8], 4)
        rows.append(
            Figure("memory", f"{TRAINING}: growth exponent", growth, "", goal=TRAINING_EXPONENT, at_most=True)
        )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--quick", action="store_true", help="eight frames only; nothing judged")
    given = parser.parse_args()
    rows = figures(judged=not given.quick)
    print(json.dumps({"figures": dumped(rows)}, indent=2) if given.json else table(rows))
    return 0 if all(row.reached is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
