"""A canvas for soft-edged shapes, one plane per colour channel."""

import colorsys

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Colour = tuple[float, float, float]  # hue, saturation, value, each in 0 .. 1


class Canvas:
    """The frames of a tracklet and the coordinates of their pixels.

    Args:
        image: (3, t, h, w) float32, planes of red, green and blue; painted in place.
        pixels_per_unit: pixels per unit of ``x`` and ``y``.

    Attributes: ``y`` (t, h, 1) and ``x`` (t, 1, w), the pixel centres in units from the upper left corner.
    """

    def __init__(self, image: Array, pixels_per_unit: float) -> None:
        t, h, w = image.shape[1:]
        self.image = image
        self.y = np.tile((np.arange(h, dtype=np.float32)[:, None] + 0.5) / pixels_per_unit, (t, 1, 1))
        self.x = np.tile((np.arange(w, dtype=np.float32) + 0.5) / pixels_per_unit, (t, 1, 1))
        self.sharpness = 2.5 * pixels_per_unit

    def cover(self, distance: Array) -> Array:
        """Returns the share of each pixel inside a shape, given the distance to its edge (positive inside)."""
        return 1 / (1 + np.exp(-(self.sharpness * distance).clip(-30, 30)))

    def paint(self, distance: Array, colour: Array) -> None:
        """Paints a colour, broadcastable to (3, t, h, w), over the inside of a shape, (t, h, w)."""
        self.image += self.cover(distance) * (colour - self.image)


def box(u: Array, v: Array, half_width: float, half_height: float) -> Array:
    """Returns the distance to the edge of a box around (0, 0), positive inside."""
    return np.minimum(half_width - abs(u), half_height - abs(v))


def limb(u: Array, v: Array, top: float, bottom: float, start: float, swing: Array, half: float) -> Array:
    """Returns the distance to the edge of a bar from ``start`` at the top to ``start + swing`` at the bottom."""
    middle = start + swing * (v - top) / (bottom - top)
    return np.minimum(half - abs(u - middle), np.minimum(v - top, bottom - v))


def planes(rgb: Array) -> Array:
    """Returns a colour (3,) as float32 (3, 1, 1, 1)."""
    return np.asarray(rgb, dtype=np.float32).reshape(3, 1, 1, 1)


def pigment(colour: Colour) -> Array:
    """Returns planes of red, green and blue for hue, saturation and value."""
    return planes(np.array(colorsys.hsv_to_rgb(*colour)))


def cloud(cells: Array, height: int) -> Array:
    """Returns a grid of cells (rows, columns, 3), interpolated linearly to (3, 1, height, height // 2) pixels."""
    rows, columns = _between(cells.shape[0], height), _between(cells.shape[1], height // 2)
    return (rows @ np.moveaxis(cells, -1, 0) @ columns.T)[:, None]


def _between(cells: int, pixels: int) -> Array:
    """Returns weights (pixels, cells) of linear interpolation, constant beyond the outer cell centres."""
    at = (np.arange(pixels) + 0.5) * cells / pixels - 0.5
    return (1 - abs(at.clip(0, cells - 1)[:, None] - np.arange(cells))).clip(0).astype(np.float32)
