"""Units in the networks that the field uses: a table of towers x units, and the count of families that take a unit.

    python benchmarks/towers.py             # 31 towers x 3 units, and 60 families by name
    python benchmarks/towers.py --export    # and a column of ONNX and pt2 files: minutes
    python benchmarks/towers.py --cost      # MACs, parameters, time and memory of DINOv2-small and CLIP ViT-B/16

All weights are random. A tower is small where its library allows it. A cell is "all" if a new unit behind one block
leaves the output of the 2-D network as it is, bit for bit; its checkpoint loads strictly; `deflate` returns its
classes, keys and values; a gradient reaches the unit; and the profiler counts all. Under "files" it is "all" if the
tower with all three units, awake and one behind the other, is exported to both formats within the bound of `export`.
A family is counted if a unit follows its middle block by path alone; a refusal prints its reason. Exits 1 if a cell
fails, or if fewer than 58 of the 60 families take a unit.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
import torchvision
from interleaved import in_turn
from memory import resident
from torch import nn

import strfnet
from strfnet.deployment import export
from strfnet.deployment.exporting import Format
from strfnet.inflation.inflation import Unit

UNITS: tuple[Unit, ...] = ("strf", "non_local", "temporal_attention")
BUILDERS = (strfnet.STRF, strfnet.NonLocalBlock, strfnet.TemporalAttention)
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 5}
HF = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
HF |= {"image_size": 64, "patch_size": 16}
SWIN = {"img_size": 64, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
TINY = {"embed_dims": (32, 32, 64, 64), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_sizes": (4,) * 4}
FEWEST = 58


def of_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, **options)


def of_torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: torchvision.models.get_model(name, **options)


def of_transformers(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        network: nn.Module = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**HF))
        return network

    return build


# Builder, path of a block, size of a frame, and which output to take.
Tower = tuple[Callable[[], nn.Module], str, tuple[int, int], str | None]
TOWERS: dict[str, Tower] = {
    "timm ViT": (of_timm("vit_tiny_patch16_224", img_size=(64, 32), **SMALL), "blocks.0", (64, 32), None),
    "timm DeiT": (of_timm("deit_tiny_distilled_patch16_224", img_size=64, **SMALL), "blocks.0", (64, 64), None),
    "timm DINOv2": (of_timm("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL), "blocks.0", (56, 56), None),
    "timm DINOv3": (of_timm("vit_small_patch16_dinov3", img_size=64, **SMALL), "blocks.0", (64, 64), None),
    "timm CLIP": (of_timm("vit_base_patch16_clip_224", img_size=64, **SMALL), "blocks.0", (64, 64), None),
    "timm EVA": (of_timm("eva02_tiny_patch14_224", img_size=56, **SMALL), "blocks.0", (56, 56), None),
    "timm Swin": (of_timm("swin_tiny_patch4_window7_224", **SWIN), "layers.0.blocks.1", (64, 64), None),
    "TinyViT": (of_timm("tiny_vit_5m_224", **TINY), "stages.1.blocks.0", (64, 32), None),
    "torchvision ViT": (
        lambda: torchvision.models.VisionTransformer(64, 16, 2, 2, 64, 64),
        "encoder.layers.encoder_layer_0",
        (64, 64),
        None,
    ),
    "torchvision Swin": (
        lambda: torchvision.models.SwinTransformer([4, 4], 32, [1, 2], [2, 4], [4, 4]),
        "features.1.0",
        (64, 32),
        None,
    ),
    "transformers ViT": (of_transformers("ViT"), "layers.0", (64, 64), "pooler_output"),
    "transformers DINOv2": (of_transformers("Dinov2"), "encoder.layer.0", (64, 32), "pooler_output"),
    "transformers CLIP": (of_transformers("CLIPVision"), "encoder.layers.0", (64, 64), "pooler_output"),
    "ResNet": (of_torchvision("resnet18"), "layer2", (64, 32), None),
    "ResNeXt": (of_torchvision("resnext50_32x4d"), "layer2.1", (64, 32), None),
    "SE-ResNet": (of_timm("seresnet18"), "layer2.1", (64, 32), None),
    "TResNet": (of_timm("tresnet_m"), "body.layer2.0", (64, 32), None),
    "RegNet": (of_timm("regnety_002"), "s3.b1", (64, 32), None),
    "ConvNeXt": (of_timm("convnext_atto"), "stages.2.blocks.1", (64, 32), None),
    "GoogLeNet": (of_torchvision("googlenet", init_weights=False), "inception4a", (64, 64), None),
    "Inception": (of_timm("inception_v3"), "Mixed_6a", (96, 96), None),
    "SqueezeNet": (of_torchvision("squeezenet1_1"), "features.7", (64, 32), None),
    "ShuffleNet": (of_torchvision("shufflenet_v2_x0_5"), "stage3.1", (64, 32), None),
    "MobileNetV2": (of_torchvision("mobilenet_v2"), "features.5", (64, 32), None),
    "MobileNetV3": (of_timm("mobilenetv3_small_050"), "blocks.3.0", (64, 32), None),
    "EfficientNet": (of_timm("efficientnet_lite0"), "blocks.3.1", (64, 32), None),
    "GhostNet": (of_timm("ghostnet_050"), "blocks.4.0", (64, 32), None),
    "DenseNet": (of_torchvision("densenet121"), "features.denseblock2", (64, 32), None),
    "VGG": (of_timm("vgg11_bn", num_classes=5), "features.8", (224, 224), None),
    "VoVNet": (of_timm("ese_vovnet19b_slim"), "stages.1.blocks.0", (64, 32), None),
    "DLA": (of_timm("dla46_c"), "level3", (64, 32), None),
}

COSTED = {
    "DINOv2-small": ("vit_small_patch14_dinov2", (252, 126)),
    "CLIP ViT-B/16": ("vit_base_patch16_clip_224", (256, 128)),
}
COSTED_UNITS: tuple[Unit | None, ...] = (None, "strf", "temporal_attention")

FAMILIES = {
    "timm": """vit_small_patch16_224 deit_small_distilled_patch16_224 beit_base_patch16_224 eva02_tiny_patch14_224
        swin_tiny_patch4_window7_224 swinv2_tiny_window8_256 tiny_vit_5m_224 cait_xxs24_224 xcit_nano_12_p16_224
        convit_tiny pit_ti_224 levit_128 twins_svt_small pvt_v2_b0 mvitv2_tiny maxvit_tiny_tf_224 coatnet_0_rw_224
        volo_d1_224 visformer_tiny tnt_s_patch16_224 mixer_s16_224 resmlp_12_224 poolformer_s12 convmixer_768_32
        mobilevit_s efficientformer_l1 fastvit_t8 repvit_m1 edgenext_small davit_tiny focalnet_tiny_srf
        gcvit_xxtiny convnext_tiny mobilenetv3_small_100 efficientnet_b0 ghostnet_100 regnety_002 resnetv2_50
        resnest14d res2net50_26w_4s skresnet18 hrnet_w18_small dla34 inception_v4 xception41 dpn48b nfnet_l0
        rexnet_100 repvgg_a0 tresnet_m cspresnet50 ese_vovnet19b_dw nest_tiny hiera_tiny_224""",
    "torchvision": """resnet18 squeezenet1_1 densenet121 googlenet shufflenet_v2_x0_5 vgg11""",
}


def build_tower(name: str) -> nn.Module:
    torch.manual_seed(0)
    return wake(TOWERS[name][0]().eval())


def wake(module: nn.Module) -> nn.Module:
    """Fills parameters that start at zero, in place: they hide what is before them."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return module


def row(name: str, *, exported: bool) -> dict[str, str]:
    """What holds of each unit in a tower."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    network, (_, path, size, output) = build_tower(name), TOWERS[name]
    clip, state = torch.randn(2, 3, 3, *size), network.state_dict()
    plain = strfnet.inflate(network, places=[], unit=None, output=output)
    with torch.no_grad():
        expected = plain(clip)
    cells: dict[str, Iterator[str]] = {
        unit: _failures(network, unit, path, clip, output, expected, state) for unit in UNITS
    }
    if exported:
        cells["files"] = _wrong_files(plain, path, size)
    return {column: ", ".join(failures) for column, failures in cells.items()}


def _failures(
    network: nn.Module, unit: Unit, path: str, clip: Any, output: Any, expected: Any, state: Any
) -> Iterator[str]:
    inflated = strfnet.inflate(network, places=[path], temporal="c2d", unit=unit, output=output)
    with torch.no_grad():
        if not torch.equal(inflated(clip), expected):
            yield "differs"
    inflated.load_state_dict(state)
    image = strfnet.deflate(inflated)
    same = [type(m) for m in image.modules()] == [type(m) for m in network.modules()]
    if not same or any(not torch.equal(value, state[key]) for key, value in image.state_dict().items()):
        yield "does not deflate"
    units = [module for name, module in inflated.named_modules() if name.endswith("after.0")]
    inflated(clip).square().sum().backward()
    if not any(p.grad is not None and p.grad.any() for p in units[0].parameters()):
        yield "does not learn"
    if uncounted := strfnet.profile(inflated, clip.shape).uncounted:
        yield f"not counted: {uncounted[0].operator}"


def _wrong_files(network: nn.Module, path: str, size: tuple[int, int]) -> Iterator[str]:
    """Which files of the tower with all units, one behind the other and awake, are not right, and why."""
    for builder in BUILDERS:
        network = strfnet.splice(network, {path: builder})
    wake(network)
    formats: tuple[Format, ...] = ("pt2", "onnx")
    with TemporaryDirectory() as folder:
        for format in formats:
            try:
                export(network, Path(folder) / f"file.{format}", format, size=size)
            except ValueError as error:
                yield f"{format}: {error}"


def middle_block(network: nn.Module) -> str:
    """The middle child of the longest list of modules that are called."""
    lists = []
    for path, module in network.named_modules():
        if path and isinstance(module, nn.ModuleList | nn.Sequential):
            children = module.named_children()
            blocks = [name for name, one in children if any(one.children()) and not isinstance(one, nn.ModuleList)]
            lists.append((len(blocks), [f"{path}.{name}" for name in blocks]))
    number, paths = max(lists, default=(0, []))
    if number:
        return paths[number // 2]
    return [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d)][1]  # VGG, RegNet


def refusal(library: str, name: str) -> str | None:
    """Why a family takes no unit; None if it does."""
    with torch.device("meta"):
        network = timm.create_model(name) if library == "timm" else torchvision.models.get_model(name)
        try:
            strfnet.inflate(network.eval(), places=[middle_block(network)])
        except ValueError as error:
            return str(error)
    return None


def tower_with(tower: str, unit: Unit | None) -> tuple[nn.Module, torch.Tensor]:
    """A tower of `COSTED` with a unit behind three of its blocks, and a clip."""
    torch.set_num_threads(1)
    name, size = COSTED[tower]
    network = timm.create_model(name, img_size=size, num_classes=0).eval()
    places = [] if unit is None else [f"blocks.{block}" for block in (3, 6, 9)]
    return strfnet.inflate(network, places=places, unit=unit), torch.randn(1, 3, 8, *size)


def added_memory(tower: str, unit: Unit | None) -> float:
    """MiB that a first call adds at its peak to this process, so run it in a fresh one."""
    network, clip = tower_with(tower, unit)
    with open("/proc/self/clear_refs", "w") as peak:
        peak.write("5")
    before = resident("VmRSS")
    with torch.inference_mode():
        network(clip)
    return resident("VmHWM") - before


def costs(tower: str) -> Iterator[str]:
    """Rows of the table of costs: times are of interleaved calls, ratios of adjacent ones."""
    networks = {unit or "none": tower_with(tower, unit) for unit in COSTED_UNITS}
    with torch.inference_mode():
        calls: dict[str, Callable[[], Any]] = {
            name: partial(network, clip) for name, (network, clip) in networks.items()
        }
        timings = in_turn(calls, rounds=5, shortest=1e-3)
    for unit in COSTED_UNITS:
        network, clip = networks[unit or "none"]
        profile, ratio = strfnet.profile(network, clip.shape), timings.ratio(unit or "none", "none")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            memory = fresh.submit(added_memory, tower, unit).result()
        sizes = f"{profile.gmacs:.2f} | {profile.parameters / 1e6:.2f}"
        spread = f"{ratio.median:.2f} ({ratio.least:.2f} .. {ratio.most:.2f})"
        seconds = f"{timings.of(unit or 'none').least:.2f} | {spread}"
        yield f"| {tower} | {unit or 'none'} | {sizes} | {seconds} | {memory:.0f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", action="store_true", help="write and check ONNX and pt2 files too")
    parser.add_argument("--cost", action="store_true", help="print the cost of units in two towers, and nothing else")
    parser.add_argument("--towers", nargs="*", default=list(TOWERS), help="rows of the table (default: all)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.cost:
        heads = ("tower", "unit", "GMAC", "parameters (M)", "s, one thread", "of the plain tower's", "MiB")
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
        for tower in COSTED:
            for line in costs(tower):
                print(line, flush=True)
        return 0
    failed = 0
    columns = (*UNITS, "files") if options.export else UNITS
    print(f"| tower | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for name in options.towers:
        cells = row(name, exported=options.export)
        failed += sum(map(bool, cells.values()))
        print(f"| {name} | {' | '.join(cell or 'all' for cell in cells.values())} |", flush=True)
    families = [(library, name) for library, names in FAMILIES.items() for name in names.split()]
    refused = {name: reason for library, name in families if (reason := refusal(library, name))}
    print(f"\n{len(families) - len(refused)} of {len(families)} families take a unit behind their middle block")
    for name, reason in refused.items():
        print(f"- {name}: {reason}")
    return int(bool(failed) or len(families) - len(refused) < FEWEST)


if __name__ == "__main__":
    sys.exit(main())
