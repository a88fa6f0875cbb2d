"""Cases of the speed benchmark: inference, deployment and a training step of whole networks, and the cost of STRF."""

import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from figures import Figure
from interleaved import Call, Timings, difference, in_turn
from published_names import published
from restatements import restate
from roof import best, probes
from torch import Tensor, nn

import strfnet

NETWORKS = (
    "{}_fpl", "nvan_{}", "nvan_spatial_{}", "nvan_temporal_{}", "ste_nvan_{}",
    "c2d_{}", "i3d_{}", "p3da_{}", "p3db_{}", "p3dc_{}",
)  # fmt: skip
FOUR = {"nvan_{}", "p3dc_{}", "ste_nvan_{}"}  # those with a goal at batch 4
TRAINED = ("p3dc_{}", "nvan_{}", "ste_nvan_{}")

EAGER = {1: dict.fromkeys(NETWORKS, 1.0) | {"nvan_{}": 1.1, "ste_nvan_{}": 1.1}, 4: {"nvan_{}": 1.3, "p3dc_{}": 1.3}}
DEPLOYED = {1: dict.fromkeys(NETWORKS, 1.2) | {"nvan_{}": 1.3, "ste_nvan_{}": 1.4}, 4: {"ste_nvan_{}": 1.9}}
SHARE = dict.fromkeys(NETWORKS, 0.85) | {"nvan_{}": 0.76, "ste_nvan_{}": 0.80, "nvan_temporal_{}": 0.80}
STEP = {"p3dc_{}": (1.1, 2.2), "nvan_{}": (1.1, 1.8), "ste_nvan_{}": (1.2, 2.4)}
HALF = 2.3
RAN = ("p3dc_{}", "nvan_{}", "ste_nvan_{}", "strf_p3dc_{}")  # by other runtimes too
BESIDE = 0.95  # times as long, at least, as the fastest of them takes: as long, up to noise
PRICED, PRICE = "p3dc_{}", 1.03  # timed with STRF too, at batch 1, and how many times as long that may take
ERROR, HALF_ERROR, GRADIENT_ERROR = 1e-5, 1.5e-2, 1e-8


@dataclass(frozen=True)
class Settings:
    """How large and how often: ``frame`` is (h, w); speed is judged only at the papers' own size."""

    depth: str = "resnet50"
    frames: int = 8
    frame: tuple[int, int] = (256, 128)
    rounds: int = 5
    device: str = "cpu"
    judged: bool = True

    def clip_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, 3, self.frames, *self.frame)

    @property
    def half(self) -> "Settings":
        """For bfloat16: these settings, or one round of a small clip, not judged, where a processor emulates it.

        Maps are at least two pixels wide: oneDNN's bfloat16 convolutions are wrong on narrower ones, with AMX.
        """
        if self.device != "cpu" or has_bfloat16():
            return self
        return replace(self, frames=4, frame=(256, 32), rounds=1, judged=False)

    def judge(self, goal: float | None) -> float | None:
        """A goal of speed or memory, where one is judged."""
        return goal if self.judged else None

    def __str__(self) -> str:
        clip = "x".join(map(str, (self.frames, *self.frame)))
        return f"{self.depth}, clips {clip}, median of {self.rounds} rounds on {self.device}"


FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def features() -> list[str]:
    """Those of `FEATURES` that this processor has; Linux only."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return [feature for feature in FEATURES if feature in words]


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; Linux only, elsewhere taken to be so."""
    found = features()
    return not found or any(feature.endswith("bf16") for feature in found)


QUICK = Settings(frames=4, frame=(256, 32), rounds=2, judged=False)


def awake(name: str, settings: Settings) -> Any:
    """A network in evaluation, without a classifier, whose every part matters to its answer.

    Norms get random weights, biases and statistics, those at the end of a block smaller weights, as trained
    networks have them: activations stay of order one, and so do the logits of attention. Kernels in time are
    made random too.
    """
    torch.manual_seed(0)
    network = strfnet.create_model(name, num_classes=None)
    with torch.no_grad():
        for path, module in network.named_modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                least, most = (0.25, 0.75) if path.endswith(("bn3", "after.0.norm")) else (0.5, 1.5)
                for key, value in module.state_dict().items():
                    if key == "weight":
                        value.uniform_(least, most)
                    elif key == "running_var":
                        value.uniform_(0.5, 1.5)
                    elif value.is_floating_point():
                        value.normal_(std=0.1)
            if isinstance(module, strfnet.STRF):
                module.expand.weight.normal_(std=0.05)
            temporal = getattr(module, "temporal", None)
            if isinstance(temporal, nn.Conv2d):
                noise = torch.randn_like(temporal.weight)
                temporal.weight.add_(noise, alpha=0.5 * temporal.weight[0].numel() ** -0.5)
    return network.to(settings.device).eval()


def normal(settings: Settings, *shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(settings.device)


def inference(form: str, batch: int, settings: Settings) -> list[Figure]:
    """One network, eager and deployed, against the published computation and, at batch 1, the roof; bfloat16 then.

    Of P3D-C also what STRF adds to it.
    """
    from strfnet.deployment.optimizer import optimize

    case = f"{form.format(settings.depth)}, batch {batch}"
    network = awake(form.format(settings.depth), settings)
    shape = settings.clip_shape(batch)
    clip = normal(settings, *shape)
    networks = {"published": restate(network), "eager": network}
    figures = []
    if form in DEPLOYED[batch]:
        deployed = networks["deployed"] = optimize(network, shape, compiled=settings.judged)
        told = f"deployed: {deployed.form}; by its own check it differs"
        figures.append(Figure(case, told, deployed.error))
    probed = probes(device=settings.device) if batch == 1 else {}
    with torch.inference_mode():
        answers = {name: each(clip).embedding for name, each in networks.items()}
        calls: dict[str, Call] = {name: partial(each, clip) for name, each in networks.items()}
        calls |= {name: probe.call for name, probe in probed.items()}
        timings = in_turn(calls, rounds=settings.rounds, device=settings.device, shortest=0)

    for name, goals in (("eager", EAGER[batch]), ("deployed", DEPLOYED[batch])):
        if name not in networks:
            continue
        apart = difference(answers[name], answers["published"])
        figures.append(Figure(case, f"{name}: output differs", apart, goal=ERROR, at_most=True))
        ratio, goal = timings.ratio("published", name), settings.judge(goals.get(form))
        figures.append(Figure.spread(case, f"{name}: published takes", ratio, "x", goal=goal))
    if form == PRICED and batch == 1 and settings.judged:
        figures += _price(case, form, networks, settings)
    if batch == 1:
        figures += _of_the_roof(case, form, network, timings, best(timings, probed), settings)
        if settings.half is settings or form in TRAINED:
            fast = settings.half is settings and settings.judged
            figures += _in_bfloat16(case, network, networks["published"], settings.half, compiled=fast)
    return figures + [Figure.spread(case, name, timings.of(name), "s") for name in timings.seconds]


def _price(case: str, form: str, networks: dict[str, Any], settings: Settings) -> list[Figure]:
    """What STRF adds to a network's time: hundredths, so there are twice as many rounds, of these alone."""
    from strfnet.deployment.optimizer import optimize

    shape = settings.clip_shape(1)
    clip, with_strf = normal(settings, *shape), awake(f"strf_{form.format(settings.depth)}", settings)
    priced = {name: networks[name] for name in ("eager", "deployed")}
    priced |= {"eager with STRF": with_strf, "deployed with STRF": optimize(with_strf, shape)}
    calls = {name: partial(priced[name], clip) for name in sorted(priced)}  # what is compared stands side by side
    with torch.inference_mode():
        timings = in_turn(calls, rounds=2 * settings.rounds, device=settings.device, shortest=0)
    figures = []
    for way in ("eager", "deployed"):
        ratio = timings.ratio(f"{way} with STRF", way)
        figures.append(Figure.spread(case, f"{way}: with STRF takes", ratio, "x", goal=PRICE, at_most=True))
    return figures


def runtimes(form: str, batch: int, settings: Settings) -> list[Figure]:
    """A network deployed with ``backend="auto"``, beside OpenVINO and ONNX Runtime with the same network."""
    from strfnet.deployment.fusion import fuse
    from strfnet.deployment.optimizer import optimize
    from strfnet.deployment.runtimes import DTYPES, RUNTIMES, OnnxNetwork

    case, shape = f"{form.format(settings.depth)}, batch {batch}, runtimes", settings.clip_shape(batch)
    network, clip = awake(form.format(settings.depth), settings), normal(settings, *shape)
    exported, figures = OnnxNetwork(fuse(network, shape), clip), []
    with torch.inference_mode():
        expected = network(clip).embedding
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        if dtype == torch.bfloat16 and not has_bfloat16():
            continue
        deployed = optimize(network, shape, dtype=dtype, backend="auto")
        calls = {kind: exported.open(kind, dtype) for kind in RUNTIMES if dtype in DTYPES[kind]}
        with torch.inference_mode():
            apart = difference(deployed(clip).embedding, expected)
            timings = in_turn(
                {"deployed": partial(deployed, clip)} | {kind: partial(call, clip) for kind, call in calls.items()},
                rounds=settings.rounds,
                shortest=0,
            )
        fastest = min(calls, key=lambda kind: timings.of(kind).median)
        ratio, goal = timings.ratio(fastest, "deployed"), settings.judge(BESIDE)
        bound = ERROR if dtype == torch.float32 else HALF_ERROR
        figures += [
            Figure(case, f"{name}: {deployed.form}; output differs", apart, goal=bound, at_most=True),
            Figure.spread(case, f"{name}: the fastest runtime takes", ratio, "x", goal=goal),
            *(Figure.spread(case, f"{name}, {kind}", timings.of(kind), "s") for kind in timings.seconds),
        ]
    return figures


def _in_bfloat16(
    case: str, network: nn.Module, published: nn.Module, settings: Settings, *, compiled: bool
) -> list[Figure]:
    """Deployment in bfloat16 against the published computation in float32.

    Not compiled where that is emulated; there `optimize` stays with float32, and the figure says so.
    """
    from strfnet.deployment.optimizer import optimize

    shape = settings.clip_shape(1)
    clip, half = normal(settings, *shape), optimize(network, shape, dtype=torch.bfloat16, compiled=compiled)
    with torch.inference_mode():
        apart = difference(half(clip).embedding, published(clip).embedding)
        calls = {"published": partial(published, clip), "bfloat16": partial(half, clip)}
        timings = in_turn(calls, rounds=settings.rounds, device=settings.device, shortest=0)
    ratio = timings.ratio("published", "bfloat16")
    return [
        Figure(case, f"bfloat16: {half.form}, in {half.dtype}; by its own check it differs", half.error),
        Figure(case, "bfloat16: output differs", apart, goal=HALF_ERROR, at_most=True),
        Figure.spread(case, "bfloat16: published takes", ratio, "x", goal=settings.judge(HALF)),
    ]


def _of_the_roof(
    case: str, form: str, network: nn.Module, timings: Timings, roof: float, settings: Settings
) -> list[Figure]:
    """Shares of the best probe that the published, the eager and the deployed computation keep busy."""
    flop = 2 * strfnet.profile(network, settings.clip_shape(1)).macs
    figures = [Figure(case, "roof: best probe", roof / 1e9, "GFLOP/s")]
    for name in ("published", "eager", "deployed"):
        goal = settings.judge(SHARE[form]) if name == "deployed" else None
        share = flop / timings.of(name).median / roof
        figures.append(Figure(case, f"{name}: share of the roof", share, "roof", goal=goal))
    return figures


def training(form: str, settings: Settings) -> list[Figure]:
    """A training step of two clips, up to the feature before the neck: ours, also in bfloat16, and the published.

    Gradients are compared in float64 on one small clip with the norms in evaluation.
    """
    case = f"{form.format(settings.depth)}, training"
    network = awake(form.format(settings.depth), settings)
    apart = gradients_differ(network, settings)
    networks = {"published": restate(network).train(), "eager": network.train()}
    calls = {name: partial(step, each, settings) for name, each in networks.items()}
    timings = in_turn(calls, rounds=settings.rounds, device=settings.device, shortest=0)
    small = settings.half
    halves = {
        "published": partial(step, networks["published"], small),
        "bfloat16 autocast": partial(step, network, small, half=True),
    }
    half_timings = in_turn(halves, rounds=small.rounds, device=settings.device, shortest=0)
    eager, half = settings.judge(STEP[form][0]), small.judge(STEP[form][1])
    ratio = half_timings.ratio("published", "bfloat16 autocast")
    return [
        Figure(case, "gradients in float64 differ", apart, goal=GRADIENT_ERROR, at_most=True),
        Figure.spread(case, "eager: published takes", timings.ratio("published", "eager"), "x", goal=eager),
        Figure.spread(case, "bfloat16 autocast: published takes", ratio, "x", goal=half),
        *(Figure.spread(case, name, timings.of(name), "s") for name in calls),
    ]


def step(network: Any, settings: Settings, *, half: bool = False) -> None:
    """Forward and backward of two clips, weighed by random numbers; under autocast to bfloat16 if ``half``."""
    network.zero_grad(set_to_none=True)
    clip = normal(settings, *settings.clip_shape(2))
    with torch.autocast(settings.device, torch.bfloat16, enabled=half):
        feature = network(clip).feature
    (feature.float() * normal(settings, *feature.shape, seed=2)).sum().backward()


def gradients_differ(network: Any, settings: Settings) -> float:
    """The largest difference of a gradient in float64, in parts of that parameter's largest.

    Gradients that are nothing beside the rest, such as those of a key's bias, which are zero but for rounding,
    are taken in parts of a millionth of the largest of all.
    """
    double = copy.deepcopy(network).double().eval()
    theirs = restate(double)
    clip = normal(settings, 1, 3, 4, 256, 16).double()
    cotangent = normal(settings, 1, network.head.channels, seed=2).double()
    for each in (double, theirs):
        (each(clip).feature * cotangent).sum().backward()
    ours = published(double, {name: p.grad for name, p in double.named_parameters() if p.grad is not None})
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    if ours.keys() != expected.keys():
        raise ValueError(f"gradients of {sorted(ours.keys() ^ expected.keys())} are missing on one side")
    least = 1e-6 * max(gradient.abs().max().item() for gradient in expected.values())
    return max(
        ((ours[name].view_as(gradient) - gradient).abs().max() / gradient.abs().max().clamp(min=least)).item()
        for name, gradient in expected.items()
    )
