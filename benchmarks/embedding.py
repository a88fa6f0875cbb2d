"""`strfnet embed` on many tracklets: speed, memory, and resuming after kills.

    python benchmarks/embedding.py                   # five minutes on two cores
    python benchmarks/embedding.py --quick           # under two minutes, fewer of everything
    python benchmarks/embedding.py --tracklets 100000 --json figures.json
    python benchmarks/embedding.py --pipeline        # the first table alone, a minute and a half

Five tables, of the process or of commands in fresh processes:

- pipeline: wall time of `strfnet.inference.embed` for JPEG files of 256 x 128 pixels, beside the network alone (C2D
  of three depths, one thread) and decoding alone (Pillow, one thread). Variants take turns; times are the best of
  some rounds, and the ratio is that of embed to the slower of the two. It needs two free cores;
- throughput: wall and CPU time of `embed` without workers and with two, and the time of the network alone;
- memory: the highest resident memory of the whole command, by the number of tracklets; it grows by
  the list of frames;
- sharing: wall time of a command, and of two processes that share its work, without that of few tracklets. It needs
  two free cores;
- kills: a command that is killed with SIGKILL at a random moment after each part but the last, and started again
  until it ends, must write the same bytes as a command that is not killed.

But for the first, a tracklet has two frames: hard links to one random JPEG image of 32 x 16 pixels. The network is
the smallest (c2d_resnet8, random weights, one thread).

The goals: embed takes at most 1.1 times as long as the slower of network and decoding; two workers are not slower
than none (5 % for the noise of a shared machine); memory grows by at most 5 MiB for 1000 tracklets; two
processes are 1.9 times as fast; there were kills, and every file is the same. A quick run does not judge the first
and the last but one. Linux only. Exits 1 if a goal is missed.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from strfnet import create_model
from strfnet.data.frames import read_clip
from strfnet.data.readers.folder import read_folder
from strfnet.data.tracklet import Tracklet
from strfnet.inference.embedding import embed
from strfnet.inference.shards import SIZE
from strfnet.system.allocation import keep_freed_memory

HEIGHT, WIDTH, FRAMES = 32, 16, 2
SLOWER_GOAL, GROWTH_GOAL = 1.05, 5.0  # times; MiB for 1000 tracklets
PIPELINE_GOAL, SHARING_GOAL = 1.1, 1.9
DEPTHS = {"resnet8": 64, "resnet18": 24, "resnet50": 8}  # with tracklets that take some seconds


def draw(root: Path, tracklets: int) -> Path:
    """A folder of tracklets of two frames; 1000 have files of their own, the others are links to them."""
    random_numbers = np.random.default_rng(0)
    for number in range(tracklets):
        folder = root / f"person{number // 20:05d}" / f"camera{number % 4}" / f"{number:06d}"
        folder.mkdir(parents=True)
        for frame in range(FRAMES):
            file = folder / f"{frame}.jpg"
            if number < 1000:
                pixels = random_numbers.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
            else:
                twin = number % 1000
                os.link(root / f"person{twin // 20:05d}" / f"camera{twin % 4}" / f"{twin:06d}" / file.name, file)
    return root


def command(data: Path, out: Path, processes: int = 1, workers: int = 1) -> list[str]:
    shown = ["--clips", f"evenly:{FRAMES}", "--height", str(HEIGHT), "--width", str(WIDTH), "--batch", "32"]
    asked = ["--model", "c2d_resnet8", "--device", "cpu", "--data", str(data), "--out", str(out)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    started = [sys.executable, *(launcher if processes > 1 else []), "-m", "strfnet.cli", "embed"]
    return [*started, *asked, *shown, "--workers", str(workers)]


def run(words: Sequence[str], kill_when: Callable[[], bool] | None = None) -> tuple[bool, float, float, float]:
    """A command in a fresh process: whether it was killed, its wall and CPU seconds, and its highest MiB."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    began = time.monotonic()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ended, status, used = os.wait4(process.pid, os.WNOHANG if kill_when else 0)
    while not ended:
        if kill_when is not None and kill_when():
            os.kill(process.pid, signal.SIGKILL)  # Popen.kill would take the exit status first
            kill_when = None
        time.sleep(0.002)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    code = process.returncode = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the command ended with {code}, wanted 0 or a kill: {' '.join(words)}")
    return code != 0, time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def draw_person(file: Path, seed: int) -> Path:
    """A JPEG file of 256 x 128 pixels, of the size that a frame of MARS has: noise, the stronger the coarser."""
    random_numbers = np.random.default_rng(seed)
    pixels = np.zeros((256, 128, 3))
    for side in (2, 4, 8, 16, 32):
        noise = random_numbers.integers(0, 256, (256 // side, 128 // side, 3), dtype=np.uint8)
        pixels += side * np.asarray(Image.fromarray(noise).resize((128, 256), Image.Resampling.BICUBIC), float) / 62
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return file


def pipeline(room: Path, depth: str, count: int, rounds: int, size: tuple[int, int] = (256, 128)) -> dict[str, float]:
    """Seconds of embed, of the network alone and of decoding alone, for ``count`` tracklets of eight files each."""
    room.mkdir(exist_ok=True)
    files = [draw_person(room / f"{number}.jpg", number) for number in range(8)]
    tracklets = [Tracklet(tuple(files), str(row), 0) for row in range(count)]
    network = create_model(f"c2d_{depth}", num_classes=None, weights=None).eval()
    clips = read_clip(files, range(8), size).expand(4, -1, -1, -1, -1).contiguous()

    def network_alone() -> None:
        with torch.inference_mode():
            for _ in range(count // 4):
                network(clips)

    def decoding_alone() -> None:
        for tracklet in tracklets:
            for file in tracklet.frames:
                with Image.open(file) as image:  # type: ignore[arg-type]
                    image.load()

    calls: dict[str, Callable[[], object]] = {
        "embed": partial(embed, network, tracklets, size=size, batch=4, workers=1),
        "network": network_alone,
        "decoding": decoding_alone,
    }
    seconds: dict[str, float] = {}
    for turn in range(rounds + 1):  # the first warms up
        for name, call in calls.items():
            began = time.monotonic()
            call()
            took = time.monotonic() - began
            seconds[name] = min(took, seconds.get(name, took)) if turn > 1 else took
    return seconds | {"frames": 8.0 * count, "ratio": seconds["embed"] / max(seconds["network"], seconds["decoding"])}


def throughput(data: Path, rounds: int) -> dict[str, Any]:
    """Seconds for all tracklets, the fastest of some rounds in turn, and the share that the network alone takes."""
    tracklets = read_folder(data)
    network = create_model("c2d_resnet8", num_classes=None, weights=None).eval()
    clip = torch.stack([read_clip(item.frames, range(FRAMES), (HEIGHT, WIDTH)) for item in tracklets[:32]])
    seconds: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, workers in (("0 workers", 0), ("2 workers", 2), ("network alone", None)):
            began = time.monotonic(), time.process_time()
            if workers is None:
                with torch.inference_mode():
                    for _ in range(-(-len(tracklets) // 32)):
                        network(clip)
            else:
                embed(network, tracklets, frames=FRAMES, size=(HEIGHT, WIDTH), batch=32, workers=workers)
            seconds.setdefault(name, []).append((time.monotonic() - began[0], time.process_time() - began[1]))
    best = {name: (min(wall for wall, _ in took), min(cpu for _, cpu in took)) for name, took in seconds.items()}
    return {
        name: {
            "tracklets_per_s": len(tracklets) / wall,
            "wall_s": wall,
            "cpu_s": cpu,
            "share_of_network": best["network alone"][0] / wall,
        }
        for name, (wall, cpu) in best.items()
    }


def memory(room: Path, counts: Sequence[int]) -> dict[int, dict[str, float]]:
    """Of one command for each number of tracklets."""
    found = {}
    for count in counts:
        _, wall, cpu, peak = run(command(draw(room / f"memory{count}", count), room / f"memory{count}.out"))
        found[count] = {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak}
    return found


def sharing(room: Path, counts: tuple[int, int], rounds: int) -> dict[str, Any]:
    """Seconds that the tracklets beyond the fewer of two counts take one process, and two that share them."""
    few, many = (draw(room / f"shared{count}", count) for count in counts)
    seconds: dict[int, float] = {}
    files = set()
    for _ in range(rounds):
        for processes in (1, 2):
            took = []
            for data in (few, many):
                out = room / "shared.out"
                took.append(run(command(data, out, processes, workers=0))[1])
                files.add((data.name, hashlib.sha256(out.read_bytes()).hexdigest()))
            more = took[1] - took[0]
            seconds[processes] = min(more, seconds.get(processes, more))
    return {"1 process": seconds[1], "2 processes": seconds[2], "same": len(files) == 2}


def kills(room: Path, tracklets: int, runs: int) -> dict[str, Any]:
    """Commands killed after every part until one ends; how many of the files are those of an unbroken one."""
    data, moments = draw(room / "killed", tracklets), random.Random(0)
    out, folder = room / "embeddings", room / "embeddings.parts"
    run(command(data, out))
    wanted, same, count = hashlib.sha256(out.read_bytes()).digest(), 0, 0

    def parts() -> int:
        return len(list(folder.glob("[0-9]*"))) if folder.is_dir() else 0

    for _ in range(runs):
        out.unlink()
        killed = True
        while killed:
            aim, moment = parts() + 1, 0.0

            def kill_when(aim: int = aim) -> bool:
                nonlocal moment
                if not moment and parts() >= aim:
                    moment = time.monotonic() + moments.uniform(0.0, 0.3)
                return 0 < moment < time.monotonic()

            last = aim >= -(
                -tracklets // SIZE
            )  # a kill after it would mostly find the file written and its parts gone
            killed = run(command(data, out), None if last else kill_when)[0]
            count += killed
        left = [path.name for path in room.iterdir() if path.name.startswith(("embeddings.", ".embeddings"))]
        same += hashlib.sha256(out.read_bytes()).digest() == wanted and not left
    return {"kills": count, "runs": runs, "same": same}


def growth(found: dict[int, dict[str, float]]) -> float:
    """MiB for each 1000 tracklets more, from the fewest to the most."""
    few, many = min(found), max(found)
    return (found[many]["peak_mib"] - found[few]["peak_mib"]) / (many - few) * 1000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--pipeline", action="store_true", help="the table of the pipeline alone")
    parser.add_argument("--tracklets", type=int, metavar="N", help="the most of the memory table (default: 10000)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as the command does
    most = given.tracklets or (3000 if given.quick else 10_000)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        depths = {"resnet8": 16} if given.quick else DEPTHS
        piped = figures["pipeline"] = {
            depth: pipeline(room / depth, depth, count, 2 if given.quick else 3) for depth, count in depths.items()
        }
        if not given.pipeline:
            speed = throughput(draw(room / "speed", 300 if given.quick else 1000), 2 if given.quick else 5)
            figures["throughput"] = speed
            peaks = figures["memory"] = memory(room, sorted({1000, most}))
            shared = figures["sharing"] = sharing(
                room, (256, 1024) if given.quick else (1024, 10_240), 1 if given.quick else 2
            )
            killed = figures["kills"] = kills(room, 1000, 1 if given.quick else 3)

    goals = {}
    print(f"{'pipeline':<16}{'frames/s':>12}{'embed (s)':>10}{'network':>9}{'decoding':>9}{'ratio':>7}")
    for depth, row in piped.items():
        times = f"{row['embed']:>10.2f}{row['network']:>9.2f}{row['decoding']:>9.2f}{row['ratio']:>7.2f}"
        print(f"{depth:<16}{row['frames'] / row['embed']:>12.0f}{times}")
        goal = f"{depth}: embed takes {row['ratio']:.2f} of the slower part (goal: at most {PIPELINE_GOAL})"
        goals[goal] = row["ratio"] <= PIPELINE_GOAL or given.quick
    if not given.pipeline:
        print(f"\n{'throughput':<16}{'tracklets/s':>12}{'wall (s)':>10}{'CPU (s)':>9}{'network':>9}")
        for name, told in speed.items():
            rates = f"{told['tracklets_per_s']:>12.0f}{told['wall_s']:>10.2f}{told['cpu_s']:>9.2f}"
            print(f"{name:<16}{rates}{told['share_of_network']:>9.0%}")
        print(f"\n{'memory':<16}{'peak (MiB)':>12}{'wall (s)':>10}{'CPU (s)':>9}")
        for count, told in peaks.items():
            print(f"{count:<16}{told['peak_mib']:>12.0f}{told['wall_s']:>10.1f}{told['cpu_s']:>9.1f}")
        slower = speed["2 workers"]["wall_s"] / speed["0 workers"]["wall_s"]
        print(f"\n{'sharing':<16}" + "".join(f"{f'{name} (s)':>18}" for name in list(shared)[:2]))
        print(f"{'':16}{shared['1 process']:>18.2f}{shared['2 processes']:>18.2f}")
        faster = shared["1 process"] / shared["2 processes"]
        goals |= {
            f"two processes are {faster:.2f} times as fast (goal: at least {SHARING_GOAL}, the same file)": (
                shared["same"] and (given.quick or faster >= SHARING_GOAL)
            ),
            f"two workers take {slower:.2f} of the time of none (goal: at most {SLOWER_GOAL})": slower <= SLOWER_GOAL,
            f"{growth(peaks):.1f} MiB for 1000 tracklets (goal: at most {GROWTH_GOAL})": growth(peaks) <= GROWTH_GOAL,
            f"{killed['same']} of {killed['runs']} files the same after {killed['kills']} kills (goal: all)": (
                killed["same"] == killed["runs"] <= killed["kills"]
            ),
        }
    print()
    for goal, reached in goals.items():
        print(goal + ("" if reached else "  <- missed"))
    if given.json is not None:
        figures["reached"] = all(goals.values())
        given.json.write_text(json.dumps(figures, indent=1))
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
