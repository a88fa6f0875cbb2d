"""Cases of the speed benchmark: whole networks, eager and deployed, and what STRF and one more frame cost."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from cases import ERROR, HALF_ERROR, NETWORKS, TRAINED, Settings, awake, normal
from figures import Figure
from interleaved import Call, Spread, Timings, difference
from restatements import restate
from roof import Probe, best, probes
from streaming import CASE, FRAMES, GOAL, measured
from torch import Tensor, nn

import strfnet

EAGER = {1: dict.fromkeys(NETWORKS, 1.0) | {"nvan_{}": 1.1, "ste_nvan_{}": 1.1}, 4: {"nvan_{}": 1.3, "p3dc_{}": 1.3}}
DEPLOYED = {1: dict.fromkeys(NETWORKS, 1.2) | {"nvan_{}": 1.3, "ste_nvan_{}": 1.4}, 4: {"ste_nvan_{}": 1.9}}
HALF = 2.3  # of a deployed network in bfloat16, beside the published one in float32
SHARE = dict.fromkeys(NETWORKS, 0.85) | {"nvan_{}": 0.76, "ste_nvan_{}": 0.80, "nvan_temporal_{}": 0.80}
HALF_SHARE = {"nvan_{}": 0.80}
RAN = ("p3dc_{}", "nvan_{}", "ste_nvan_{}", "strf_p3dc_{}")  # by other runtimes too
BESIDE = 0.95  # times as long, at least, as the fastest of them takes: as long, up to noise
TYPES = (torch.float32, torch.bfloat16)
PRICED, PRICE = "p3dc_{}", 1.03  # timed with STRF too, and how many times as long that may take


def eager(form: str, batch: int, settings: Settings) -> list[Figure]:
    """A network as it is against the published computation and, at batch 1, the roof."""
    case = f"{form.format(settings.depth)}, batch {batch}"
    network, clip = awake(form.format(settings.depth), settings), normal(settings, *settings.clip_shape(batch))
    published = restate(network)
    probed = probes(device=settings.device) if batch == 1 else {}
    calls: dict[str, Call] = {"published": partial(published, clip), "eager": partial(network, clip)}
    with torch.inference_mode():
        apart = difference(network(clip).embedding, published(clip).embedding)
        timings = settings.time(calls | {name: probe.call for name, probe in probed.items()})
    ratio, goal = timings.ratio("published", "eager"), settings.judge(EAGER[batch].get(form))
    return [
        Figure(case, "eager: output differs", apart, goal=ERROR, at_most=True),
        Figure.spread(case, "eager: published takes", ratio, "x", goal=goal),
        *_of_the_roof(case, dict.fromkeys(("published", "eager")), network, timings, probed, settings),
        *_seconds(case, timings),
    ]


def deployed(form: str, batch: int, settings: Settings, dtypes: tuple[torch.dtype, ...] = TYPES) -> list[Figure]:
    """A network deployed in float32 and bfloat16, against the published one in float32, the roof and other runtimes.

    Where bfloat16 is emulated, only its output is judged, and only of a few networks.
    """
    from strfnet.deployment.fusion import fuse
    from strfnet.deployment.runtimes import OnnxNetwork

    network, exported = awake(form.format(settings.depth), settings), None
    if form in RAN and settings.judged and settings.device == "cpu":
        shape = settings.clip_shape(batch)
        exported = OnnxNetwork(fuse(network, shape), normal(settings, *shape))
    figures = _deployed(form, batch, network, exported, torch.float32, settings)
    if torch.bfloat16 in dtypes and (settings.half is settings or form in TRAINED):
        figures += _deployed(form, batch, network, exported, torch.bfloat16, settings.half)
    return figures


def _deployed(
    form: str, batch: int, network: nn.Module, exported: Any, dtype: torch.dtype, settings: Settings
) -> list[Figure]:
    """A network deployed in one type: compiled by PyTorch, by each runtime, and as ``backend="auto"`` chooses."""
    from strfnet.deployment.optimizer import optimize
    from strfnet.deployment.runtimes import DTYPES, RUNTIMES

    way = "bfloat16" if dtype == torch.bfloat16 else "deployed"
    case = f"{form.format(settings.depth)}, deployed"
    case += f", batch {batch}" * (batch > 1) + ", all threads" * (settings.threads > 1)
    shape, on_one_thread = settings.clip_shape(batch), settings.threads == 1
    clip = normal(settings, *shape)
    beside = exported is not None and settings.judged
    runtimes = {name: exported.open(name, dtype) for name in RUNTIMES if dtype in DTYPES[name]} if beside else {}
    backend: Any = "auto" if runtimes else "inductor"
    chosen = optimize(network, shape, dtype=dtype, compiled=settings.judged, backend=backend)
    ours = {way: _compiled(chosen, clip), "auto": chosen} if chosen.form in runtimes else {way: chosen}
    with_published = form in NETWORKS and on_one_thread and batch in DEPLOYED
    published = {"published": restate(network)} if with_published else {}
    variants: dict[str, Any] = published | ours | runtimes
    probed = {}
    if settings.judged and on_one_thread and batch == 1:
        probed = probes(device=settings.device, dtype=dtype)
    with torch.inference_mode():
        expected = published.get("published", network)(clip).embedding
        apart = {name: difference(each(clip).embedding, expected) for name, each in variants.items()}
        calls: dict[str, Call] = {name: partial(each, clip) for name, each in variants.items()}
        timings = settings.time(calls | {name: probe.call for name, probe in probed.items()})

    figures = [Figure(case, f"{way}: {chosen.form} in {chosen.dtype}; by its own check it differs", chosen.error)]
    for name in (*ours, *runtimes):
        goal = None if name in runtimes else HALF_ERROR if dtype == torch.bfloat16 else ERROR
        quantity = f"{way}: output differs" if name == way else f"{way}, {name}: output differs"
        figures.append(Figure(case, quantity, apart[name], goal=goal, at_most=True))
    if published:
        ratio, goal = timings.ratio("published", way), settings.judge(_goal(form, batch, dtype))
        figures.append(Figure.spread(case, f"{way}: published takes", ratio, "x", goal=goal))
    if runtimes:
        fastest = min(runtimes, key=lambda name: timings.of(name).median)
        ratio, goal = timings.ratio(fastest, list(ours)[-1]), settings.judge(BESIDE)
        figures.append(Figure.spread(case, f"{way}: the fastest runtime takes", ratio, "x", goal=goal))
    goal = (SHARE if dtype == torch.float32 else HALF_SHARE).get(form)
    figures += _of_the_roof(case, {way: goal}, network, timings, probed, settings)
    return figures + _seconds(case, timings, f"{way}, ")


def _goal(form: str, batch: int, dtype: torch.dtype) -> float | None:
    """How many times as long the published computation takes at least."""
    if dtype == torch.float32:
        return DEPLOYED[batch].get(form)
    return HALF if batch == 1 else None


def _compiled(deployed: Any, clip: Tensor) -> Any:
    """A copy of a deployed network that PyTorch compiles, where a runtime was chosen instead."""
    ours = copy.deepcopy(deployed)
    ours.compile_for(clip)
    return ours


def _of_the_roof(
    case: str,
    goals: Mapping[str, float | None],
    network: nn.Module,
    timings: Timings,
    probed: dict[str, Probe],
    settings: Settings,
) -> list[Figure]:
    """Shares of the best probe that computations keep busy; ``goals`` names them."""
    if not probed:
        return []
    flop, roof = 2 * strfnet.profile(network, settings.clip_shape(1)).macs, best(timings, probed)
    figures = [Figure(case, f"{next(iter(goals))}: best probe", roof / 1e9, "GFLOP/s")]
    for name, goal in goals.items():
        taken = timings.of(name)
        share = Spread(*(flop / seconds / roof for seconds in (taken.median, taken.most, taken.least)))
        quantity = f"{name}: share of the roof"
        figures.append(Figure.spread(case, quantity, share, "roof", goal=settings.judge(goal)))
    return figures


def _seconds(case: str, timings: Timings, prefix: str = "") -> list[Figure]:
    return [Figure.spread(case, prefix + name, timings.of(name), "s") for name in timings.seconds]


def price(batch: int, settings: Settings) -> list[Figure]:
    """What STRF adds to a network's time, eager and deployed: hundredths, so there are more rounds."""
    from strfnet.deployment.optimizer import optimize

    name, shape = PRICED.format(settings.depth), settings.clip_shape(batch)
    case, clip = f"STRF, T = {settings.frames}, batch {batch}", normal(settings, *shape)
    networks = {"eager": awake(name, settings), "eager with STRF": awake(f"strf_{name}", settings)}
    for key, network in list(networks.items()):
        networks[key.replace("eager", "deployed")] = optimize(network, shape, compiled=settings.judged)
    with torch.inference_mode():
        calls = {key: partial(networks[key], clip) for key in sorted(networks)}  # what is compared is side by side
        timings = replace(settings, rounds=2 * settings.rounds).time(calls)
    goal, figures = settings.judge(PRICE), []
    for way in ("eager", "deployed"):
        ratio = timings.ratio(f"{way} with STRF", way)
        figures.append(Figure.spread(case, f"{way}: with STRF takes", ratio, "x", goal=goal, at_most=True))
    return figures + _seconds(case, timings)


def one_more_frame(settings: Settings) -> list[Figure]:
    """The clip anew against one more frame of a stream, P3D-C at T = 32, both deployed (see streaming.py)."""
    row = measured(CASE, strfnet.create_model(CASE, num_classes=None), FRAMES, 1, settings.frame, settings.rounds)
    case, ratio = "one more frame", row.ratios["deployed"]
    return [
        Figure(case, "stream: embedding differs", row.apart, goal=ERROR, at_most=True),
        Figure.spread(case, "deployed: the clip anew takes", ratio, "x", goal=settings.judge(GOAL)),
        Figure.spread(case, "eager: the clip anew takes", row.ratios["eager"], "x"),
        Figure(case, "stream: MACs of the clip", row.macs, "share"),
        *(Figure(case, name, seconds, "s") for name, seconds in row.seconds.items()),
    ]
