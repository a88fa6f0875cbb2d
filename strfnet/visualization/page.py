"""A page on which pictures and words are put at pixels, and its PNG file."""

import io
from typing import TYPE_CHECKING, Any

from strfnet.visualization.attention import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 90  # a letter of 8 points is then 10 pixels high


class Page:
    """A white page, measured in pixels from its upper left corner.

    Args:
        width: of the page.
        height: of the page.

    Attributes: ``figure``, matplotlib's. Raises: ImportError with the line that installs matplotlib.
    """

    def __init__(self, width: int, height: int) -> None:
        self.figure = blank(width / DPI, height / DPI)
        self.width, self.height = width, height

    def axes(self, x: int, y: int, width: int, height: int) -> "Axes":
        """A place for a picture or a colour bar."""
        down = self.height - y - height
        return self.figure.add_axes((x / self.width, down / self.height, width / self.width, height / self.height))

    def show(self, image: Images, x: int, y: int, width: int, height: int) -> "Axes":
        """An image (h, w, 3) there, in 64 steps of each colour: no eye sees them, and noise takes half the bytes."""
        axes = self.axes(x, y, width, height)
        axes.imshow((63 * image).round() / 63, interpolation="auto", aspect="auto")
        axes.set_axis_off()
        return axes

    def write(self, x: float, y: float, text: str, **how: Any) -> None:
        """Words there; a name may hold a dollar sign, which starts no formula."""
        self.figure.text(x / self.width, 1 - y / self.height, text, parse_math=False, **how)


def blank(width: float, height: float) -> "Figure":
    """A white figure, in inches. Raises: ImportError with the line that installs matplotlib if it is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('pictures need matplotlib: pip install "strfnet[viz]"') from error
    return Figure(figsize=(width, height), dpi=DPI, facecolor="white")


def png(figure: "Figure") -> bytes:
    """The figure as a PNG file; equal figures give equal bytes with one release of matplotlib."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=DPI, pil_kwargs={"optimize": True})
    return file.getvalue()
