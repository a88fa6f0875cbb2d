"""Augmentation of clips, drawn once for all frames of a clip or for each frame."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from strfnet.data.choices import Change
from strfnet.data.frames import IMAGENET_MEAN, channels

_CHANGES: tuple[Change, ...] = get_args(Change)


class Changes(NamedTuple):
    """The changes drawn for clips, whole numbers for each frame; they are applied where the clips are.

    ``crop`` (..., t, 2): top and left of the window in the enlarged frame, -1 for none. ``flip`` (..., t): 1 for
    mirroring. ``erasing`` (..., t, 4): top, left, height and width of the rectangle, zeros for none.
    """

    crop: Tensor
    flip: Tensor
    erasing: Tensor


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
        drawn = self.draw(clip.shape[1:], rng)
        return self.apply(clip[None], Changes(*(change[None] for change in drawn)))[0]

    def draw(self, shape: Sequence[int], rng: Generator) -> Changes:
        """The changes of a clip of t frames of h x w pixels, its ``shape``."""
        t, h, w = shape
        drawn = {}
        for name in _CHANGES:
            of = t if name in self.per_frame else 1
            chosen = [rng.random() < getattr(self, name) for _ in range(of)]
            values = [_DRAWN[name](h, w, rng) if one else _NONE[name] for one in chosen]
            drawn[name] = torch.tensor(values * (t // of))
        return Changes(**drawn)

    def apply(self, clips: Tensor, changes: Changes) -> Tensor:
        """Clips (b, 3, t, h, w), changed as drawn; nothing depends on a value of ``changes`` but the pixels."""
        if self.crop:
            clips = _crop(clips, changes.crop)
        if self.flip:
            clips = torch.where(changes.flip[:, None, :, None, None] > 0, clips.flip(-1), clips)
        return _erase(clips, changes.erasing, self.fill) if self.erasing else clips


def _enlarged(size: int) -> int:
    return round(size * 9 / 8)


def _drawn_window(h: int, w: int, rng: Generator) -> tuple[int, ...]:
    return tuple(int(rng.integers(_enlarged(size) - size + 1)) for size in (h, w))


def _drawn_mirror(h: int, w: int, rng: Generator) -> int:
    return 1


def _drawn_rectangle(h: int, w: int, rng: Generator) -> tuple[int, ...]:
    for _ in range(100):
        area, aspect = rng.uniform(0.02, 0.4) * h * w, rng.uniform(0.3, 1 / 0.3)
        height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if 1 <= height < h and 1 <= width < w:
            top, left = (int(rng.integers(room + 1)) for room in (h - height, w - width))
            return top, left, height, width
    return 0, 0, 0, 0


_DRAWN: dict[Change, Callable[[int, int, Generator], int | tuple[int, ...]]] = {
    "crop": _drawn_window,
    "flip": _drawn_mirror,
    "erasing": _drawn_rectangle,
}
_NONE: dict[Change, int | tuple[int, ...]] = {"crop": (-1, -1), "flip": 0, "erasing": (0, 0, 0, 0)}


def _crop(clips: Tensor, window: Tensor) -> Tensor:
    b, _, t, h, w = clips.shape
    device, size = clips.device, (_enlarged(h), _enlarged(w))
    large = F.interpolate(clips.flatten(0, 1), size, mode="bilinear", antialias=True).view(b, -1, t, *size)
    top, left = window.clamp(min=0).unbind(-1)
    rows = (top[..., None] + torch.arange(h, device=device))[..., None]
    columns = (left[..., None] + torch.arange(w, device=device))[..., None, :]
    clip, frame = torch.arange(b, device=device), torch.arange(t, device=device)
    cropped = large.movedim(1, -1)[clip.view(b, 1, 1, 1), frame.view(t, 1, 1), rows, columns].movedim(-1, 1)
    return torch.where(window[:, None, :, :1, None] < 0, clips, cropped)


def _erase(clips: Tensor, rectangle: Tensor, fill: tuple[float, float, float]) -> Tensor:
    inside = []
    for axis, size in enumerate(clips.shape[-2:]):
        first, length = rectangle[..., axis, None], rectangle[..., axis + 2, None]
        at = torch.arange(size, device=clips.device)
        inside.append((first <= at) & (at < first + length))
    erased = inside[0][..., None] & inside[1][..., None, :]
    return torch.where(erased[:, None], channels(tuple(fill), clips.device).to(clips.dtype), clips)
