"""What the cases of the speed benchmark share: their sizes, their networks and clips, and the goals of accuracy."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from interleaved import Call, Timings, in_turn
from torch import Tensor, nn

import strfnet

NETWORKS = (
    "{}_fpl", "nvan_{}", "nvan_spatial_{}", "nvan_temporal_{}", "ste_nvan_{}",
    "c2d_{}", "i3d_{}", "p3da_{}", "p3db_{}", "p3dc_{}",
)  # fmt: skip
TRAINED = ("p3dc_{}", "nvan_{}", "ste_nvan_{}")
ERROR, HALF_ERROR, GRADIENT_ERROR = 1e-5, 1.5e-2, 1e-8


@dataclass(frozen=True)
class Settings:
    """How large and how often: ``frame`` is (h, w); speed is judged only at the papers' own size.

    There are at least ``rounds`` rounds, and at most ``most`` where that is more (see `in_turn`).
    """

    depth: str = "resnet50"
    frames: int = 8
    frame: tuple[int, int] = (256, 128)
    rounds: int = 3
    most: int = 9
    device: str = "cpu"
    threads: int = 1
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
        return replace(self, frames=4, frame=(256, 32), rounds=1, most=1, judged=False)

    def time(self, calls: Mapping[str, Call], *, shortest: float = 0) -> Timings:
        """Times of calls that take turns."""
        wall = self.threads > 1
        return in_turn(calls, rounds=self.rounds, most=self.most, device=self.device, shortest=shortest, wall=wall)

    def judge(self, goal: float | None) -> float | None:
        """A goal of speed or memory, where one is judged."""
        return goal if self.judged else None

    def __str__(self) -> str:
        clip = "x".join(map(str, (self.frames, *self.frame)))
        rounds = f"{self.rounds} to {self.most}" if self.most > self.rounds else f"{self.rounds}"
        return f"{self.depth}, clips {clip}, medians of {rounds} rounds on {self.device}"


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


QUICK = Settings(frames=4, frame=(256, 32), rounds=2, most=2, judged=False)


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
