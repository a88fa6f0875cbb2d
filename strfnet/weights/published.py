"""Conversion between our parameter names and shapes and those of published code.

Sources: the code of STE-NVAN (Liu et al., BMVC 2019) and of AP3D (Gu et al., ECCV 2020), and torchvision's ResNets,
whose names timm shares. STE-NVAN works on frames with 2-D kernels and lists the non-local blocks beside the stages;
AP3D has 3-D kernels throughout and non-local blocks as items of the stages, which shifts the blocks behind them.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.temporal import I3D, TemporalConv, inflate_weight
from strfnet.system.compat import COMPILED_PREFIX
from strfnet.weights.file import Weights, check_finite, check_fit, read_weights

STE_NVAN, AP3D, IMAGE = "STE-NVAN", "AP3D", "image"
# By family: the networks of the published code, and the prefix of its names in a file.
NETWORKS = {
    STE_NVAN: ("{}_fpl", "nvan_{}", "nvan_spatial_{}", "nvan_temporal_{}", "ste_nvan_{}"),
    AP3D: tuple(f"{host}_{nl}{{}}" for host in ("c2d", "i3d", "p3da", "p3db", "p3dc", "ap3d") for nl in ("", "nl_")),
    IMAGE: ("c2d_{}",),
}
PREFIX = {STE_NVAN: "module.", AP3D: "", IMAGE: ""}
NON_LOCAL = {"query": "theta", "key": "phi", "value": "g", "out": "W.0", "norm": "W.1"}
APPEARANCE = {
    "semantic": "semantic_mapping",
    "frame_map": "x_mapping",
    "neighbour_map": "n_mapping",
    "gate": "contrastive_att_net.0",
}


@dataclass(frozen=True)
class Official:
    """Weights under published names.

    Args:
        family: STE_NVAN, AP3D or IMAGE.
        tensors: by published name, without the prefix of wrappers.
        prefix: the prefix of wrappers, such as "module.".
        source: the file, for errors.
    """

    family: str
    tensors: dict[str, Tensor]
    prefix: str
    source: object

    @property
    def classes(self) -> int | None:
        """Rows of the classifier; None without one."""
        weight = self.tensors.get("fc.weight" if self.family == IMAGE else "classifier.weight")
        return None if weight is None or weight.ndim != 2 else len(weight)

    @property
    def depth(self) -> str:
        """The name of the 2-D backbone, such as "resnet50", from the number of its blocks."""
        blocks = sum(1 for name in self.tensors if re.search(r"layer\d\.\d+\.conv1\.weight$", name))
        convolutions = 3 if any(re.search(r"layer1\.0\.conv3\.", name) for name in self.tensors) else 2
        return f"resnet{blocks * convolutions + 2}"

    def options(self) -> dict[str, Any]:
        """Returns the options of `strfnet.create_model` that names and shapes tell, defaults among them.

        Numbers of stripes, the last stride and the temperature leave no trace in a file; neither do P3D-A, B and C.
        """
        if self.family == STE_NVAN:
            return {"non_local": last} if (last := self._last_blocks()) else {}
        found: dict[str, Any] = {}
        for stage, items in self._stages(r"layer(\d)\.(\d+)\.").items():
            block = -1
            for item in items:
                path = f"layer{stage}.{item}."
                block += f"{path}conv1.weight" in self.tensors
                if f"{path}theta.weight" in self.tensors:
                    found.setdefault("non_local", []).append(f"layer{stage}.{block}")
                for part in ("conv3d", "temporal_conv3d"):
                    if (kernel := self.tensors.get(f"{path}conv2.{part}.weight")) is not None:
                        found.setdefault("places", []).append(f"layer{stage}.{block}")
                        found["time_kernel"] = kernel.shape[2]
        parts = {part for name in self.tensors for part in name.split(".")}
        found["gate"] = APPEARANCE["frame_map"] in parts
        found["host"] = "i3d" if "conv3d" in parts else "p3d_c"
        return found

    def _last_blocks(self) -> list[str]:
        """The blocks of STE-NVAN that are followed by a non-local block: always the last of a stage."""
        backbone = r"features\.backbone\."
        blocks, attending = (self._stages(rf"{backbone}{part}_?(\d)\.(\d+)\.") for part in ("layer", "NL"))
        return [f"layer{stage}.{i}" for stage, of in attending.items() for i in blocks.get(stage, [])[-len(of) :]]

    def _stages(self, pattern: str) -> dict[int, list[int]]:
        """The numbers of the items of each stage, in order."""
        found: dict[int, set[int]] = {}
        for name in self.tensors:
            if numbers := re.match(pattern, name):
                found.setdefault(int(numbers[1]), set()).add(int(numbers[2]))
        return {stage: sorted(found[stage]) for stage in sorted(found)}


def recognise(weights: Weights, source: object) -> Official:
    """Returns the family of a file by its parameter names. Raises: ValueError if it is unknown."""
    names = list(weights.tensors)
    wrapped = re.match(rf"(module\.|{COMPILED_PREFIX}\.)+", names[0])
    prefix = wrapped[0] if wrapped and all(name.startswith(wrapped[0]) for name in names) else ""
    tensors = {name.removeprefix(prefix): tensor for name, tensor in weights.tensors.items()}
    stem = tensors.get("conv1.weight")
    if "features.backbone.conv1.weight" in tensors:
        family = STE_NVAN
    elif stem is not None and stem.ndim == 5:
        family = AP3D
        # Some files name the convolutions of C2D as 3-D ones; their kernels span one frame.
        tensors = {_plain_name(name, tensor): tensor for name, tensor in tensors.items()}
    elif stem is not None and stem.ndim == 4 and "layer1.0.conv1.weight" in tensors:
        family = IMAGE
    else:
        some = ", ".join(names[:4])
        raise ValueError(f"{source} holds {some} ..., wanted the names of STE-NVAN, AP3D or an image ResNet")
    return Official(family, tensors, prefix, source)


def family_of(network: Any) -> str:
    """Returns the published code that has the network, by its name."""
    return STE_NVAN if re.search("nvan_|_(max)?fpl", network.name or "") else AP3D


def published_state(network: Any, family: str) -> dict[str, Tensor]:
    """The state dict of a network under the published names and in the published shapes; values are not copied.

    Raises: ValueError if the network holds what the published code does not have.
    """
    state = network.state_dict()
    if family == IMAGE:
        names = _image_names(network)
        return {name: _image_kernel(state[key]) for key, name in names.items()}
    strange = [key for key in state if ".conv2.after." in key]
    if family == STE_NVAN == family_of(network):
        _check_last_blocks(network)
    if strange or family != family_of(network):
        what = f"holds {strange[0]}" if strange else f"pools by {network.head.pooling!r}"
        raise ValueError(f"the network {what}, which the code of {family} does not have")
    return {published_name(network, key): _published_kernel(key, value, family) for key, value in state.items()}


def _check_last_blocks(network: Any) -> None:
    """Raises: ValueError for non-local blocks that the names of STE-NVAN cannot place."""
    for name, stage in network.backbone.named_children():
        blocks = stage.children() if name.startswith("layer") else ()
        attending = [isinstance(getattr(block, "after", [None])[0], NonLocalBlock) for block in blocks]
        if attending != sorted(attending):
            what = f"non-local blocks in {name} that do not follow its last blocks"
            raise ValueError(f"the network has {what}, which the code of {STE_NVAN} does not have")


def own_state(network: Any, official: Official, *, classifier: bool = True) -> dict[str, Tensor]:
    """Weights under our names and in our shapes, as ``network`` has them.

    A file of a 2-D ResNet has no weights for units, temporal kernels and the BN neck. Its ``fc`` is the classifier's
    if the classifier has a bias; otherwise it is left out.

    Args:
        network: one of `strfnet.create_model`; only its names and shapes are read.
        official: the weights.
        classifier: whether to include the classifier.

    Raises: ValueError listing what is missing, left over or of another shape, or what is not finite.
    """
    unfit = f"{official.source} ({official.family}) does not fit {network.name}"
    try:
        wanted, tensors = published_state(network, official.family), official.tensors
    except ValueError as error:
        raise ValueError(f"{unfit}: {error}") from error
    if official.family == IMAGE:
        # Files of before torch 0.4.1 do not have these counts, which nothing in our networks depends on.
        counts = {name: torch.zeros((), dtype=v.dtype) for name, v in wanted.items() if name.endswith("_tracked")}
        tensors = counts | (tensors if "fc.weight" in wanted else _without(tensors, "fc."))
    if not classifier:
        wanted, tensors = (_without(state, "classifier.", "fc.") for state in (wanted, tensors))
    check_fit(tensors, wanted, unfit)
    check_finite(tensors, official.source)
    state = network.state_dict()
    names = (
        _image_names(network) if official.family == IMAGE else {key: published_name(network, key) for key in state}
    )
    own = {key: tensors[name] for key, name in names.items() if name in tensors}
    return {key: _own_kernel(value, state[key].shape) for key, value in own.items()}


def fill(network: Any, path: Path) -> None:
    """Loads the weights of a file, ours or a published one, into a network, in place.

    A classifier for another number of classes, or missing in the file, is left unchanged; the former gives a
    warning. Everything else must fit. Of an image file only the 2-D backbone is loaded.

    Raises: ValueError naming the file and everything that does not fit; the network is unchanged then.
    """
    weights, classifier = read_weights(path), network.head.classifier
    ours = weights.metadata is not None or "head.neck.weight" in weights.tensors
    official = None if ours else recognise(weights, path)
    last = weights.tensors.get("head.classifier.weight")
    classes = official.classes if official else None if last is None else len(last)
    image = official is not None and official.family == IMAGE
    fits = classifier is not None and classes == classifier.out_features and not image
    if official:
        own = own_state(network, official, classifier=fits)
    else:
        own, wanted = weights.tensors, network.state_dict()
        if not fits:
            own, wanted = (_without(state, "head.classifier.") for state in (own, wanted))
        check_fit(own, wanted, f"{path} does not fit {type(network).__name__}")
        check_finite(own, path)
    if classifier is not None and classes is not None and not fits and not image:
        what = f"the classifier in {path} is for {classes} classes, wanted {classifier.out_features}"
        warnings.warn(f"{what}: it is left out, and a new one is initialised at random", stacklevel=3)
    network.load_state_dict(network.state_dict() | own)


def published_name(network: Any, key: str) -> str:
    """Returns the name of a parameter in the code of STE-NVAN (without "module.") or AP3D.

    Args:
        network: one of `strfnet.create_model`, or a `NonLocalBlock`.
        key: name of the parameter in the network's state dict.
    """
    if isinstance(network, NonLocalBlock):
        return _non_local_name(network, key)
    of_ap3d = family_of(network) == AP3D
    key = key.replace("head.classifier.", "classifier.")
    key = re.sub(r"^head\.neck\.", "bn." if of_ap3d else "bottleneck.", key)
    found = re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(.+)", key)
    if not found:
        return key.replace("backbone.", "" if of_ap3d else "features.backbone.", 1)
    number, block, rest = int(found[1]), int(found[2]), found[3]
    stage: Any = network.backbone.get_submodule(f"layer{number}")
    attending = [place for place, residual in enumerate(stage) if hasattr(residual, "after")]
    shift = sum(1 for place in attending if place < block)
    unit = rest.removeprefix("after.0.")
    if unit != rest:
        unit = _non_local_name(stage[block].after[0], unit)
        return (
            f"layer{number}.{block + shift + 1}.{unit}"
            if of_ap3d
            else f"features.backbone.NL_{number}.{shift}.{unit}"
        )
    if of_ap3d:
        return f"layer{number}.{block + shift}.{_temporal_name(stage[block], rest)}"
    return f"features.backbone.layer{number}.{block}.{rest}"


def _non_local_name(block: Any, key: str) -> str:
    """Returns the published name; sub-sampled keys and values are the first item of a sequence with their pooling."""
    part, _, field = key.partition(".")
    item = ".0" if block.subsample and part in ("key", "value") else ""
    return f"{NON_LOCAL[part]}{item}.{field}"


def _temporal_name(block: nn.Module, key: str) -> str:
    """Returns the name of a residual block's parameter in AP3D, whose temporal convolutions have named parts."""
    conv = block.conv2
    if not isinstance(conv, TemporalConv):
        return key
    key = key.replace("conv2.temporal.", "conv2.temporal_conv3d.")
    key = re.sub(r"conv2\.weight$", f"conv2.{'conv3d' if isinstance(conv, I3D) else 'spatial_conv3d'}.weight", key)
    found = re.fullmatch(r"conv2\.appearance\.(\w+)\.weight", key)
    return f"conv2.APM.{APPEARANCE[found[1]]}.weight" if found else key


def _plain_name(name: str, tensor: Tensor) -> str:
    sees_one_frame = tensor.ndim == 5 and tensor.shape[2] == 1
    return name.replace("conv2.conv3d.weight", "conv2.weight") if sees_one_frame else name


def _published_kernel(key: str, value: Tensor, family: str) -> Tensor:
    """Returns a kernel with the axes of length one of the published code."""
    if key.startswith("head.") or value.ndim < 2:
        return value
    if value.ndim == 2:  # of the tokens in a unit
        return value[:, :, None, None, None]
    if family == STE_NVAN or value.ndim == 5:
        return value
    return value[..., None] if ".temporal." in key else value[:, :, None]


def _image_names(network: Any) -> dict[str, str]:
    """Returns the names of the 2-D backbone's parameters, by our names."""
    keys = [
        key for key in network.state_dict() if not re.search(r"\.(after|temporal|appearance)\.|^head\.neck\.", key)
    ]
    if network.head.classifier is None or network.head.classifier.bias is None:
        keys = [key for key in keys if not key.startswith("head.")]
    return {key: key.replace("head.classifier.", "fc.").removeprefix("backbone.") for key in keys}


def _image_kernel(value: Tensor) -> Tensor:
    return value[:, :, value.shape[2] // 2] if value.ndim == 5 else value


def _own_kernel(value: Tensor, shape: torch.Size) -> Tensor:
    """Returns a published kernel in our shape: without axes of length one, or inflated in time."""
    return inflate_weight(value, shape[2]) if (value.ndim, len(shape)) == (4, 5) else value.reshape(shape)


def _without(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.startswith(prefixes)}
