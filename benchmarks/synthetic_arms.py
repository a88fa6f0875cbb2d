"""Networks of the synthetic comparison, and the order of its runs."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import timm
from torch import Tensor, nn

import strfnet
from strfnet.inflation.inflation import Temporal
from strfnet.inflation.splicing import UnitBuilder
from strfnet.layers.ffm import FFM
from strfnet.layers.head import Head
from strfnet.layers.strf import STRF
from strfnet.layers.temporal_attention import TemporalAttention
from strfnet.models.network import ReIDNetwork
from strfnet.models.resnet import map_channels, resnet_maps

HOSTS: dict[str, Temporal] = {"c2d": "c2d", "i3d": "i3d", "p3da": "p3d_a", "p3db": "p3d_b", "p3dc": "p3d_c"}
NVANS = ("nvan", "nvan_spatial", "nvan_temporal", "ste_nvan")

# Towers of timm with random weights, narrowed to two blocks and 4 x 2 patches; a unit follows each block. On another
# seed and drawing, none that was tried left chance: class tokens, four blocks, smaller patches, lower learning rates.
TOWERS = {"dinov2": "vit_small_patch14_dinov2", "clip": "vit_base_patch16_clip_224"}
NARROW: Mapping[str, Any] = {"img_size": (64, 32), "patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 4}
UNITS: Mapping[str, UnitBuilder] = {"strf": partial(STRF, reduction=4), "temporal attention": TemporalAttention}

# Arguments of STRF that an arm changes; "none" is the host without STRF.
ABLATIONS: Mapping[str, Mapping[str, Any]] = {
    "strf": {},
    "spatial": {"units": ("coarse", "fine")},
    "temporal": {"units": ("static", "dynamic")},
    "no split": {"split": False},
    "no mask": {"mask": None},
    "remainder": {"dynamic": "remainder"},
    "joint mask": {"mask": "joint"},
    "space mask": {"mask": "space"},
    "grid 4": {"grid": 4},
    "stripes 4": {"grid": (4, 64)},  # rows
    "fine 5x5": {},
    "fine dilated": {},
}
# Kernel size, padding and dilation of the fine unit's convolution in the arms that change them (default: 3, 1, 1).
FINE_KERNELS = {"fine 5x5": (5, 2, 1), "fine dilated": (3, 2, 2)}


@dataclass(frozen=True)
class Run:
    """One training run. ``seed`` sets initial weights and batches, ``data`` sets the tracklets."""

    task: str
    host: str
    arm: str
    seed: int
    data: int
    steps: int = 300

    @property
    def key(self) -> str:
        return " ".join(f"{name}={value}" for name, value in asdict(self).items())


def build(host: str, arm: str, classes: int) -> ReIDNetwork:
    """Returns a network on resnet8, or a tower.

    Arms of one host share the initial weights of the layers they have in common.
    """
    if host in TOWERS:
        return _build_tower(host, arm, classes)
    if host in NVANS or arm in ("none", "strf"):
        form = host if arm == "none" else f"strf_{host}"
        return strfnet.create_model(f"{form}_resnet8", num_classes=classes)
    maps = resnet_maps("resnet8")
    unit = partial(STRF, reduction=4, **ABLATIONS[arm])
    backbone = strfnet.inflate(maps, temporal=HOSTS[host], unit=unit)
    network = ReIDNetwork(backbone, Head(map_channels(maps), classes, pooling="max_mean"))
    for factor in network.modules():
        if arm in FINE_KERNELS and isinstance(factor, FFM) and factor.unit == "fine":
            kernel, padding, dilation = FINE_KERNELS[arm]
            factor.conv = nn.Conv2d(
                factor.channels, factor.channels, kernel, padding=padding, dilation=dilation, bias=False
            )
    return network


def _build_tower(host: str, arm: str, classes: int) -> ReIDNetwork:
    """Returns a tower whose patch tokens are pooled as the maps of a ResNet are."""
    tower: Any = timm.create_model(TOWERS[host], num_classes=0, global_pool="", **NARROW)
    head = Head(tower.num_features, classes, pooling="max_mean")
    places = [f"blocks.{block}" for block in range(len(tower.blocks))] if arm in UNITS else []
    return ReIDNetwork(strfnet.inflate(tower, places=places, unit=UNITS.get(arm), output=patch_maps), head)


def patch_maps(tokens: Tensor) -> Tensor:
    """Returns the maps (n, c, 4, 2) of tokens (n, 1 + 8, c), without the class token."""
    return tokens[:, 1:].mT.unflatten(2, (4, 2))


def planned(seeds: int = 5) -> Iterator[Run]:
    """Yields all runs, the most important first. Odd seeds use data seed 1, even seeds data seed 0."""
    for runs in _stages():
        for seed in range(seeds):
            yield from (Run(task, host, arm, seed, seed % 2, steps) for task, host, arm, steps in runs)


def _stages() -> Iterator[list[tuple[str, str, str, int]]]:
    tasks = ("gait", "badge", "layout", "mixed")
    pair = ("none", "strf")
    for hosts in (("c2d", "p3dc", "i3d"), ("p3da", "p3db")):
        yield [(task, host, arm, 300) for task in tasks for host in hosts for arm in pair]
    yield [(task, host, "none", 300) for task in tasks for host in NVANS]
    first = ("spatial", "temporal", "no split", "no mask", "remainder")
    yield [(task, "c2d", arm, 300) for task in ("gait", "badge") for arm in first]
    yield [("layout", "c2d", arm, 900) for arm in pair]
    forms = ("grid 4", "stripes 4", "joint mask", "space mask", "no mask", "spatial", "no split")
    yield [("layout", "c2d", arm, 300) for arm in (*FINE_KERNELS, *forms)]
    yield [("mixed", "p3dc", arm, 300) for arm in ("no split", "no mask", "remainder")]
    yield [("gait", host, arm, 300) for host in TOWERS for arm in ("none", *UNITS)]
