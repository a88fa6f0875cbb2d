"""Image files decoded into normalised clips."""

import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_clip(frames: Sequence[Path], indices: Sequence[int], size: tuple[int, int] = (256, 128)) -> Tensor:
    """The frames at ``indices``, resized and normalised with ImageNet's mean and deviation.

    Args:
        frames: the image files of a tracklet.
        indices: which of them, in this order; one named twice is decoded once.
        size: height and width in pixels; bilinear, antialiased, without keeping the aspect.

    Returns: float32 (c, t, h, w), c being red, green and blue.
    Raises: ValueError for a frame that cannot be read (naming its path), no indices, one out of range, or a
    size below 1.
    """
    if not indices or not all(0 <= index < len(frames) for index in indices):
        raise ValueError(f"indices are {list(indices)}, wanted one or more from 0 to {len(frames) - 1}")
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"size is {size}, wanted height and width of at least 1 pixel")
    resized = {index: _resize(read_frame(frames[index]), size) for index in set(indices)}
    clip = torch.stack([resized[index] for index in indices], dim=1)
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (clip - mean) / std


def read_frame(path: str | Path) -> Tensor:
    """One image file as RGB, its values in 0 .. 1.

    Grey becomes three equal channels, palettes are looked up, CMYK is converted by the decoder, transparency
    is ignored (the stored colour counts), 16-bit values are divided by 65535, EXIF orientation is applied.

    Returns: float32 (3, h, w).
    Raises: ValueError naming the path if the file is missing, damaged, truncated or no still image.
    """
    from torchvision.io import decode_image

    try:
        encoded = Path(path).read_bytes()
        _check_png(encoded)
        # The copy in a bytearray is writable, as torch wants it.
        data = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        image = decode_image(data, mode="RGB", apply_exif_orientation=True)
    except (OSError, RuntimeError, ValueError) as error:
        raise ValueError(f"cannot read the frame {path}: {_reason(error)}") from error
    if image.ndim != 3:
        raise ValueError(f"cannot read the frame {path}: it is an animation, wanted one image")
    return image.float() / torch.iinfo(image.dtype).max


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(image[None], size=size, mode="bilinear", antialias=True)[0]


def _check_png(encoded: bytes) -> None:
    """Refuse a PNG that is cut or whose checksums fail: torchvision 0.29 ends the whole process on these."""
    signature = b"\x89PNG\r\n\x1a\n"
    at, kind = len(signature), b""
    while encoded.startswith(signature) and kind != b"IEND":
        end = at + 8 + int.from_bytes(encoded[at : at + 4])  # a chunk: length, kind, data, checksum
        kind, checksum = encoded[at + 4 : at + 8], encoded[end : end + 4]
        if len(checksum) < 4:
            raise ValueError("the PNG is truncated")
        if zlib.crc32(encoded[at + 4 : end]) != int.from_bytes(checksum):
            raise ValueError(f"the PNG is damaged in its chunk {kind!r}")
        at = end + 4


def _reason(error: Exception) -> str:
    """What went wrong, without the place in torchvision's own source that stands before it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return re.sub(r"^.*\.cpp:\d+, ", "", str(error).partition("\n")[0]) or "it is empty"
