"""Text that a figure can draw: glyphs of the installed fonts, and escapes of characters that none of them has."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.artist import Artist

_BOXES = "Last Resort"  # part of the name of a font that has a box for every character


def make_legible(artist: "Artist") -> None:
    """Adds fonts to the text of a figure where its own font lacks glyphs, among those that matplotlib finds.

    A character that no font has, or a byte of a name that is no UTF-8, is replaced by its escape in Python, as
    `ascii` writes it, so that names stay apart. No figure shows a box or warns.

    Args:
        artist: a figure, axes or text; its text is changed in place.
    """
    from matplotlib.font_manager import findfont
    from matplotlib.text import Text

    for text in artist.findobj(Text):
        shown = text.get_text()
        missing = sorted(set(shown) - {"\n"} - _glyphs(findfont(text.get_fontproperties())))
        fonts = {character: _font_with(character) for character in missing}
        escapes = {ord(one): one.encode("unicode_escape").decode() for one, font in fonts.items() if font is None}
        if missing:
            text.set_text(shown.translate(escapes))
            text.set_fontweight("normal")  # which most fonts have
            text.set_fontfamily([*text.get_fontfamily(), *dict.fromkeys(filter(None, fonts.values()))])


@cache
def _glyphs(path: str) -> frozenset[str]:
    """The characters of a font; none of one that matplotlib cannot draw, such as one of coloured bitmaps."""
    from matplotlib.font_manager import get_font

    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _font_with(character: str) -> str | None:
    """The name of the first upright font of normal weight that has a character."""
    from matplotlib.font_manager import findfont, fontManager

    plain = (font for font in fontManager.ttflist if (font.weight, font.style) == (400, "normal"))
    names = sorted({font.name for font in plain if _BOXES not in font.name})
    return next((name for name in names if character in _glyphs(findfont(name))), None)
