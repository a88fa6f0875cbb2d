"""What the speed benchmark measures on a GPU besides: number formats, compilation, and which kernels attend."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from cases import ERROR, HALF_ERROR, NETWORKS, Settings, awake, normal
from figures import Figure
from interleaved import difference, in_turn
from restatements import restate
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from strfnet import NonLocalBlock

FORMATS = ("float32", "TF32", "bfloat16")
TF32_ERROR = 5e-3  # TF32 keeps ten bits of a number
WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda network: network,
    "compiled": torch.compile,
    "CUDA graphs": partial(torch.compile, mode="reduce-overhead"),
}
BLOCKS = {"layer2": (512, 32, 16), "layer3": (1024, 16, 8)}  # channels, rows and columns at 256 x 128


def cases(settings: Settings) -> dict[str, Callable[[], list[Figure]]]:
    """The cases by name."""
    named: dict[str, Callable[[], list[Figure]]] = {
        f"{form.format(settings.depth)}, formats": partial(formats, form, settings) for form in NETWORKS
    }
    return named | {"attention kernels": partial(attention, settings)}


def formats(form: str, settings: Settings) -> list[Figure]:
    """One network, batch 4, in every format and way, against the published computation in float32."""
    case = f"{form.format(settings.depth)}, formats"
    network = awake(form.format(settings.depth), settings)
    published, clip = restate(network), normal(settings, *settings.clip_shape(4))
    half = awake(form.format(settings.depth), settings).to(torch.bfloat16)
    calls: dict[str, Callable[[], Any]] = {"published": partial(published, clip)}
    for way, made in WAYS.items():
        whole, halved = made(network), made(half)
        calls[f"{way}, float32"] = partial(whole, clip)
        calls[f"{way}, TF32"] = partial(in_tf32, whole, clip)
        calls[f"{way}, bfloat16"] = partial(halved, clip.to(torch.bfloat16))
    with torch.inference_mode():
        answers = {name: call().embedding.clone() for name, call in calls.items()}
        timings = in_turn(calls, rounds=settings.rounds, device=settings.device)
    bounds = {"float32": ERROR, "TF32": TF32_ERROR, "bfloat16": HALF_ERROR}
    figures = []
    for name in list(calls)[1:]:
        apart, bound = difference(answers[name], answers["published"]), bounds[name.rpartition(", ")[2]]
        figures.append(Figure(case, f"{name}: output differs", apart, goal=bound, at_most=True))
        figures.append(Figure.spread(case, f"{name}: published takes", timings.ratio("published", name), "x"))
    return figures


def attention(settings: Settings) -> list[Figure]:
    """The kernel on which each attention of NVAN spends most time, in the quantity's name; its seconds."""
    figures = []
    for place, (channels, h, w) in BLOCKS.items():
        for name in FORMATS:
            dtype = torch.bfloat16 if name == "bfloat16" else torch.float32
            block = NonLocalBlock(channels).to(settings.device, dtype).eval()
            clip = normal(settings, 1, channels, settings.frames, h, w).to(dtype)
            call = partial(in_tf32 if name == "TF32" else _called, block, clip)
            with torch.inference_mode():
                kernel = longest(kernels(call, settings.device))
                timings = in_turn({name: call}, rounds=settings.rounds, device=settings.device)
            seconds = timings.of(name).median
            figures.append(Figure("attention kernels", f"{place}, {name}: {kernel}", 1e3 * seconds, "ms"))
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


def in_tf32(network: Callable[[Tensor], Any], clip: Tensor) -> Any:
    """A call in which float32 products may be rounded to TF32."""
    with tf32():
        return network(clip)


@contextmanager
def tf32() -> Iterator[None]:
    """Products in TF32, put back afterwards."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = True
    try:
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def _called(network: nn.Module, clip: Tensor) -> Any:
    return network(clip)
