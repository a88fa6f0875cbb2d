"""A figure whose images and text are placed in pixels, and its PNG file."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from strfnet.visualization.attention import Images
from strfnet.visualization.glyphs import make_legible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 90
SMALL = 9  # points, the size of the smallest text: 11 pixels


class Page:
    """A white figure with coordinates in pixels from its upper left corner.

    Args:
        width: width in pixels.
        height: height in pixels.

    Attributes: ``figure``, a matplotlib figure. Raises: ImportError if matplotlib is missing.
    """

    def __init__(self, width: int, height: int) -> None:
        self.figure = blank(width / DPI, height / DPI)
        self.width, self.height = width, height

    def axes(self, x: int, y: int, width: int, height: int) -> "Axes":
        """Adds axes for an image or a colour bar."""
        down = self.height - y - height
        return self.figure.add_axes((x / self.width, down / self.height, width / self.width, height / self.height))

    def show(self, image: Images, x: int, y: int, width: int, height: int) -> "Axes":
        """Draws an image (h, w, 3) in 64 levels of each colour, which halves the size of noisy images."""
        axes = self.axes(x, y, width, height)
        axes.imshow((63 * image).round() / 63, interpolation="auto", aspect="auto")
        axes.set_axis_off()
        return axes

    def join(self, ends: Sequence[tuple[float, float]], label: str, color: str) -> None:
        """Draws a line between two places (x, y), with a labelled disc at either end."""
        from matplotlib.lines import Line2D

        xs, ys = [x / self.width for x, _ in ends], [1 - y / self.height for _, y in ends]
        self.figure.add_artist(
            Line2D(xs, ys, color=color, linewidth=1.5, marker="o", markersize=14, markeredgecolor="white")
        )
        for x, y in ends:
            self.write(x, y, label, fontsize=SMALL, weight="bold", ha="center", va="center", zorder=5)

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        """Draws text in fonts that have its glyphs; a dollar sign does not start a formula."""
        make_legible(self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **how))


def blank(width: float, height: float) -> "Figure":
    """Returns a white figure; sizes are in inches. Raises: ImportError if matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('figures need matplotlib: pip install "strfnet[viz]"') from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def png(figure: "Figure") -> bytes:
    """Returns the figure as a PNG file; equal figures give equal bytes with one release of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"optimize": True})
    return file.getvalue()
