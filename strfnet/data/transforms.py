"""Augmentation of clips, drawn once for all frames of a clip or for each frame."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import get_args

import torch
from numpy.random import Generator
from torch import Tensor

from strfnet.data.choices import Change
from strfnet.data.frames import IMAGENET_MEAN

_CHANGES: tuple[Change, ...] = get_args(Change)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of a training clip, each with a probability: cropping, then mirroring, then erasing.

    - Cropping enlarges by 1/8 (bilinear) and takes a window of the old size at a uniform position.
    - Erasing fills a rectangle of 2 to 40 % of the area, its height 0.3 to 3.33 times its width, both uniform. Up to
      100 rectangles are drawn until one is smaller than the frame; else nothing is erased.

    Args:
        flip: probability of mirroring.
        crop: probability of enlarging and cropping.
        erasing: probability of erasing.
        fill: red, green and blue of the rectangle. Like the published code, the default puts ImageNet's means into
            clips that are normalized already, so that the rectangle is lighter than the mean.
        per_frame: the changes that are drawn for each frame: () for STE-NVAN, AP3D and BiCnet-TKS, ("erasing",) for
            CF-AAN, all three for torchreid.

    Raises: ValueError for a probability outside 0 .. 1, or another name.
    Source: the named code bases; erasing is Zhong et al., Random Erasing, AAAI 2020, arXiv:1708.04896; enlarging and
    cropping is Video-Person-ReID's, which draws positions at the edges half as often.
    """

    flip: float = 0.5
    crop: float = 0.0
    erasing: float = 0.0
    fill: tuple[float, float, float] = IMAGENET_MEAN
    per_frame: tuple[Change, ...] = ()

    def __post_init__(self) -> None:
        for name in _CHANGES:
            probability = getattr(self, name)
            if isinstance(probability, bool) or not 0 <= probability <= 1:
                raise ValueError(f"{name} is {probability}, wanted a probability from 0 to 1")
        if not isinstance(self.per_frame, tuple | list) or not set(self.per_frame) <= set(_CHANGES):
            raise ValueError(f"per_frame is {self.per_frame!r}, wanted some of {', '.join(_CHANGES)}")
        if len(self.fill) != 3:
            raise ValueError(f"fill is {self.fill}, wanted red, green and blue")

    def __call__(self, clip: Tensor, rng: Generator) -> Tensor:
        """A changed clip of the same shape; ``clip`` is not modified.

        Args:
            clip: normalized, (3, t, h, w).
            rng: source of all randomness.

        Raises: ValueError for another shape.
        """
        if clip.ndim != 4 or len(clip) != 3:
            raise ValueError(f"clip is {tuple(clip.shape)}, wanted (3, t, h, w)")
        changes: dict[str, Callable[[Tensor, Generator], Tensor]] = {
            "crop": _crop,
            "flip": _flip,
            "erasing": partial(_erase, fill=self.fill),
        }
        for name in _CHANGES:
            frames = clip.split(1, dim=1) if name in self.per_frame else (clip,)
            chosen = [rng.random() < getattr(self, name) for _ in frames]
            if any(chosen):
                pairs = zip(frames, chosen, strict=True)
                clip = torch.cat([changes[name](part, rng) if drawn else part for part, drawn in pairs], dim=1)
        return clip


def _flip(clip: Tensor, rng: Generator) -> Tensor:
    from torchvision.transforms.v2.functional import horizontal_flip

    return horizontal_flip(clip)


def _crop(clip: Tensor, rng: Generator) -> Tensor:
    from torchvision.transforms.v2.functional import crop, resize

    h, w = clip.shape[-2:]
    height, width = round(h * 9 / 8), round(w * 9 / 8)
    top, left = (int(rng.integers(room + 1)) for room in (height - h, width - w))
    return crop(resize(clip, [height, width]), top, left, h, w)


def _erase(clip: Tensor, rng: Generator, *, fill: tuple[float, float, float]) -> Tensor:
    from torchvision.transforms.v2.functional import erase

    h, w = clip.shape[-2:]
    for _ in range(100):
        area, aspect = rng.uniform(0.02, 0.4) * h * w, rng.uniform(0.3, 1 / 0.3)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 1 <= height < h and 1 <= width < w:
            top, left = (int(rng.integers(room + 1)) for room in (h - height, w - width))
            return erase(clip, top, left, height, width, clip.new_tensor(fill).view(3, 1, 1, 1))
    return clip
