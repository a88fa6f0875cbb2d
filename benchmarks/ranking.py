"""Ranking a gallery of MARS' size against two rules that sort indices: time in turns, memory in a fresh process.

    python benchmarks/ranking.py             # about three minutes
    python benchmarks/ranking.py --quick     # small sizes; only the metrics are compared
    python benchmarks/ranking.py --measure 10000 1000000 128 float32   # one evaluation of another size, as JSON

The rules are written from their definition: torchreid's in Python, query by query with a list of quotients of
NumPy's numbers, and the same one in C behind NumPy's argsort, as its compiled form has it, where a C compiler is
found. All get one matrix of distances and
take turns in one process on one thread; what counts is process CPU time. Then whole evaluations of embeddings,
distances included. Linux only. Exits 1 if the figures differ or a goal is missed.
"""

import argparse
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from strfnet.evaluation.ranking import rank, rank_embeddings

PYTHON_GOAL, COMPILED_GOAL = 50.0, 2.5  # times as fast
MARS_GOAL, LARGE_GOAL = 60.0, 1536.0  # MiB: above the features, and of the whole process

IN_C = r"""
#include <stdint.h>
/* order: gallery rows of each query, nearest first. Adds to cmc (of g), returns the sum of AP and the count. */
double walk(const int64_t *order, const int64_t *q_id, const int64_t *q_cam, const int64_t *g_id,
            const int64_t *g_cam, int64_t q, int64_t g, double *cmc, int64_t *count)
{
    double total = 0;
    for (int64_t i = 0; i < q; i++) {
        int64_t place = 0, hits = 0, first = -1;
        double sum = 0;
        for (int64_t k = 0; k < g; k++) {
            int64_t j = order[i * g + k];
            if (g_id[j] == q_id[i]) {
                if (g_cam[j] == q_cam[i]) continue;
                hits++;
                sum += (double)hits / (double)(place + 1);
                if (first < 0) first = place;
            }
            place++;
        }
        if (hits) { total += sum / hits; (*count)++; cmc[first] += 1; }
    }
    return total;
}
"""

Figures = tuple[float, NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """Distances that are all different in a row, and who was seen by which camera."""

    distances: NDArray[np.float32]
    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    query_cameras: NDArray[np.int64]
    gallery_cameras: NDArray[np.int64]


def draw_problem(queries: int, gallery: int) -> Problem:
    """Like the test of MARS: 6 cameras, about 14 tracklets of each identity, and a quarter of distractors."""
    rng = np.random.default_rng(0)
    people = max(2, gallery // 19)
    g_id = np.where(rng.random(gallery) < 0.27, 0, rng.integers(1, people, gallery))
    q_id = rng.permutation(g_id[g_id > 0])[:queries]
    q_cam, g_cam = rng.integers(0, 6, len(q_id)), rng.integers(0, 6, gallery)
    distances = rng.random((len(q_id), gallery), dtype=np.float32)
    distances -= 0.5 * (q_id[:, None] == g_id)
    for row in distances:
        row[np.argsort(row)] = np.arange(gallery, dtype=np.float32) / gallery
    return Problem(distances, q_id, g_id, q_cam, g_cam)


def searched(problem: Problem) -> Figures:
    result = rank(
        problem.distances,
        problem.query.tolist(),
        problem.gallery.tolist(),
        query_cameras=problem.query_cameras.tolist(),
        gallery_cameras=problem.gallery_cameras.tolist(),
    )
    return result.mean_average_precision, result.cmc


def walked_in_python(problem: Problem) -> Figures:
    order = np.argsort(problem.distances, axis=1)
    matches = (problem.gallery[order] == problem.query[:, None]).astype(np.int32)
    curves, precisions = [], []
    for row in range(len(order)):
        ranked = order[row]
        removed = (problem.gallery[ranked] == problem.query[row]) & (
            problem.gallery_cameras[ranked] == problem.query_cameras[row]
        )
        hits = matches[row][~removed]
        if not hits.any():
            continue
        so_far = hits.cumsum()
        curves.append(np.minimum(so_far, 1)[:50])
        precision = np.asarray([count / (place + 1.0) for place, count in enumerate(so_far)])
        precisions.append((precision * hits).sum() / hits.sum())
    return float(np.mean(precisions)), np.mean(curves, axis=0)


def compiled_walk(folder: Path) -> Callable[[Problem], Figures] | None:
    """The rule in C, or None where nothing compiles it."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = folder / "walk.c", folder / "walk.so"
    source.write_text(IN_C)
    subprocess.run([compiler, "-O3", "-shared", "-fPIC", "-o", library, source], check=True)
    walk = ctypes.CDLL(str(library)).walk
    walk.restype = ctypes.c_double

    def pointer(array: NDArray) -> ctypes.c_void_p:
        return ctypes.c_void_p(array.ctypes.data)

    def walked(problem: Problem) -> Figures:
        order = np.argsort(problem.distances, axis=1)
        first, count = np.zeros(order.shape[1]), np.zeros(1, np.int64)
        who = problem.query, problem.query_cameras, problem.gallery, problem.gallery_cameras
        sizes = (ctypes.c_int64(size) for size in order.shape)
        total = walk(pointer(order), *map(pointer, who), *sizes, pointer(first), pointer(count))
        return total / count[0], first.cumsum()[:50] / count[0]

    return walked


def in_turns(rules: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of every rule in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in rules}
    for _ in range(rounds):
        for name, rule in rules.items():
            began = time.process_time()
            rule()
            seconds[name].append(time.process_time() - began)
    return seconds


def resident(field: str) -> float:
    """A field of this process's status, in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def measure(queries: int, gallery: int, width: int, dtype: str) -> dict[str, float]:
    """One evaluation of embeddings: MiB at its peak, CPU seconds. Changes this process: run it in a fresh one."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> torch.Tensor:
        vectors = torch.empty(count, width, dtype=getattr(torch, dtype))
        for rows in range(0, count, 1000):
            vectors[rows : rows + 1000] = torch.randn(*vectors[rows : rows + 1000].shape, generator=generator)
        return vectors

    who = [row // 14 for row in range(gallery)]
    rank_embeddings(drawn(2), drawn(20), [1, 2], [1, 2] * 10)
    asked, searched = drawn(queries), drawn(gallery)
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before, began = resident("VmRSS"), time.process_time()
    rank_embeddings(asked, searched, who[:: max(1, gallery // queries)][:queries], who)
    return {
        "queries": queries,
        "gallery": gallery,
        "width": width,
        "above_mib": resident("VmHWM") - before,
        "whole_mib": resident("VmHWM"),
        "seconds": time.process_time() - began,
    }


def measured_afresh(queries: int, gallery: int, width: int, dtype: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", str(queries), str(gallery), str(width), dtype]
    setting = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "262144", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=setting, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    parser.add_argument("--quick", action="store_true", help="small sizes; speed and memory are not judged")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each rule (default: 3)")
    sizes = ("QUERIES", "GALLERY", "WIDTH", "DTYPE")
    parser.add_argument("--measure", nargs=4, metavar=sizes, help="evaluate such embeddings alone, on one thread")
    given = parser.parse_args()
    if given.measure:
        queries, gallery, width, dtype = given.measure
        print(json.dumps(measure(int(queries), int(gallery), int(width), dtype)))
        return 0

    torch.set_num_threads(1)
    problem = draw_problem(*((100, 1000) if given.quick else (1980, 12180)))
    with tempfile.TemporaryDirectory() as folder:
        rules: dict[str, Callable[[Problem], Figures] | None] = {
            "strfnet": searched,
            "in Python": walked_in_python,
            "in C": compiled_walk(Path(folder)),
        }
        present = {name: rule for name, rule in rules.items() if rule is not None}
        answers = {name: rule(problem) for name, rule in present.items()}
        seconds = in_turns({name: partial(rule, problem) for name, rule in present.items()}, given.rounds)
    mean, cmc = answers["strfnet"]
    agree = all(abs(one - mean) < 1e-9 and np.allclose(curve, cmc, atol=1e-9) for one, curve in answers.values())
    medians = {name: statistics.median(each) for name, each in seconds.items()}
    ratios = {name: median / medians["strfnet"] for name, median in medians.items()}
    width = 64 if given.quick else 2048
    mars = measured_afresh(len(problem.query), len(problem.gallery), width, "float32")
    large = measured_afresh(16 if given.quick else 64, 20_000 if given.quick else 200_000, width, "float16")
    reached = {
        "the figures agree": agree,
        f"in Python at least {PYTHON_GOAL:g} times as long": ratios["in Python"] >= PYTHON_GOAL,
        f"in C at least {COMPILED_GOAL} times as long": ratios.get("in C", COMPILED_GOAL) >= COMPILED_GOAL,
        f"at most {MARS_GOAL:g} MiB above the features": mars["above_mib"] <= MARS_GOAL,
        f"the large gallery in {LARGE_GOAL:g} MiB in all": large["whole_mib"] <= LARGE_GOAL,
    }
    if given.quick:
        reached = {"the figures agree": agree}
    if given.json:
        figures = {"seconds": seconds, "ratios": ratios, "evaluations": [mars, large], "reached": reached}
        print(json.dumps(figures, indent=2))
        return 0 if all(reached.values()) else 1

    queries, gallery = problem.distances.shape
    print(f"{queries} queries, gallery of {gallery}, distances given; {given.rounds} turns, one thread, CPU time")
    print(f"{'rule':12}{'median (ms)':>12}{'least .. most':>20}{'times strfnet':>15}")
    for name in rules:
        if name not in present:
            print(f"{name:12}{'no C compiler was found':>32}")
            continue
        span = f"{1000 * min(seconds[name]):.1f} .. {1000 * max(seconds[name]):.1f}"
        print(f"{name:12}{1000 * medians[name]:12.1f}{span:>20}{ratios[name]:15.2f}")
    print(f"mAP {100 * mean:.4f}, rank 1 {100 * cmc[0]:.4f} in all of them" if agree else "THE FIGURES DIFFER")
    print("\nembeddings ranked, distances formed on the way, each in a fresh process")
    head = f"{'queries':>8}{'gallery':>9}{'width':>7}  {'stored as':10}"
    print(f"{head}{'above (MiB)':>12}{'in all (MiB)':>13}{'CPU (s)':>9}")
    for row, dtype in ((mars, "float32"), (large, "float16")):
        counts = f"{row['queries']:8}{row['gallery']:9}{row['width']:7}  {dtype:10}"
        print(f"{counts}{row['above_mib']:12.1f}{row['whole_mib']:13.1f}{row['seconds']:9.2f}")
    print()
    for goal, kept in reached.items():
        print(f"{'reached' if kept else 'MISSED ':8} {goal}")
    return 0 if all(reached.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
