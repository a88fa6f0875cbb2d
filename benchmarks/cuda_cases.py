"""What the speed benchmark measures on a GPU besides: number formats, compilation, and which kernels attend."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from cases import ERROR, HALF_ERROR, NETWORKS, TRAINED, Settings, awake, normal
from figures import Figure
from interleaved import SHORTEST, difference, peak_mib
from restatements import restate
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from strfnet import NonLocalBlock
from strfnet.deployment import allow_tf32
from strfnet.layers import choose_attention, set_attention

FORMATS = {"float32": torch.float32, "TF32": torch.float32, "bfloat16": torch.bfloat16}
ERRORS = {"float32": ERROR, "TF32": 5e-3, "bfloat16": HALF_ERROR}  # TF32 keeps ten bits of a number
COMPILED_HALF = 3.0  # how many times as long the published computation with TF32 takes


def compiled(network: Any, **options: Any) -> Any:
    """The network compiled apart from others of its class, as one code is compiled eight times at most."""

    def call(clip: Tensor) -> Any:
        return network(clip)

    call.__code__ = call.__code__.replace()
    return torch.compile(call, dynamic=False, **options)


WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda network: network,
    "compiled": compiled,
    "CUDA graphs": partial(compiled, mode="reduce-overhead"),
}
BLOCKS = {"layer2": (512, 32, 16), "layer3": (1024, 16, 8)}  # channels, rows and columns at 256 x 128


def cases(settings: Settings) -> dict[str, Callable[[], list[Figure]]]:
    """The cases by name; in a quick run, only of the networks with a goal, and nothing is compiled."""
    forms, ways = (NETWORKS, tuple(WAYS)) if settings.judged else (TRAINED, ("eager",))
    named: dict[str, Callable[[], list[Figure]]] = {
        f"{form.format(settings.depth)}, formats": partial(formats, form, settings, ways) for form in forms
    }
    return named | {"attention kernels": partial(attention, settings)}


def formats(form: str, settings: Settings, ways: tuple[str, ...] = tuple(WAYS)) -> list[Figure]:
    """One network, batch 4, in every format and way, against the published computation in the same format.

    Compiled bfloat16 also against the published computation with TF32, as which published code runs by default.
    """
    case = f"{form.format(settings.depth)}, formats"
    clip = normal(settings, *settings.clip_shape(4))
    calls: dict[str, Callable[[], Any]] = {}
    for name, dtype in FORMATS.items():
        network = awake(form.format(settings.depth), settings).to(dtype)
        networks = {"published": restate(network)}
        choose_attention(network)
        networks |= {way: WAYS[way](network) for way in ways}
        calls |= {f"{way}, {name}": partial(called, each, clip.to(dtype), name) for way, each in networks.items()}
    with torch.inference_mode():
        answers = {name: call().embedding.clone() for name, call in calls.items()}
        timings = settings.time(calls, shortest=SHORTEST)
    figures = []
    for name in calls:
        way, _, number = name.partition(", ")
        apart = difference(answers[name], answers["published, float32"])
        figures.append(Figure(case, f"{name}: output differs", apart, goal=ERRORS[number], at_most=True))
        if way != "published":
            figures.append(
                Figure.spread(case, f"{name}: published takes", timings.ratio(f"published, {number}", name), "x")
            )
        if name == "compiled, bfloat16":
            ratio = timings.ratio("published, TF32", name)
            goal = settings.judge(COMPILED_HALF)
            figures.append(Figure.spread(case, f"{name}: published, TF32 takes", ratio, "x", goal=goal))
        if settings.device == "cuda":
            with torch.inference_mode():
                figures.append(Figure(case, f"{name}: memory", peak_mib(calls[name]), "MiB"))
    return figures


def attention(settings: Settings) -> list[Figure]:
    """The kernel on which each attention of NVAN spends most time, in the quantity's name; its milliseconds."""
    figures = []
    for place, (channels, h, w) in BLOCKS.items():
        for name, dtype in FORMATS.items():
            block = NonLocalBlock(channels).to(settings.device, dtype).eval()
            choose_attention(block)
            chosen = block.attention_form
            clip = normal(settings, 1, channels, settings.frames, h, w).to(dtype)
            for form in ("fused", "chunked"):
                set_attention(block, form)
                call = partial(called, block, clip, name)
                with torch.inference_mode():
                    kernel = longest(kernels(call, settings.device))
                    timings = settings.time({name: call}, shortest=SHORTEST)
                told = f"{place}, {name}, {form}{' (chosen)' * (form == chosen)}: {kernel}"
                figures.append(Figure("attention kernels", told, 1e3 * timings.of(name).median, "ms"))
    return figures


def kernels(call: Callable[[], Any], device: str) -> dict[str, float]:
    """Microseconds by kernel of what ``call`` runs: kernels on a GPU, on a CPU its operators."""
    activity = ProfilerActivity.CUDA if device == "cuda" else ProfilerActivity.CPU
    call()
    with profile(activities=[activity]) as profiled:
        call()
        if device == "cuda":
            torch.cuda.synchronize()
    field = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    return {event.key: getattr(event, field) for event in profiled.key_averages()}


def longest(times: dict[str, float]) -> str:
    """The attention kernel that takes longest, by its name; of all kernels if none is called so."""
    names = ("attention", "fmha", "flash", "sdp")
    attending = {name: spent for name, spent in times.items() if any(part in name.lower() for part in names)}
    return max(attending or times, key=lambda name: times[name])


def called(network: Callable[[Tensor], Any], clip: Tensor, number: str) -> Any:
    """A call in a format: float32 without TF32, or with it."""
    with allow_tf32(number == "TF32") if number != "bfloat16" else nullcontext():
        return network(clip)
