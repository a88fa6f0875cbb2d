"""What strfnet does on one CUDA GPU: whether it is right, which kernels run, and at what speed and memory.

    python benchmarks/gpu_check.py --json docs/data/gpu.json   # about ten minutes
    python benchmarks/gpu_check.py --only correctness
    python benchmarks/gpu_check.py --dry                       # tiny, on the CPU: shows that the code runs

The JSON has the name of the card and an entry for each section. It is written after each section; a section that
fails has its error there, and the others go on. Exits 1 if a network differs from the CPU by more than 1e-4 with TF32
off, or a section failed. What --dry measures means nothing.
"""

import argparse
import copy
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import Settings, awake, normal
from cuda_cases import BLOCKS, FORMATS, WAYS, called, kernels, longest
from cuda_training import repeated, tracklet, training_step, waits
from interleaved import Call, difference, in_turn, peak_mib
from restatements import restate
from roof import best, probes
from torch import nn
from torch.nn.parallel import replicate

import strfnet
from strfnet.deployment import allow_tf32, optimize
from strfnet.inference import embed
from strfnet.layers import choose_attention, set_attention
from strfnet.losses import nvan_loss, strf_loss

MAIN = ("p3dc_{}", "strf_p3dc_{}", "nvan_{}", "ste_nvan_{}")
EXACT = 1e-4  # of the largest value, in float32 without TF32


@dataclass(frozen=True)
class Check:
    """How large the checks are, and on which device."""

    settings: Settings
    batches: tuple[int, ...] = (1, 32)
    lengths: tuple[int, ...] = (8, 16, 32, 64)
    blocks: tuple[str, ...] = tuple(BLOCKS)

    @property
    def device(self) -> str:
        return self.settings.device

    @property
    def names(self) -> list[str]:
        return [form.format(self.settings.depth) for form in MAIN]


FULL = Check(Settings(device="cuda", rounds=5))
DRY = Check(Settings("resnet8", frames=4, frame=(128, 32), rounds=1), (1,), (2, 4), ("layer3",))


def machine(check: Check) -> dict[str, Any]:
    """The card, the versions, and PyTorch's flags for TF32."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None}
    flags = {"convolutions": torch.backends.cudnn.allow_tf32, "products": torch.backends.cuda.matmul.allow_tf32}
    if check.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "capability": torch.cuda.get_device_capability()}
        found |= {"GiB": properties.total_memory / 2**30, "cudnn": torch.backends.cudnn.version()}
    return found | {"TF32": flags}


def correctness(check: Check) -> dict[str, Any]:
    """The largest difference of every network from the CPU, by format, and of the deployed network."""
    depth, shape = check.settings.depth, check.settings.clip_shape(2)
    on_cpu = Settings(depth, device="cpu")
    found: dict[str, Any] = {}
    for name in (name for name in strfnet.list_models() if name.endswith(depth) or f"{depth}_" in name):
        network, clip = awake(name, on_cpu), normal(on_cpu, *shape)
        with torch.inference_mode():
            expected = network(clip).embedding
            row = found[name] = {}
            for number, dtype in FORMATS.items():
                there = copy.deepcopy(network).to(check.device, dtype)
                choose_attention(there)
                output = called(there, clip.to(check.device, dtype), number).embedding
                row[number] = difference(output, expected)
            if check.device == "cuda":  # as nn.DataParallel calls it, whose replicas have no parameters
                (replica,) = replicate(network.to(check.device), [0], detach=True)
                row["replica"] = difference(called(replica, clip.to(check.device), "float32").embedding, expected)
        if name in check.names:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                deployed = optimize(network.to(check.device), shape, compiled=False)
            row["optimize"] = [str(trial) for trial in deployed.passes]
            row["warned"] = [str(line.message) for line in caught if "slower" not in str(line.message)]
    wrong = [name for name, row in found.items() if not max(row["float32"], row.get("replica", 0)) <= EXACT]
    return {"wrong": wrong, "differences": found}


def attention(check: Check) -> dict[str, Any]:
    """By place and format: the form that is chosen, and of each form the longest kernel and the milliseconds."""
    found: dict[str, Any] = {}
    for place in check.blocks:
        channels, h, w = BLOCKS[place]
        for number, dtype in FORMATS.items():
            block = strfnet.NonLocalBlock(channels).to(check.device, dtype).eval()
            choose_attention(block)
            row = found[f"{place}, {number}"] = {"chosen": block.attention_form}
            clip = normal(check.settings, check.batches[-1], channels, check.settings.frames, h, w).to(dtype)
            for form in ("fused", "chunked"):
                set_attention(block, form)
                call = partial(called, block, clip, number)
                with torch.inference_mode():
                    row[form] = {"kernel": longest(kernels(call, check.device)), "ms": milliseconds(check, call)}
    return found


def memory(check: Check) -> dict[str, Any]:
    """MiB of one block as clips grow, of inference and of a training step, by form of attention."""
    channels, h, w = BLOCKS[check.blocks[0]]
    found: dict[str, Any] = {}
    for form in ("fused", "chunked"):
        block = strfnet.NonLocalBlock(channels, attention=form).to(check.device)
        for t in check.lengths:
            clip = normal(check.settings, 1, channels, t, h, w)
            with torch.inference_mode():
                inference = peak(check, partial(block.eval(), clip))
            training = peak(check, partial(summed_backward, block.train(), clip))
            found[f"{form}, T = {t}"] = {"inference": inference, "training": training}
            block.zero_grad()
    return found


def price(check: Check) -> dict[str, Any]:
    """How many times as long P3D-C takes with STRF, forward, and forward and backward; eager and compiled."""
    found: dict[str, Any] = {}
    host, priced = (awake(name, check.settings) for name in check.names[:2])
    ways = ("eager", "compiled") if check.device == "cuda" else ("eager",)
    for batch in check.batches:
        clip = normal(check.settings, *check.settings.clip_shape(batch))
        for way in ways:
            calls = {name: WAYS[way](network) for name, network in (("host", host), ("with STRF", priced))}
            for kind, call in (("forward", forward), ("forward and backward", forward_and_backward)):
                timings = in_turn(
                    {name: partial(call, each, clip) for name, each in calls.items()},
                    rounds=check.settings.rounds,
                    device=check.device,
                )
                found[f"batch {batch}, {way}, {kind}"] = timings.ratio("with STRF", "host").median
    return found


def roof(check: Check) -> dict[str, Any]:
    """The share of the fastest probe that each network and its published computation keep busy, by format."""
    found: dict[str, Any] = {}
    size = {} if check.device == "cuda" else {"channels": 8}
    for number, dtype in FORMATS.items():
        probed = probes(device=check.device, dtype=dtype, **size)
        for name in check.names:
            network = awake(name, check.settings).to(dtype)
            choose_attention(network)
            clip = normal(check.settings, *check.settings.clip_shape(check.batches[-1])).to(dtype)
            networks: dict[str, Any] = {"eager": network}
            if not name.startswith("strf_"):
                networks["published"] = restate(network)
            calls: dict[str, Call] = {key: partial(called, each, clip, number) for key, each in networks.items()}
            calls |= {key: probe.call for key, probe in probed.items()}
            with torch.inference_mode(), allow_tf32(number == "TF32"):
                timings = in_turn(calls, rounds=check.settings.rounds, device=check.device)
            flop, most = 2 * strfnet.profile(network, clip.shape).macs, best(timings, probed)
            row = found[f"{name}, {number}"] = {"roof, TFLOP/s": most / 1e12}
            for way in networks:
                row[way] = {"ms": 1e3 * timings.of(way).median, "share": flop / timings.of(way).median / most}
    return found


def syncs(check: Check) -> dict[str, Any]:
    """Lines at which the host waits for the device in a training step: loss, backward and optimizer."""
    found: dict[str, Any] = {}
    for name in check.names:
        network = strfnet.create_model(name, num_classes=4).to(check.device).train()
        choose_attention(network, training=True)
        objective = nvan_loss() if "nvan" in name else strf_loss()
        optimizer = torch.optim.AdamW(network.parameters(), fused=check.device == "cuda")
        clips = normal(check.settings, *check.settings.clip_shape(8))
        labels = torch.arange(8, device=check.device) // 2

        step = partial(training_step, network, objective, optimizer, clips, labels)
        step()
        found[name] = waits(check.device, step)
    return found


def training(check: Check) -> dict[str, Any]:
    """By network and recipe: whether a run of `train` repeats bit for bit, and where the host waits in it."""
    recipes: dict[str, dict[str, Any]] = {"fp32": {}, "bf16": {"precision": "bf16"}}
    recipes |= {"compiled": {"compile": True}} if check.device == "cuda" else {}
    return {
        f"{name}, {recipe}": repeated(check.settings, name, changes)
        for name in check.names
        for recipe, changes in recipes.items()
    }


def feeding(check: Check) -> dict[str, Any]:
    """The speed of `embed` from uint8 frames in memory, as a share of that of the network alone, in bfloat16."""
    found: dict[str, Any] = {}
    batch, shape = check.batches[-1], check.settings.clip_shape(check.batches[-1])
    clips = [tracklet(check.settings, identity) for identity in range(4 * batch)]
    for name in check.names:
        network = awake(name, check.settings).to(torch.bfloat16)
        choose_attention(network)
        clip = normal(check.settings, *shape).bfloat16()

        def alone(network: nn.Module = network, clip: torch.Tensor = clip) -> None:
            with torch.inference_mode():
                for _ in range(4):
                    network(clip)

        options: dict[str, Any] = {"frames": shape[2], "size": shape[3:], "batch": batch, "workers": 2}
        calls: dict[str, Call] = {"alone": alone, "embed": partial(embed, network, clips, **options)}
        timings = in_turn(calls, rounds=check.settings.rounds, device=check.device)
        found[name] = timings.ratio("alone", "embed").median
    return found


def deployed(check: Check) -> dict[str, Any]:
    """What `optimize` makes in bfloat16: form and error; how many times as long published code with TF32 takes."""
    found: dict[str, Any] = {}
    shape = check.settings.clip_shape(check.batches[-1])
    clip = normal(check.settings, *shape)
    for name in (name for name in check.names if not name.startswith("strf_")):
        network = awake(name, check.settings)
        published = restate(network)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fast = optimize(network, shape, dtype=torch.bfloat16, compiled=check.device == "cuda")
        with torch.inference_mode():
            calls: dict[str, Call] = {
                "published": partial(called, published, clip, "TF32"),
                "deployed": partial(fast, clip.bfloat16()),
            }
            timings = in_turn(calls, rounds=check.settings.rounds, device=check.device)
        ratio = timings.ratio("published", "deployed").median
        found[name] = {"form": fast.form, "error": fast.error, "published takes": ratio}
    return found


def forward(network: Any, clip: torch.Tensor) -> Any:
    with torch.no_grad():
        return network(clip)


def forward_and_backward(network: Any, clip: torch.Tensor) -> None:
    network(clip).feature.square().sum().backward()


def summed_backward(layer: nn.Module, clip: torch.Tensor) -> None:
    layer(clip).sum().backward()


def milliseconds(check: Check, call: Callable[[], Any]) -> float:
    return 1e3 * in_turn({"": call}, rounds=check.settings.rounds, device=check.device).of("").median


def peak(check: Check, call: Callable[[], Any]) -> float | None:
    if check.device == "cuda":
        return peak_mib(call)
    call()
    return None


SECTIONS = (machine, correctness, attention, memory, price, roof, syncs, training, feeding, deployed)


def run(check: Check, only: list[str], put: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The report of all sections, or of some; ``put`` stores it after each."""
    report: dict[str, Any] = {"dry": check.device != "cuda", "settings": str(check.settings), "seconds": {}}
    for section in SECTIONS:
        if only and section.__name__ not in only:
            continue
        began = time.monotonic()
        try:
            report[section.__name__] = section(check)
        except Exception as error:  # the other sections go on
            report[section.__name__] = {"failed": f"{type(error).__name__}: {error}"}
        report["seconds"][section.__name__] = time.monotonic() - began
        put(report)
        print(f"{section.__name__}: {report['seconds'][section.__name__]:.1f} s", file=sys.stderr, flush=True)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--only", action="append", default=[], choices=[section.__name__ for section in SECTIONS])
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the report")
    given = parser.parse_args()
    if not given.dry and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here; --dry runs the same code on the CPU")

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic training needs it from the start

    def put(report: dict[str, Any]) -> None:
        if given.json:
            given.json.write_text(json.dumps(report, indent=1) + "\n")

    report = run(DRY if given.dry else FULL, given.only, put)
    print(json.dumps(report, indent=1))
    failed = any("failed" in report[section.__name__] for section in SECTIONS if section.__name__ in report)
    return int(failed or bool(report.get("correctness", {}).get("wrong")))


if __name__ == "__main__":
    sys.exit(main())
