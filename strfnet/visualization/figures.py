"""Figures of clips: maps over their frames, and ranked lists with right and wrong matches marked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD, MAX_PIXELS, read_clip
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.visualization.attention import Images, Place, at_frames, lay_over
from strfnet.visualization.page import Page
from strfnet.visualization.ranked_lists import NOT_COUNTED, RIGHT, WRONG, RankedItem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "viridis"  # perceptually uniform, also in grey and for colour-blind readers
MARKS = {RIGHT: ("#1a9850", "✓"), WRONG: ("#d73027", "✗"), NOT_COUNTED: ("#9a9a9a", "–")}
QUERY = "#2b5c9e"
BORDER, THUMB = 5, (138, 74)  # pixels: border of a tracklet, size with its border (h, w)
_RING = "#d4006a"
_HEAD, _STEP, _BETWEEN = 70, (186, 86), 10  # pixels: title, step between tracklets (y, x), between rows
_WIDTH = 72  # largest width of a frame in pixels


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

    The colour bar of a row spans 0 to its largest weight. Frames outside the window of a block are dark grey.

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
    """Draws queries and their ranked lists: the middle frame of each tracklet, with its distance.

    Right items have a green border, wrong items a red one, and items that are not counted a grey one.

    Args:
        data_set: the data set.
        lists: the output of `ranked_list` by query, a row of ``data_set.test``.
        notes: a line about a query, such as its AP.
        title: title of the figure.
        max_pixels: of an image file; a larger image is not decoded.

    Raises: ValueError if there are no lists, or a frame cannot be read; ImportError if matplotlib is missing.
    """
    if not lists:
        raise ValueError("got no ranked lists to draw, wanted at least 1")
    columns = 1 + max(len(found) for found in lists.values())
    page = _titled(title, columns * _STEP[1], _HEAD + len(lists) * _STEP[0])
    page.write(10, 50, "query", color=QUERY, fontsize=10)
    for place, (mark, (colour, sign)) in enumerate(MARKS.items()):
        page.write(70 + 80 * place, 50, f"{sign} {mark}", color=colour, fontsize=10)
    for row, (query, found) in enumerate(lists.items()):
        tracklet, note = data_set.test[query], (notes or {}).get(query, "")
        _draw_tracklet(page, row, 0, tracklet, QUERY, f"{_labels(tracklet)}\n{note}", max_pixels)
        for column, item in enumerate(found, start=1):
            colour, sign = MARKS[item.mark]
            tracklet = data_set.test[item.row]
            text = f"{sign} {item.distance:.3f}\n{_labels(tracklet)}"
            _draw_tracklet(page, row, column, tracklet, colour, text, max_pixels)
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
    left = 24 + 6 * max(len(line) for label in rows for line in label.splitlines())
    page = _titled(title, left + across + 75, _HEAD + (len(rows) + 1) * (down + _BETWEEN))
    for frame in range(t):
        middle = left + (frame * (w + gap) + w / 2) * scale
        page.write(middle, _HEAD - 6, f"{frame + 1}", fontsize=8, ha="center", va="bottom")
    for row, (label, images, values) in enumerate(_rows(frames, rows, place)):
        y = _HEAD + row * (down + _BETWEEN)
        page.write(left - 10, y + down / 2, label, fontsize=8, ha="right", va="center")
        axes = page.show(_strip(images, gap), left, y, across, down)
        if place is not None:
            x = place[0] * (w + gap) + place[2]
            axes.plot(x, place[1], "o", markersize=9, markerfacecolor="none", color="white", markeredgewidth=2.5)
            axes.plot(x, place[1], "o", markersize=9, markerfacecolor="none", color=_RING, markeredgewidth=1.2)
        if values is not None:
            _draw_scale(page, left + across + 10, y + down // 10, down * 4 // 5, values)
    return page.figure


def _titled(title: str, width: int, height: int) -> Page:
    """A page with a title of one line or two, and wide enough for it."""
    page = Page(max(width, 20 + 10 * max(map(len, title.split("\n")))), height)
    first, _, second = title.partition("\n")
    page.write(10, 24, first, fontsize=11, weight="bold")
    page.write(10, 42, second, fontsize=9)
    return page


def _draw_scale(page: Page, x: int, y: int, height: int, values: tuple[float, float]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = page.figure.colorbar(ScalarMappable(Normalize(*values), COLOURS), cax=page.axes(x, y, 8, height))
    bar.set_ticks(list(values), labels=[f"{value:.2g}" for value in values])
    bar.ax.tick_params(labelsize=7, length=2)


def _rows(
    frames: Images, rows: Mapping[str, Tensor], place: Place | None
) -> Iterator[tuple[str, Images, tuple[float, float] | None]]:
    """Yields label, images and range of each row; the frames are the first row."""
    from matplotlib import colormaps

    yield "frames", frames, None
    for label, maps in rows.items():
        maps = maps.float().cpu()
        known = maps[~maps.isnan()]
        low, high = (0.0 if place is not None else float(known.min())), float(known.max())
        spread = high - low if high > low else 1.0
        shares = (at_frames(maps, frames.shape[:3]).numpy() - low) / spread
        yield label, lay_over(frames, shares, colormaps[COLOURS]), (low, low + spread)


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
        middle = len(tracklet.frames) // 2
        inside[...] = images_of(read_clip(tracklet.frames, [middle], inside.shape[:2], max_pixels=max_pixels))[0]
    return image


def _draw_tracklet(
    page: Page, row: int, column: int, tracklet: Tracklet, colour: str, text: str, max_pixels: int
) -> None:
    """Draws the middle frame of a tracklet within its border, and text below."""
    y, x = _HEAD + row * _STEP[0], 6 + column * _STEP[1]
    h, w = THUMB
    page.show(framed(tracklet, colour, max_pixels), x, y, w, h)
    page.write(x, y + h + 4, text, fontsize=6.5, va="top", color="#222222", linespacing=1.1)


def _labels(tracklet: Tracklet) -> str:
    """Identity and camera, a line each, shortened to the width of an image."""
    names = [f"identity {tracklet.identity}", "" if tracklet.camera is None else f"camera {tracklet.camera}"]
    return "\n".join(name if len(name) < 18 else f"{name[:16]}…" for name in names)
