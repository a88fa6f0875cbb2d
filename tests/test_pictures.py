"""Pictures are made and read back: their size, and the right colours at the right places."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.visualization.figures import (
    BORDER,
    HEAD,
    MARKS,
    QUERY,
    STEP,
    THUMB,
    draw_attention,
    draw_masks,
    draw_match,
    draw_ranked_lists,
    images_of,
)
from strfnet.visualization.matching import MatchedRegions
from strfnet.visualization.page import Page, png
from strfnet.visualization.ranked_items import RankedItem

NEAR = 4 / 255  # pictures have 64 steps of each colour


def read(figure):
    with Image.open(io.BytesIO(png(figure))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")) / 255


def grey_clip(values, height=24, width=12):
    """A normalised clip (3, t, h, w) of grey frames."""
    mean, std = (torch.tensor(of).view(3, 1, 1, 1) for of in (IMAGENET_MEAN, IMAGENET_STD))
    frames = torch.tensor(values).view(1, -1, 1, 1).expand(3, -1, height, width)
    return (frames - mean) / std


def corners(figure):
    """The upper left pixel (y, x) of each row of frames."""
    height, width = read(figure).shape[:2]
    boxes = [axes.get_position() for axes in figure.axes if axes.images]
    return [(round(height * (1 - box.y1)), round(width * box.x0)) for box in boxes]


def test_a_clip_becomes_its_images_again():
    images = images_of(grey_clip([0.0, 0.25, 1.0]))
    assert images.shape == (3, 24, 12, 3)
    np.testing.assert_allclose(images.mean(axis=(1, 2)), [[0] * 3, [0.25] * 3, [1] * 3], atol=1e-6)


def test_masks_lie_over_their_frames_each_row_with_its_own_scale():
    t, h, w = 3, 24, 12
    low_and_high = torch.full((1, 1, t, h, w), 0.25)
    low_and_high[:, :, 1] = 0.75  # the second frame
    other = torch.full((1, 1, t, h, w), 0.1)
    other[:, :, 2, : h // 2] = 0.2  # the third frame's upper half
    masks = {"layer2.0.after.0": {"static": low_and_high, "fine": other}}
    figure = draw_masks(grey_clip([0.0] * t), masks, title="some $title")
    picture, places, scale = read(figure), corners(figure), 72 // w
    dark, bright = (0.6 * np.array(colormaps["viridis"](value)[:3]) for value in (0.0, 1.0))

    def at(row, frame, share):
        y, x = places[row]
        return picture[y + int(share * h * scale), x + (frame * (w + 1) + w // 2) * scale]

    assert [text.get_text() for text in figure.texts if "after" in text.get_text()] == [
        "layer2.0.after.0\nstatic",
        "layer2.0.after.0\nfine",
    ]
    for frame in range(t):
        np.testing.assert_allclose(at(0, frame, 0.5), [0, 0, 0], atol=NEAR)
    for frame, colour in enumerate((dark, bright, dark)):
        np.testing.assert_allclose(at(1, frame, 0.5), colour, atol=NEAR)
    for frame, colours in enumerate(((dark, dark), (dark, dark), (bright, dark))):
        for share, colour in zip((0.2, 0.8), colours, strict=True):
            np.testing.assert_allclose(at(2, frame, share), colour, atol=NEAR)
    y, x = places[1]
    assert (picture[y + 20, x + w * scale + scale // 2] == 1).all()  # white between frames
    assert [text.get_text() for axes in figure.axes if not axes.images for text in axes.get_yticklabels()] == [
        *("0.25", "0.75"),
        *("0.1", "0.2"),
    ]


def test_large_frames_are_made_smaller_and_flat_masks_can_be_drawn():
    flat = {"after": {"static": torch.full((1, 1, 2, 16, 8), 0.25)}}
    picture = read(draw_masks(grey_clip([0.5, 0.5], 256, 128), flat))
    assert picture.shape[0] < 2 * 160 + 100


def test_a_ring_stands_at_the_pixel_that_looks_and_frames_out_of_sight_are_dark():
    weights = torch.full((1, 3, 4, 2), torch.nan)
    weights[:, 1:] = 0.0
    weights[:, 2, 0] = 1.0
    figure = draw_attention(grey_clip([1.0, 1.0, 1.0]), {"block": weights}, (1, 18, 3))
    picture = read(figure)
    ring = (abs(picture - to_rgb("#d4006a")) < NEAR).all(axis=2)
    for y, x in corners(figure):
        rows, columns = np.nonzero(ring[y : y + 24 * 6, x:])
        assert abs(rows.mean() - 18.5 * 6) <= 1 and abs(columns.mean() - (13 + 3.5) * 6) <= 1
    bright, dark = (0.4 + 0.6 * np.array(colormaps["viridis"](value)[:3]) for value in (1.0, 0.0))
    y, x = corners(figure)[1]
    for down, across, colour in (
        (6, 26, bright),
        (130, 26, dark),
        (6, 13, dark),
        (6, 0, [0.5] * 3),
        (130, 0, [0.5] * 3),
    ):
        np.testing.assert_allclose(picture[y + down, x + across * 6 + 30], colour, atol=NEAR)


def data_of(colours):
    """A tracklet of one colour for each; the middle frame alone has it."""
    black = np.zeros((64, 32, 3), np.uint8)
    test = tuple(
        Tracklet((black, np.full((64, 32, 3), colour, np.uint8), black), f"$who_{row}", row % 2)
        for row, colour in enumerate(colours)
    )
    return DataSet("some", (), test, (0, 1), tuple(range(len(test))))


def test_queries_and_what_they_found_have_their_pictures_and_marks():
    data = data_of([(200, 0, 200), (0, 200, 200), (40, 80, 120), (120, 80, 40), (90, 90, 200)])
    lists = {
        0: [RankedItem(2, 0.125, "wrong"), RankedItem(3, 0.25, "right"), RankedItem(4, 0.5, "not counted")],
        1: [RankedItem(4, 0.5, "right")],
    }
    figure = draw_ranked_lists(data, lists, notes={0: "AP 50.0"}, title="$ranked")
    words = [text.get_text() for text in figure.texts]
    assert "✗ 0.125\nidentity $who_2\ncamera 0\ntest row 2\nframe 2 of 3" in words
    assert "✓ 0.250\nidentity $who_3\ncamera 1\ntest row 3\nframe 2 of 3" in words
    assert "AP 50.0\nidentity $who_0\ncamera 0\ntest row 0\nframe 2 of 3" in words
    picture = read(figure)
    h, w = THUMB
    expected = [[(0, QUERY), (2, "wrong"), (3, "right"), (4, "not counted")], [(1, QUERY), (4, "right")]]
    for line, row in enumerate(expected):
        for column, (tracklet, mark) in enumerate(row):
            y, x = HEAD + line * STEP[0], 6 + column * STEP[1]
            border = to_rgb(MARKS[mark][0] if mark in MARKS else mark)
            inside = data.test[tracklet].frames[1][0, 0] / 255
            for dy, dx in ((1, 1), (h - 2, w // 2), (h // 2, w - 2)):
                np.testing.assert_allclose(picture[y + dy, x + dx], border, atol=NEAR)
            for dy, dx in ((BORDER + 1, BORDER + 1), (h // 2, w // 2), (h - BORDER - 2, w - BORDER - 2)):
                np.testing.assert_allclose(picture[y + dy, x + dx], inside, atol=NEAR)
    assert (picture[HEAD + STEP[0] + 20, 6 + 2 * STEP[1] :] == 1).all()


def test_captions_tell_track_time_and_frame_and_long_names_are_cut():
    data = data_of([(0, 0, 0), (0, 0, 0)])
    details = {"track": "7", "first_time": "1.200", "last_time": "2.040"}
    test = (replace(data.test[0], identity="a" * 60, camera=None, details=details), data.test[1])
    figure = draw_ranked_lists(replace(data, test=test), {0: [RankedItem(1, 1.0, "wrong")]})
    cut = "query\nidentity…aaaaaaaa\ntrack 7\n1.2–2.0 s\nframe 2 of 3"
    assert cut in [text.get_text() for text in figure.texts]
    with pytest.raises(ValueError, match="got no ranked lists"):
        draw_ranked_lists(data, {})


def test_the_smallest_text_has_eleven_pixels(tmp_path):
    data = data_of([(0, 0, 0), (0, 0, 0)])
    maps = torch.rand(1, 2, 4, 2, generator=torch.Generator().manual_seed(0))
    clip = grey_clip([0.1, 0.9])
    regions = MatchedRegions(0.5, maps[0, 0], maps[0, 1], torch.ones(4, 2, 4, 2))
    for figure in (
        draw_ranked_lists(data, {0: [RankedItem(1, 1.0, "wrong")]}),
        draw_masks(clip, {"after": {"static": maps[None]}}),
        draw_attention(clip, {"block": maps}, (0, 0, 0)),
        draw_match(clip, clip, regions),
    ):
        texts = [text for text in figure.findobj(Text) if text.get_text()]
        assert len(texts) > 2 and min(text.get_fontsize() for text in texts) * figure.dpi / 72 >= 11


def test_one_large_weight_leaves_the_others_visible():
    weights = torch.full((1, 2, 4, 2), 0.001)
    weights[0, 1, 2:] = 0.002
    weights[0, 0, 0, 0] = 0.99
    figure = draw_attention(grey_clip([0.0, 0.0]), {"block": weights}, (0, 20, 3))
    picture, (y, x) = read(figure), corners(figure)[1]
    middle, end = (0.6 * np.array(colormaps["viridis"](value)[:3]) for value in (0.5, 1.0))
    np.testing.assert_allclose(picture[y + 10, x + 13 * 6 + 30], middle, atol=NEAR)
    np.testing.assert_allclose(picture[y + 130, x + 13 * 6 + 30], end, atol=NEAR)
    labels = [text.get_text() for axes in figure.axes if not axes.images for text in axes.get_yticklabels()]
    assert labels == ["0", "≥ 0.002\nmax 0.99"]


def test_regions_are_coloured_and_pairs_joined():
    query, gallery = torch.tensor([[0.5, 0.0], [0.0, -0.25]]), torch.zeros(2, 2)
    pairs = torch.zeros(2, 2, 2, 2)
    pairs[0, 1, 1, 1], pairs[0, 1, 0, 0], pairs[1, 1, 0, 0], pairs[1, 0, 1, 1] = 0.5, 0.4, 0.125, 0.2
    regions = MatchedRegions(0.75, query, gallery, pairs)
    assert regions.strongest(9) == [((0, 1), (1, 1), 0.5), ((1, 1), (0, 0), 0.125)]  # each region once
    figure = draw_match(grey_clip([0.0]), grey_clip([0.0]), regions, title="$why")
    picture = read(figure)
    left, right = (
        [round(edge * picture.shape[1]) for edge in sorted(axes.get_position().x0 for axes in figure.axes)][at]
        for at in (0, 3)
    )
    for (dy, dx), share in (((1, 1), 1.0), ((1, 158), 0.5), ((318, 158), 0.25)):
        colour = 0.6 * np.array(colormaps["RdBu_r"](share)[:3])
        np.testing.assert_allclose(picture[HEAD + dy, left + dx], colour, atol=2 * NEAR)
    np.testing.assert_allclose(picture[HEAD + 1, right + 1], 0.6 * np.array(colormaps["RdBu_r"](0.5)[:3]), atol=NEAR)
    assert [text.get_text() for text in figure.texts][-1] == "pairs   1: 0.5   2: 0.12"
    strongest, _ = [line for line in figure.findobj(Line2D) if line.get_marker() == "o"]
    ends = strongest.get_xydata() * (picture.shape[1], -picture.shape[0]) + (0, picture.shape[0])
    np.testing.assert_allclose(ends, [(20 + 170 + 120, HEAD + 80), (420 + 120, HEAD + 240)])


def test_a_page_is_as_large_as_it_was_asked_to_be():
    assert read(Page(321, 123).figure).shape == (123, 321, 3)


def test_without_matplotlib_the_line_that_adds_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    data = data_of([(0, 0, 0), (0, 0, 0)])
    masks = {"after": {"static": torch.ones(1, 1, 1, 2, 2)}}
    regions = MatchedRegions(0.5, torch.ones(1, 1), torch.ones(1, 1), torch.ones(1, 1, 1, 1))
    for draw in (
        lambda: draw_masks(grey_clip([0.5]), masks),
        lambda: draw_ranked_lists(data, {0: [RankedItem(1, 1.0, "wrong")]}),
        lambda: draw_match(grey_clip([0.5]), grey_clip([0.5]), regions),
    ):
        with pytest.raises(ImportError, match=r'pip install "strfnet\[viz\]"'):
            draw()
