"""Image files decoded into normalised clips."""

import sys
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from strfnet.data.choices import Interpolation
from strfnet.data.tracklet import Frame
from strfnet.system.reading import naming, open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MAX_PIXELS = 2**24  # 4096 x 4096: reading such a frame takes about 0.4 GiB
_FILTERS = Lock()  # of the warnings, which are those of the process
_noted: set[tuple[str, str]] = set()  # frames and their warnings, where warnings are errors


def read_clip(
    frames: Sequence[Frame],
    indices: Sequence[int],
    size: tuple[int, int] = (256, 128),
    *,
    interpolation: str = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """The frames at ``indices``, resized and normalized with ImageNet's mean and standard deviation.

    Args:
        frames: of a tracklet.
        indices: of the frames, in the order of the clip; a repeated frame is decoded once.
        size: height and width in pixels; the aspect is not kept.
        interpolation: "bilinear" or "bicubic", both antialiased. Bilinear values are rounded to bytes, as by Pillow;
            bicubic values are clamped to 0 .. 1.
        max_pixels: of a file; a larger image is not decoded.

    A JPEG file is decoded at 1/2, 1/4 or 1/8 of its size if that is at least twice the wanted size.

    Returns: float32 (c, t, h, w), c being red, green and blue.
    Raises: ValueError for a frame that cannot be read (naming its path), no indices, one out of range, a
    size below 1, or another interpolation.
    """
    return normalize(read_pixels(frames, indices, size, interpolation=interpolation, max_pixels=max_pixels))


def read_pixels(
    frames: Sequence[Frame],
    indices: Sequence[int],
    size: tuple[int, int] = (256, 128),
    *,
    interpolation: str = "bilinear",
    max_pixels: int = MAX_PIXELS,
) -> Tensor:
    """The frames of `read_clip` before normalization: uint8, or float32 in 0 .. 1 if one is 16-bit or bicubic."""
    if not indices or not all(0 <= index < len(frames) for index in indices):
        raise ValueError(f"indices are {list(indices)}, wanted one or more from 0 to {len(frames) - 1}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, wanted height and width of at least 1 pixel")
    if interpolation not in get_args(Interpolation):
        raise ValueError(f"interpolation must be one of bilinear, bicubic, got {interpolation!r}")
    read = {index: _resize(_read(frames[index], max_pixels, size), size, interpolation) for index in set(indices)}
    if len({image.dtype for image in read.values()}) > 1:
        read = {index: as_float(image) for index, image in read.items()}
    # NumPy copies in this thread; torch would start threads, which compete with those of the network.
    images = [read[index].numpy() for index in indices]
    return torch.from_numpy(np.stack(images, axis=1, out=np.empty((3, len(images), *size), images[0].dtype)))


def normalize(pixels: Tensor) -> Tensor:
    """Clips (..., 3, t, h, w) of uint8, or of floats in 0 .. 1, with ImageNet's mean and standard deviation."""
    mean, std = (channels(values, pixels.device) for values in (IMAGENET_MEAN, IMAGENET_STD))
    values = pixels.float().div_(255).sub_(mean) if pixels.dtype == torch.uint8 else pixels - mean
    return values.div_(std)


@cache
def channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """A number for each channel of a clip, (3, 1, 1, 1), which is copied to a device only once."""
    with torch.inference_mode(False):
        return torch.tensor(values, device=device).view(3, 1, 1, 1)


def as_float(pixels: Tensor) -> Tensor:
    """Pixels of uint8 as float32 in 0 .. 1; floats stay as they are."""
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def read_frame(frame: str | Frame, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """One JPEG or PNG file, or an image in memory, as RGB with values in 0 .. 1.

    Gray, palette and CMYK images are converted to RGB; alpha is ignored; 16-bit gray is divided by 65535 (of 16-bit
    color Pillow keeps the upper 8 bits); the EXIF orientation is applied. Of the images of a phone's JPEG file (MPO)
    the first is read.

    Returns: float32 (3, h, w).
    Raises: ValueError naming the path if the file is missing, no regular file, damaged, truncated, of more than
    ``max_pixels`` or than Pillow's limit, or not a still image; or if an image in memory is not (h, w, 3) of uint8.
    """
    return as_float(_read(frame, max_pixels))


def _read(frame: str | Frame, max_pixels: int, size: tuple[int, int] | None = None) -> Tensor:
    """`read_frame` with the values of the file, (3, h, w): uint8, but 16-bit gray as float32 in 0 .. 1.

    A JPEG file may be decoded at a fraction of its size, but not below twice ``size``.
    """
    if isinstance(frame, np.ndarray):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame in memory is {frame.dtype} {frame.shape}, wanted uint8 (h, w, 3)")
        # A copy, because torch has no view of an array that is read-only or reversed.
        return torch.from_numpy(frame.copy()).permute(2, 0, 1)
    try:
        with open_regular(frame) as file:
            try:
                with naming(frame, "PIL"):
                    return _decode(file, max_pixels, size)
            except Warning as warning:  # the filters of the process make it an error
                _note(frame, warning)
                with _FILTERS, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    return _decode(file, max_pixels, size)
    except Exception as error:  # Pillow's decoders raise their own kinds for forged files, beside OSError
        reason = getattr(error, "strerror", None) or error or type(error).__name__
        raise ValueError(f"cannot read the frame {frame}: {reason}") from error


def _decode(file: BinaryIO, max_pixels: int, size: tuple[int, int] | None) -> Tensor:
    from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

    try:
        opened = Image.open(file, formats=("JPEG", "PNG"))
    except UnidentifiedImageError as error:  # it names an object in place of the path
        raise ValueError("cannot identify image file, wanted JPEG or PNG") from error
    with opened as image:
        _check_image(image, max_pixels)
        image.info.pop("transparency", None)  # alpha is ignored, and of a palette's Pillow warns
        if size is not None:
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            h, w = size[::-1] if sideways else size
            image.draft(None, (2 * w, 2 * h))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode.startswith("I"):
            grey = torch.from_numpy(np.array(image, dtype=np.float32) / 65535)
            return grey.expand(3, -1, -1)
        pixels = torch.from_numpy(np.array(image if image.mode == "RGB" else image.convert("RGB")))
    return pixels.permute(2, 0, 1)


def _check_image(image: "Image", max_pixels: int) -> None:
    """Raises: ValueError for an animation, or an image of more than ``max_pixels``; nothing is decoded yet."""
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("it is an animation, wanted one image")
    if image.width * image.height > max_pixels:
        wanted = f"wanted at most max_pixels = {max_pixels}"
        raise ValueError(f"it has {image.width} x {image.height} = {image.width * image.height} pixels, {wanted}")


def _note(frame: str | Path, warning: Warning) -> None:
    """Prints once what Pillow warns of in the metadata of a frame, which is read all the same."""
    if (note := (str(frame), str(warning))) not in _noted:
        _noted.add(note)
        print(f"{frame}: {warning}", file=sys.stderr)


def _resize(image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if image.shape[1:] == size:
        return image
    if interpolation == "bicubic":
        image = as_float(image)
    resized = F.interpolate(image[None], size=size, mode=interpolation, antialias=True)[0]
    return resized.clamp_(0, 1) if resized.is_floating_point() else resized
