"""A canvas on which soft-edged shapes are painted, one plane for each colour channel."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]  # hue, saturation, value, each 0 .. 1


class Canvas:
    """The frames of a tracklet and the places of their pixels.

    Args:
        image: (3, t, h, w) float32, red, green and blue in planes; painted on in place.
        pixels_per_unit: how many pixels one unit of ``x`` and ``y`` covers.

    Attributes: ``y`` (t, h, 1) and ``x`` (t, 1, w), the middles of the pixels in units, from the upper left corner.
    """

    def __init__(self, image: Array, pixels_per_unit: float) -> None:
        t, h, w = image.shape[1:]
        self.image = image
        self.y = np.tile((np.arange(h, dtype=np.float32)[:, None] + 0.5) / pixels_per_unit, (t, 1, 1))
        self.x = np.tile((np.arange(w, dtype=np.float32) + 0.5) / pixels_per_unit, (t, 1, 1))
        self.sharpness = 2.5 * pixels_per_unit

    def cover(self, distance: Array) -> Array:
        """How much of a pixel lies within a shape, from the distance to its edge (inside: positive)."""
        return 1 / (1 + np.exp(-(self.sharpness * distance).clip(-30, 30)))

    def paint(self, distance: Array, colour: Array) -> None:
        """Lay a colour, (3, 1, 1, 1) or any part of (3, t, h, w), over the inside of a shape (t, h, w)."""
        self.image += self.cover(distance) * (colour - self.image)


def box(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    """The distance to the edge of a box around (0, 0), positive inside."""
    return np.minimum(half_width - abs(u), half_height - abs(v))


def limb(u: Array, v: Array, top: float, bottom: float, start: float, swing: Array, half: float) -> Array:
    """The same for a bar that hangs from ``start`` and whose lower end is swung aside."""
    middle = start + swing * (v - top) / (bottom - top)
    return np.minimum(half - abs(u - middle), np.minimum(v - top, bottom - v))


def planes(rgb: Array) -> Array:
    """A colour (3,) as float32 (3, 1, 1, 1), to be laid over planes."""
    return np.asarray(rgb, dtype=np.float32).reshape(3, 1, 1, 1)


def pigment(colour: Colour) -> Array:
    """Hue, saturation and value as planes of red, green and blue."""
    return planes(np.array(colorsys.hsv_to_rgb(*colour)))


def cloud(cells: Array, height: int) -> Array:
    """Values of a grid of cells (rows, columns, 3) spread linearly over (3, 1, height, height // 2) pixels."""
    rows, columns = _between(cells.shape[0], height), _between(cells.shape[1], height // 2)
    return (rows @ np.moveaxis(cells, -1, 0) @ columns.T)[:, None]


def _between(cells: int, pixels: int) -> Array:
    """Weights (pixels, cells) of linear interpolation between cells' centres; flat beyond the outer ones."""
    at = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    return (1 - abs(at.clip(0, cells - 1)[:, None] - np.arange(cells))).clip(0).astype(np.float32)
