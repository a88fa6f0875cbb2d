"""The baselines: the papers' networks as the published code computes them, restated from its description.

Their outputs equal those of our networks with the same weights; they compute them in the authors' way.
The STE-NVAN family runs 2-D convolutions on frames in the contiguous order and copies the maps into clips and
back around every non-local block, which is made of 1x1x1 convolutions and holds the whole matrix of attention.
The AP3D family is inflated throughout: every kernel is a 3-D one and every clip contiguous. Parameters have the
published names. No code is copied. Where a
description leaves a choice open, the faster form is used.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from published_names import published_state
from torch import Tensor, nn

from strfnet.inflation.extension import own_class
from strfnet.inflation.splicing import Followed
from strfnet.layers.head import ReIDOutput
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.reduction import TemporalReduction
from strfnet.layers.temporal import I3D, P3DA, P3DB, P3DC

Build = Callable[[Any], nn.Module]


def restate(network: Any) -> nn.Module:
    """The published computation of one of our networks, or of a `NonLocalBlock`, with its weights, dtype and mode.

    Shape: as the network or block; of a network a `ReIDOutput` without logits.
    Raises: ValueError if the network holds a unit that neither code base has, such as STRF.
    """
    restated: nn.Module
    if isinstance(network, NonLocalBlock):
        restated = NonLocal(network)
    elif network.head.pooling == "max":
        raise ValueError("network pools by the maximum over frames, wanted a mean: no published code has the former")
    else:
        restated = Inflated(network) if network.head.pooling == "max_mean" else Folded(network)
    restated.to(next(network.parameters()))
    shapes = {name: value.shape for name, value in restated.state_dict().items()}
    state = {name: value for name, value in published_state(network).items() if not name.startswith("classifier.")}
    if shapes.keys() != state.keys():
        raise ValueError(f"network holds {sorted(shapes.keys() ^ state.keys())}, wanted what published code computes")
    restated.load_state_dict({name: value.reshape(shapes[name]) for name, value in state.items()})
    return restated.train(network.training)


class NonLocal(nn.Module):
    """Non-local attention by 1x1x1 convolutions and an explicit matrix of all queries by all keys.

    Striped, the pixels of a stripe are averaged first, and what the stripe gathered is repeated over them.

    Args:
        block: ours, of which the sizes are taken.

    Shape: (b, c, t, h, w), contiguous, to the same; the matrix has (t h w)^2 or (t stripes)^2 entries a clip.
    Raises: ValueError for a form that the restated networks do not have.
    """

    def __init__(self, block: NonLocalBlock) -> None:
        super().__init__()
        if block.pool != "mean" or block.subsample or block.norm is None:
            raise ValueError(f"block must pool by the mean, keep all keys and have a norm, got {block}")
        channels, inner = block.channels, block.query.out_features
        self.stripes, self.pairing, self.window = block.stripes, block.pairing, block.window
        self.theta, self.phi, self.g = (nn.Conv3d(channels, inner, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv3d(inner, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, h, w = x.shape
        tokens = x
        if self.stripes is not None:
            if h % self.stripes:
                raise ValueError(f"x has a height of {h}, wanted a multiple of the {self.stripes} stripes")
            tokens = x.view(b, c, t, self.stripes, -1).mean(dim=4, keepdim=True)
        theta = self.theta(tokens).flatten(2).permute(0, 2, 1)
        phi = self.phi(tokens).flatten(2)
        g = self.g(tokens).flatten(2).permute(0, 2, 1)
        affinity = theta @ phi
        affinity = affinity.softmax(dim=-1) if self.pairing == "softmax" else affinity / affinity.shape[1]
        gathered = (affinity @ g).permute(0, 2, 1).contiguous()
        added = self.W(gathered.view(b, -1, *tokens.shape[2:]))
        if self.stripes is not None:
            added = added.repeat(1, 1, 1, 1, h // self.stripes * w).view(b, c, t, h, w)
        return added + x

    def on_frames(self, frames: Tensor, t: int) -> Tensor:
        """The block on folded frames, (b t, c, h, w): copied into clips of ``window`` frames, or t, and back."""
        clips = frames.view(-1, self.window or t, *frames.shape[1:]).permute(0, 2, 1, 3, 4).contiguous()
        return self(clips).permute(0, 2, 1, 3, 4).contiguous().flatten(0, 1)


class Residual(nn.Module):
    """A residual block of torchvision's ResNet, its layers made anew by ``conv`` and ``norm``."""

    def __init__(self, block: Any, conv: Build, norm: Build) -> None:
        super().__init__()
        self.depth = 3 if hasattr(block, "conv3") else 2
        for place in range(1, self.depth + 1):
            self.add_module(f"conv{place}", conv(block.get_submodule(f"conv{place}")))
            self.add_module(f"bn{place}", norm(block.get_submodule(f"bn{place}")))
        self.downsample = None
        if block.downsample is not None:
            self.downsample = nn.Sequential(conv(block.downsample[0]), norm(block.downsample[1]))

    def forward(self, x: Tensor) -> Tensor:
        out = x
        for place in range(1, self.depth + 1):
            out = self.get_submodule(f"bn{place}")(self.get_submodule(f"conv{place}")(out))
            if place < self.depth:
                out = F.relu(out, inplace=True)
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class FoldedBackbone(nn.Module):
    """The STE-NVAN backbone: 2-D on the frames of all clips, without a ReLU in the stem.

    Shape: (b t, 3, h, w) and t to (b t', c, h', w') and t', the frames left of each clip; t a multiple of 4
    where frames are merged.
    """

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv2d(backbone.conv1), _norm2d(backbone.bn1)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        # In the order of their running; parameters are named by the stages and lists that hold the modules.
        self.steps: list[Any] = []
        for name, stage in _stages(backbone):
            residuals, attending = nn.Sequential(), nn.ModuleList()
            for block in stage:
                self.steps.append(residuals.append(Residual(block, _conv2d, _norm2d))[-1])
                for unit in getattr(block, "after", ()):
                    if isinstance(unit, NonLocalBlock):
                        attending.append(NonLocal(unit))
                    elif not isinstance(unit, TemporalReduction) or unit.factor != 2:
                        raise ValueError(f"a block is followed by {unit}, which the STE-NVAN code does not have")
                    self.steps.append(attending[-1] if isinstance(unit, NonLocalBlock) else None)
            self.add_module(name, residuals)
            self.add_module(name.replace("layer", "NL_"), attending)

    def forward(self, x: Tensor, t: int) -> tuple[Tensor, int]:
        x = self.maxpool(self.bn1(self.conv1(x)))
        for step in self.steps:
            if step is None:
                x, t = x.view(-1, 2, *x.shape[1:]).amax(dim=1), t // 2
            else:
                x = step.on_frames(x, t) if isinstance(step, NonLocal) else step(x)
        return x, t


class Folded(nn.Module):
    """A network of the STE-NVAN family: its backbone, the mean over frames and places, the neck."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.features = nn.Sequential(OrderedDict(backbone=FoldedBackbone(network.backbone)))
        self.bottleneck = nn.BatchNorm1d(network.head.channels)

    def forward(self, clip: Tensor) -> ReIDOutput:
        frames = clip.transpose(1, 2).contiguous().flatten(0, 1)
        maps, t = self.features[0](frames, clip.shape[2])
        clips = maps.view(-1, t, *maps.shape[1:]).permute(0, 2, 1, 3, 4)
        feature = F.adaptive_avg_pool3d(clips, 1).flatten(1)
        return ReIDOutput(self.bottleneck(feature), feature, None)


class Inflated(nn.Module):
    """A network of the AP3D family: 3-D throughout, the maximum over places, the mean over frames, the neck."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3d(network.backbone.conv1), _norm3d(network.backbone.bn1)
        self.maxpool = nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        for name, stage in _stages(network.backbone):
            self.add_module(name, nn.Sequential(*(Residual(block, _conv3d, _norm3d) for block in stage)))
        self.bn = nn.BatchNorm1d(network.head.channels)

    def forward(self, clip: Tensor) -> ReIDOutput:
        x = self.maxpool(F.relu(self.bn1(self.conv1(clip.contiguous())), inplace=True))
        for name, stage in self.named_children():
            if name.startswith("layer"):
                x = stage(x)
        b, _, t = x.shape[:3]
        frames = x.permute(0, 2, 1, 3, 4).contiguous().flatten(0, 1)
        feature = F.max_pool2d(frames, frames.shape[2:]).view(b, t, -1).mean(dim=1)
        return ReIDOutput(self.bn(feature), feature, None)


class Temporal(nn.Module):
    """I3D or P3D-A, B or C in the place of a spatial convolution, made of 3-D convolutions."""

    def __init__(self, conv: Any) -> None:
        super().__init__()
        self.kind = own_class(conv)
        size, step, pad = _in_3d(conv)
        frames = conv.time_kernel
        if self.kind is I3D:
            self.conv3d = nn.Conv3d(
                conv.in_channels, conv.out_channels, (frames, *size[1:]), step, (frames // 2, *pad[1:]), bias=False
            )
            return
        self.spatial_conv3d = nn.Conv3d(conv.in_channels, conv.out_channels, size, step, pad, bias=False)
        beside = self.kind is P3DB
        channels, step = (conv.in_channels, step) if beside else (conv.out_channels, (1, 1, 1))
        self.temporal_conv3d = nn.Conv3d(
            channels, conv.out_channels, (frames, 1, 1), step, (frames // 2, 0, 0), bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind is I3D:
            return self.conv3d(x)
        y = self.spatial_conv3d(x)
        if self.kind is P3DA:
            return self.temporal_conv3d(y)
        return y + self.temporal_conv3d(x if self.kind is P3DB else y)


def _stages(backbone: Any) -> list[tuple[str, Any]]:
    return [(name, stage) for name, stage in backbone.named_children() if name.startswith("layer")]


def _in_3d(conv: Any) -> Any:
    """Kernel, stride and padding of a 2-D convolution as those of a 3-D one that looks at single frames."""
    return (1, *conv.kernel_size), (1, *conv.stride), (0, *conv.padding)


def _conv3d(conv: Any) -> nn.Module:
    if own_class(conv) in (I3D, P3DA, P3DB, P3DC) and not isinstance(conv, Followed):
        return Temporal(conv)
    _check_plain(conv)
    kernel, stride, padding = _in_3d(conv)
    return nn.Conv3d(conv.in_channels, conv.out_channels, kernel, stride, padding, bias=False)


def _conv2d(conv: Any) -> nn.Module:
    _check_plain(conv)
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    return nn.Conv2d(conv.in_channels, conv.out_channels, kernel, stride, padding, bias=False)


def _check_plain(conv: Any) -> None:
    if type(conv) is not nn.Conv2d or conv.groups != 1 or conv.bias is not None or conv.dilation != (1, 1):
        raise ValueError(
            f"the network holds {conv}, wanted a plain convolution, I3D or P3D: published code has no more"
        )


def _norm2d(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum)


def _norm3d(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.BatchNorm3d(norm.num_features, norm.eps, norm.momentum)
