"""Figures of clips: maps over their frames, what matched in two of them, and ranked lists with marked matches."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD, MAX_PIXELS, read_clip
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.visualization.attention import Images, Place, at_frames, lay_over
from strfnet.visualization.captions import caption_of, shortened, shown_frames
from strfnet.visualization.matching import MatchedRegions
from strfnet.visualization.page import SMALL, Page
from strfnet.visualization.ranked_items import NOT_COUNTED, RIGHT, WRONG, RankedItem, check_rows

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis"  # perceptually uniform, also in grey and for colour-blind readers
MARKS = {RIGHT: ("#1a9850", "✓"), WRONG: ("#d73027", "✗"), NOT_COUNTED: ("#9a9a9a", "–")}
BOTH_WAYS = "RdBu_r"  # red above 0, blue below
QUERY = "#2b5c9e"
BORDER, THUMB = 5, (190, 102)  # pixels: border of a tracklet, size with its border (h, w)
HEAD, STEP = 70, (290, 128)  # pixels: title, step between tracklets (y, x)
_RING = "#d4006a"
_BETWEEN = 10  # pixels between rows
_WIDTH = 72  # largest width of a frame in pixels
_LETTERS = 17  # that fit below a tracklet
_PAIRS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442")  # Okabe and Ito, as in curves


def draw_masks(clip: Tensor, masks: Mapping[str, Mapping[str, Tensor]], *, title: str = "") -> "Figure":
    """Draws every mask of every STRF unit over the frames: frames are columns, masks are rows.

    The colour bar of a row spans the smallest to the largest value of its mask.

    Args:
        clip: (3, t, h, w), normalized as by `strfnet.data.read_clip`.
        masks: output of `masks_of`; the first clip of the batch is drawn.
        title: title of the figure.

    Raises: ImportError if matplotlib is missing.
    Source: the layout is that of the poster of Aich et al., STRF, ICCV 2021.
    """
    rows = {f"{path}\n{unit}": mask[0, 0] for path, units in masks.items() for unit, mask in units.items()}
    return _draw_rows(clip, rows, title, None)


def draw_attention(clip: Tensor, attention: Mapping[str, Tensor], place: Place, *, title: str = "") -> "Figure":
    """Draws the attention of one pixel over the frames, a row for each block; a ring marks the pixel.

    The colour bar of a row spans 0 to the weight that 99 % of the keys do not exceed, so that a single large weight
    leaves the others visible; the largest weight is printed. Frames outside the window of a block are dark grey.

    Args:
        clip: (3, t, h, w), normalized.
        attention: output of `attention_of` for ``place``; the first clip of the batch is drawn.
        place: frame, row and column of the pixel.
        title: title of the figure.

    Raises: ImportError if matplotlib is missing.
    """
    return _draw_rows(clip, {path: weights[0] for path, weights in attention.items()}, title, place)


def draw_ranked_lists(
    data_set: DataSet,
    lists: Mapping[int, Sequence[RankedItem]],
    *,
    notes: Mapping[int, str] | None = None,
    title: str = "",
    max_pixels: int = MAX_PIXELS,
) -> "Figure":
    """Draws queries and their ranked lists: the middle frame of each tracklet, with its distance and what is known.

    Right items have a green border, wrong items a red one, and items that are not counted a grey one.

    Args:
        data_set: the data set.
        lists: the output of `ranked_list` by query, a row of ``data_set.test``.
        notes: a line about a query, such as its AP.
        title: title of the figure.
        max_pixels: of an image file; a larger image is not decoded.

    Raises: ValueError if there are no lists, a row is no test tracklet, or a frame cannot be read; ImportError if
    matplotlib is missing.
    """
    if not lists:
        raise ValueError("got no ranked lists to draw, wanted at least 1")
    check_rows(data_set, lists)
    columns = 1 + max(len(found) for found in lists.values())
    page = _titled(title, columns * STEP[1], HEAD + len(lists) * STEP[0])
    page.write(10, 50, "query", color=QUERY, fontsize=10)
    for place, (mark, (colour, sign)) in enumerate(MARKS.items()):
        page.write(70 + 80 * place, 50, f"{sign} {mark}", color=colour, fontsize=10)
    for row, (query, found) in enumerate(lists.items()):
        note = (notes or {}).get(query, "query")
        _draw_tracklet(page, row, 0, data_set.test[query], query, QUERY, note, max_pixels)
        for column, item in enumerate(found, start=1):
            colour, sign = MARKS[item.mark]
            text = f"{sign} {item.distance:.3f}"
            _draw_tracklet(page, row, column, data_set.test[item.row], item.row, colour, text, max_pixels)
    return page.figure


def draw_match(
    query: Tensor, gallery: Tensor, regions: MatchedRegions, *, pairs: int = 5, title: str = ""
) -> "Figure":
    """Draws why two clips match or do not: their middle frames, the regions that count, and the pairs alike.

    On the outside, red regions make the clips similar and blue ones dissimilar, on one scale. On the inside, numbers
    mark the pairs of regions that contribute most to the similarity, the strongest first.

    Args:
        query: (3, t, h, w), normalized.
        gallery: (3, t, h, w), normalized, of the other tracklet.
        regions: output of `match_regions` for the two clips.
        pairs: largest number of pairs.
        title: title of the figure.

    Raises: ImportError if matplotlib is missing.
    """
    down, across, step, gallery_at = 320, 160, 170, 420  # pixels; the gallery item's first image is at 420
    page = _titled(title, 880, HEAD + down + 44)
    from matplotlib import colormaps  # behind `_titled`, which names the extra

    largest = max(float(maps.abs().max()) for maps in (regions.query, regions.gallery)) or 1.0
    for clip, maps, name, at, coloured, plain in (
        (query, regions.query, "query", 20, 20, 20 + step),
        (gallery, regions.gallery, "gallery item", gallery_at, gallery_at + step, gallery_at),
    ):
        images = images_of(clip[:, [clip.shape[1] // 2]])
        shares = (at_frames(maps[None], images.shape[:3]).numpy() / largest + 1) / 2
        page.show(lay_over(images, shares, colormaps[BOTH_WAYS])[0], coloured, HEAD, across, down)
        page.show(images[0], plain, HEAD, across, down)
        page.write(at, HEAD - 6, name, fontsize=SMALL, va="bottom")
    rows, columns = regions.query.shape
    found = regions.strongest(pairs)
    for number, (*cells, _) in enumerate(found):
        ends = [
            (x + (column + 0.5) * across / columns, HEAD + (row + 0.5) * down / rows)
            for x, (row, column) in zip((20 + step, gallery_at), cells, strict=True)
        ]
        page.join(ends, label=f"{number + 1}", color=_PAIRS[number % len(_PAIRS)])
    _draw_scale(page, gallery_at + step + across + 15, HEAD + 20, down - 40, (-largest, largest), BOTH_WAYS)
    about = f"similarity {regions.similarity:.3f}; colours: what it loses when a region is hidden"
    strengths = "   ".join(f"{number}: {share:.2g}" for number, (_, _, share) in enumerate(found, start=1))
    page.write(20, HEAD + down + 18, about, fontsize=SMALL)
    page.write(20, HEAD + down + 34, f"pairs   {strengths or 'none is alike'}", fontsize=SMALL)
    return page.figure


def images_of(clip: Tensor) -> Images:
    """Returns the frames of a normalized clip (3, t, h, w) as images (t, h, w, 3) from 0 to 1."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images: Images = (clip.float().cpu() * std + mean).clamp(0, 1).permute(1, 2, 3, 0).numpy()
    return images


def _draw_rows(clip: Tensor, rows: Mapping[str, Tensor], title: str, place: Place | None) -> "Figure":
    """Draws the frames, then a row for each map (t', h', w'); with a place, its ring and colour bars from 0."""
    frames = images_of(clip)
    t, h, w = frames.shape[:3]
    scale = max(_WIDTH // w, 1) if w <= _WIDTH else _WIDTH / w
    gap = max(round(4 / scale), 1)
    across, down = round((t * (w + gap) - gap) * scale), round(h * scale)
    left = 24 + 7 * max(len(line) for label in rows for line in label.splitlines())
    page = _titled(title, left + across + 100, HEAD + (len(rows) + 1) * (down + _BETWEEN))
    for frame in range(t):
        middle = left + (frame * (w + gap) + w / 2) * scale
        page.write(middle, HEAD - 6, f"{frame + 1}", fontsize=SMALL, ha="center", va="bottom")
    for row, (label, images, values, largest) in enumerate(_rows(frames, rows, place)):
        y = HEAD + row * (down + _BETWEEN)
        page.write(left - 10, y + down / 2, label, fontsize=SMALL, ha="right", va="center")
        axes = page.show(_strip(images, gap), left, y, across, down)
        if place is not None:
            x = place[0] * (w + gap) + place[2]
            axes.plot(x, place[1], "o", markersize=9, markerfacecolor="none", color="white", markeredgewidth=2.5)
            axes.plot(x, place[1], "o", markersize=9, markerfacecolor="none", color=_RING, markeredgewidth=1.2)
        if values is not None:
            _draw_scale(page, left + across + 10, y + down // 10, down * 4 // 5, values, COLOURS, largest)
    return page.figure


def _titled(title: str, width: int, height: int) -> Page:
    """A page with a title of one line or two, and wide enough for it."""
    page = Page(max(width, 20 + 10 * max(map(len, title.split("\n")))), height)
    first, _, second = title.partition("\n")
    page.write(10, 24, first, fontsize=11, weight="bold")
    page.write(10, 42, second, fontsize=9)
    return page


def _draw_scale(
    page: Page, x: int, y: int, height: int, values: tuple[float, float], colours: str, largest: float | None = None
) -> None:
    """Draws a colour bar; ``largest`` is a value beyond its end, which has the colour of the end."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = page.figure.colorbar(ScalarMappable(Normalize(*values), colours), cax=page.axes(x, y, 8, height))
    labels = [f"{value:.2g}" for value in values]
    if largest is not None and largest > values[1]:
        labels[1] = f"≥ {labels[1]}\nmax {largest:.2g}"
    bar.set_ticks(list(values), labels=labels)
    bar.ax.tick_params(labelsize=SMALL, length=2)


def _rows(
    frames: Images, rows: Mapping[str, Tensor], place: Place | None
) -> Iterator[tuple[str, Images, tuple[float, float] | None, float | None]]:
    """Yields label, images, range and largest value of each row; the frames are the first row."""
    from matplotlib import colormaps

    yield "frames", frames, None, None
    for label, maps in rows.items():
        maps = maps.float().cpu()
        known = maps[~maps.isnan()]
        largest = float(known.max())
        low, high = (float(known.min()), largest) if place is None else (0.0, _robust_end(known))
        spread = high - low if high > low else 1.0
        shares = ((at_frames(maps, frames.shape[:3]).numpy() - low) / spread).clip(max=1)
        yield label, lay_over(frames, shares, colormaps[COLOURS]), (low, low + spread), largest


def _robust_end(weights: Tensor) -> float:
    """The weight that 99 % do not exceed, and at least one does if there are two; the largest if that is 0."""
    ordered = weights.flatten().sort().values
    end = float(ordered[int(0.99 * (len(ordered) - 1))])
    return end if end > 0 else float(ordered[-1])


def _strip(images: Images, gap: int) -> Images:
    """Frames side by side, (h, t w + gaps, 3), with white gaps."""
    spaced = np.pad(images, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=1)
    return np.concatenate(spaced, axis=1)[:, :-gap]


def framed(tracklet: Tracklet | None, colour: str, max_pixels: int = MAX_PIXELS) -> Images:
    """The middle frame of a tracklet within a border, (h, w, 3); light grey for None."""
    from matplotlib.colors import to_rgb

    h, w = THUMB
    image: Images = np.tile(to_rgb(colour), (h, w, 1))
    inside = image[BORDER:-BORDER, BORDER:-BORDER]
    inside[...] = 0.93
    if tracklet is not None:
        clip = read_clip(tracklet.frames, shown_frames(tracklet, 1), inside.shape[:2], max_pixels=max_pixels)
        inside[...] = images_of(clip)[0]
    return image


def _draw_tracklet(
    page: Page, line: int, column: int, tracklet: Tracklet, row: int, colour: str, text: str, max_pixels: int
) -> None:
    """Draws the middle frame of a tracklet within its border, and below it the text and what is known of it."""
    y, x = HEAD + line * STEP[0], 6 + column * STEP[1]
    h, w = THUMB
    (frame,) = shown_frames(tracklet, 1)
    page.show(framed(tracklet, colour, max_pixels), x, y, w, h)
    lines = [text, *(shortened(words, _LETTERS) for words in caption_of(tracklet, row, frame))]
    page.write(x, y + h + 4, "\n".join(lines), fontsize=SMALL, va="top", color="#222222", linespacing=1.1)
