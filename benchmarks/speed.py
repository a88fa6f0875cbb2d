"""Speed of the networks beside the published code and relative to the machine's roof, and their memory.

    python benchmarks/speed.py                                 # eleven minutes on two cores
    python benchmarks/speed.py --all                           # also the cases that make a run long: an hour or two
    python benchmarks/speed.py --json speed.json --plot speed.png
    python benchmarks/speed.py --quick                         # 90 seconds: outputs are checked, speed is not
    python benchmarks/speed.py --only "batch 4" --jobs 1       # cases whose name contains this
    python benchmarks/speed.py --peers ../STE-NVAN             # also the published code, with the same weights
    python benchmarks/speed.py --from docs/data/speed.json --page docs/performance.md

Every case runs in its own process on one thread, two at a time; some run alone, and some of ``--all`` on all threads.
Variants take turns: the published computation as restated in restatements.py, our eager network, the deployed one
(`strfnet.optimize`), OpenVINO and ONNX Runtime with the same network beside `optimize(backend="auto")`, and the
probes of the roof. There are three to nine rounds, until ratios are known to 1.5 % or 20 seconds have passed. Outputs
are compared before anything is timed. Times are process CPU time, on all threads those of the clock, and on a GPU
(`--device cuda`) those between device events. Speed in bfloat16 is not judged where the processor emulates it.

One row is printed for each kind of figure, the worst of them by its goal; `--full` prints all. With `--json` all are
stored, each case as soon as it is done, and cases measured again replace those of a stored run. Only with ``--all``:
networks other than P3D-C, NVAN, STE-NVAN and STRF on P3D-C; batch 4, except P3D-C's; batch 8; all threads; STRF's
cost at other lengths than 8 frames. Exits 1 if a goal is missed.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import memory
import torch
from blocks import BATCHED, FORMS, GROWTH, block, growth
from cases import NETWORKS, QUICK, TRAINED, Settings, features, has_bfloat16
from figures import Figure, dumped, figures_of, markdown, minutes, put, summary, table
from networks import DEPLOYED, EAGER, PRICED, RAN, deployed, eager, one_more_frame, price
from steps import training

LATEST = 75  # seconds after which a quick run begins no further case
LONGEST = ("deployed", "training", "memory", "growth of nvan", "one more frame", "STRF, T = 8, batch 1", "batch 8")


@dataclass(frozen=True)
class Case:
    """What measures a case, on how many threads; whether it runs without ``--all``; and whether it runs alone.

    The block runs alone, because its times depend on the bandwidth of memory, which processes share.
    """

    measure: Callable[[], list[Figure]]
    threads: int = 1
    usual: bool = True
    alone: bool = False


def cases(settings: Settings, peers: Path | None = None) -> dict[str, Case]:
    """Every case by name, in the order of the table; if the run is quick, some of those whose answers are judged."""

    def name(form: str) -> str:
        return form.format(settings.depth)

    names, on_cpu = NETWORKS if settings.judged else TRAINED, settings.device == "cpu"
    named = {}
    for what, measure in {"batch 1": eager, "deployed": deployed}.items():
        for form in names:
            usual = form in TRAINED or not on_cpu
            named[f"{name(form)}, {what}"] = Case(partial(measure, form, 1, settings), usual=usual)
    if settings.judged:
        for form in EAGER[4]:
            named[f"{name(form)}, batch 4"] = Case(partial(eager, form, 4, settings), usual=form == PRICED)
        for form in DEPLOYED[4]:
            only = partial(deployed, form, 4, settings, (torch.float32,))
            named[f"{name(form)}, deployed, batch 4"] = Case(only, usual=False)
        for form in RAN if on_cpu else ():
            named |= runtimes(form, settings)
        for frames, batch in ((t, b) for b in (1, 8) for t in (4, 8, 16)):
            measure = partial(price, batch, replace(settings, frames=frames))
            named[f"STRF, T = {frames}, batch {batch}"] = Case(measure, usual=(frames, batch) == (8, 1))
        if on_cpu:
            named["one more frame"] = Case(partial(one_more_frame, settings))
    for form in FORMS:
        named[form] = Case(partial(block, form, settings), usual=form != BATCHED, alone=True)
    for form in TRAINED:
        named[f"{name(form)}, training"] = Case(partial(training, form, settings))
    if settings.judged:
        named |= {f"growth of {subject}": Case(partial(growth, subject, settings)) for subject in GROWTH}
    if not on_cpu:
        import cuda_cases

        named |= {case: Case(measure) for case, measure in cuda_cases.cases(settings).items()}
    elif settings.judged:
        named["memory"] = Case(memory.figures)
    if peers is not None:
        from peers import compared, found

        for form in found(peers):
            named[f"{name(form)}, peer"] = Case(partial(compared, peers, form, settings))
    return named


def runtimes(form: str, settings: Settings) -> dict[str, Case]:
    """A network beside other runtimes, at batch 1 and 8, on one thread and on all."""
    named, cores = {}, os.cpu_count() or 1
    for batch, threads in ((1, 1), (8, 1), (1, cores), (8, cores)):
        title = f"{form.format(settings.depth)}, deployed" + f", batch {batch}" * (batch > 1)
        measure = partial(deployed, form, batch, replace(settings, threads=threads))
        usual = batch == threads == 1
        named[title + ", all threads" * (threads > 1)] = Case(measure, threads, usual=usual, alone=threads > 1)
    return named


def run_one(name: str, settings: Settings, peers: Path | None) -> list[Figure]:
    """A case in this process, from now on silent, without TF32."""
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
    case = cases(settings, peers)[name]
    torch.set_num_threads(case.threads)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return case.measure()


def run_apart(name: str, settings: Settings, peers: Path | None = None, latest: float = math.inf) -> dict[str, Any]:
    """A case in a process of its own, forked from one that has only imported what it needs.

    Returns its figures as plain values, and the seconds that it took; no figures if the clock is past ``latest``.
    Raises: RuntimeError if it fails.
    """
    began = time.monotonic()
    if began > latest:
        print(f"{name}: left out for want of time", file=sys.stderr)
        return {"seconds": 0.0, "figures": []}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["speed", "torchvision", "torch._inductor.compile_fx"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            figures = pool.submit(run_one, name, settings, peers).result()
    except Exception as error:
        raise RuntimeError(f"the case {name!r} failed: {error!r}") from error
    print(f"{name}: done", file=sys.stderr)
    return {"seconds": time.monotonic() - began, "figures": dumped(figures)}


def begun(file: Path | None, told: dict[str, Any]) -> dict[str, Any]:
    """The record of a run: that in ``file``, if it was made on the same machine in the same way, else a new one."""
    if file is not None and file.exists():
        record: dict[str, Any] = json.loads(file.read_text())
        if {name: record.get(name) for name in told} == told:
            return record
    return {**told, "cases": {}}


def machine(device: str) -> dict[str, Any]:
    """What the figures hold for."""
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = f"{models[0].partition(':')[2].strip()}, {torch.backends.cpu.get_cpu_capability()}"
    return {"name": name, "features": features(), "torch": torch.__version__, "threads": 1, "cores": os.cpu_count()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small clips, two rounds; speed is shown, not judged")
    parser.add_argument("--all", action="store_true", help="also the cases that make a run long")
    parser.add_argument("--only", action="append", metavar="PART", help="cases with this in their name")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="cases at a time")
    parser.add_argument("--full", action="store_true", help="print every figure, not the worst of each kind")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--peers", type=Path, metavar="DIR", help="a checkout of STE-NVAN or AP3D, timed too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG: growth with T, networks under the roof")
    parser.add_argument("--from", type=Path, dest="stored", metavar="FILE", help="show a stored run; measure nothing")
    parser.add_argument("--page", type=Path, metavar="FILE", help="put the table into a page")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA GPU here")
    if given.stored:
        record = json.loads(given.stored.read_text())
    else:
        settings = replace(QUICK if given.quick else Settings(), device=given.device)
        try:
            named = cases(settings, given.peers)
        except ValueError as error:
            parser.error(str(error))
        if given.only:
            chosen = [name for name in named if any(part in name for part in given.only)]
        else:
            chosen = [name for name, case in named.items() if case.usual or given.all]
        if not chosen:
            parser.error(f"--only {' '.join(given.only)} is in none of: {'; '.join(named)}")
        latest = time.monotonic() + LATEST if given.quick else math.inf
        apart = partial(run_apart, settings=settings, peers=given.peers, latest=latest)
        emulated = given.device == "cpu" and not has_bfloat16()
        judged = "no bfloat16: emulated, so its speed is not judged" if emulated else "bfloat16"
        print(f"processor: {' '.join(features()) or 'unknown'}; {judged}", flush=True)
        record = begun(given.json, {"machine": machine(given.device), "settings": str(settings), "jobs": given.jobs})
        together, alone = ([name for name in chosen if named[name].alone == by_itself] for by_itself in (False, True))
        together.sort(key=lambda name: not name.endswith(LONGEST))  # the longest first, or a core waits for them
        for group, jobs in ((together, 1 if given.device == "cuda" else given.jobs), (alone, 1)):
            with ThreadPoolExecutor(jobs) as pool:
                for name, done in zip(group, pool.map(apart, group), strict=True):
                    record["cases"][name] = done
                    record["cases"] = {case: record["cases"][case] for case in named if case in record["cases"]}
                    if given.json:
                        given.json.write_text(json.dumps(record, indent=1) + "\n")
    if given.plot:
        from plots import draw

        draw(record, given.plot)
    if given.page:
        put(markdown(record), given.page)
    figures = figures_of(record)
    print(f"{record['machine']['name']}, PyTorch {record['machine']['torch']}, one thread; {record['settings']}")
    print(f"{record['jobs']} case(s) at a time, {minutes(record):.1f} minutes of all cases together")
    if given.quick:
        print("quick: smaller clips and fewer rounds and networks; answers are judged, speed and memory are not")
    print(table(figures) if given.full or given.only else summary(figures))
    return 0 if all(figure.reached is not False for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
