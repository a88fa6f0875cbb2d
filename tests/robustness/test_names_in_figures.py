"""Names in any script and names that are no UTF-8: no box, no warning, no error, and names stay apart."""

import json
import logging
import os
import warnings

import numpy as np
import pytest
from matplotlib.font_manager import findfont, get_font
from matplotlib.text import Text
from PIL import Image

from strfnet.cli.parser import main
from strfnet.inference import load_embeddings
from strfnet.training.log import Log, read_log
from strfnet.visualization import draw_training, png, report_page
from strfnet.visualization.glyphs import make_legible
from strfnet.visualization.page import Page

FOREIGN = os.fsdecode(b"caf\xe9")
NAMES = ["人物", "ไทย", "🙂", "नमस्ते", "שלום", "é\u0301", FOREIGN, "\ud83d", "\x01", "a\u200bb", "\t", "$人$", "ok"]


def drawn(figure):
    """The texts of a figure after it is drawn with warnings as errors, none of which lacks a glyph."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png(figure)
    for text in figure.findobj(Text):
        fonts = [text.get_fontproperties().copy() for _ in text.get_fontfamily()]
        for font, name in zip(fonts, text.get_fontfamily(), strict=True):
            font.set_family(name)
        glyphs = {chr(code) for font in fonts for code in get_font(findfont(font)).get_charmap()}
        assert set(text.get_text()) <= {*glyphs, "\n"} and "Last Resort" not in str(text.get_fontfamily())
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("weight", ["normal", "bold"])
@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_is_drawn_without_boxes_and_warnings(caplog, name, weight):
    page = Page(300, 80)
    page.write(10, 30, f"identity {name}\n2", weight=weight)
    [text] = [text for text in drawn(page.figure) if text]
    assert text.startswith("identity ") and text.endswith("\n2")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    if name == "ok":
        assert text == "identity ok\n2"


def test_an_escape_is_that_of_python_and_a_font_that_has_the_glyphs_is_used(monkeypatch):
    monkeypatch.setattr("strfnet.visualization.glyphs._font_with", lambda character: None)
    page = Page(300, 80)
    page.write(10, 30, f"人 é {FOREIGN} 🙂")
    assert drawn(page.figure)[-1] == "\\u4eba é caf\\udce9 \\U0001f642"
    monkeypatch.undo()
    page = Page(300, 80)
    page.write(10, 30, "ʘ \u2a00 人", family="cmr10")  # other fonts of matplotlib have the first two
    [text] = page.figure.texts
    assert text.get_text().startswith("ʘ \u2a00 ") and len(text.get_fontfamily()) > 1
    make_legible(page.figure)
    assert page.figure.texts == [text]


def test_titles_of_curves_are_legible():
    step = {"kind": "step", "step": 1, "epoch": 0, "batch": 1, "loss": 1.0}
    assert any("\\udce9" in text for text in drawn(draw_training([step], title=f"{FOREIGN} 人")))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set whose people have these names."""
    folder = tmp_path_factory.mktemp("data")
    for part, track in (("query", "1"), ("gallery", "2")):
        for number, name in enumerate(("人物", "ไทย", "🙂", FOREIGN, "ok")):
            place = folder / part / name / track
            place.mkdir(parents=True)
            pixels = np.random.default_rng(number).integers(0, 256, (64, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "0.png")
    return folder


def test_the_report_is_in_utf_8(data, tmp_path, capsys):
    page = report_page(FOREIGN, notes=["人"], facts={"a": "\ud83d"}, evaluations=[], sections=[])
    assert "caf\\udce9" in page and "人" in page and "\\ud83d" in page
    out = tmp_path / "r.html"
    assert main(f"show --report --model c2d_resnet8 --data {data} --out {out}".split()) == 0
    text = out.read_text(encoding="utf-8")
    assert all(name in text for name in ("人物", "ไทย", "🙂", "caf\\udce9"))
    assert "glyph" not in capsys.readouterr().err.lower()


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "csv", "parquet"])
def test_files_of_embeddings_hold_the_name_or_refuse_it_before_the_work(data, tmp_path, capsys, suffix):
    out = tmp_path / f"e.{suffix}"
    code = main(f"embed --model c2d_resnet8 --data {data / 'gallery'} --out {out}".split())
    error = capsys.readouterr().err
    if suffix in ("csv", "parquet"):
        assert code == 1 and "caf\\udce9" in error and "is no UTF-8: rename it" in error
        assert "tracklets embedded" not in error and not list(tmp_path.iterdir())
    elif suffix == "npz":
        assert FOREIGN in np.load(out)["identity"].tolist()
    else:
        assert FOREIGN in [item["identity"] for item in load_embeddings(out).tracklets]


def test_a_listing_refuses_a_name_that_is_no_utf_8(data, tmp_path, capsys):
    assert main(f"check {data} --write-listing {tmp_path / 'l.csv'} --allow [one_frame]".split()) == 1
    assert "is no UTF-8: rename it" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_log_holds_the_name(tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("start", 0, {"name": FOREIGN})
    assert read_log(tmp_path / "log.jsonl")[0]["name"] == FOREIGN
    json.loads((tmp_path / "log.jsonl").read_text(encoding="utf-8"))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_command_prints_any_name(data, tmp_path, monkeypatch, encoding):
    with (tmp_path / "printed").open("w", encoding=encoding) as file:
        monkeypatch.setattr("sys.stdout", file)
        assert main(["check", str(data)]) == 1  # which has one frame in each tracklet
    text = (tmp_path / "printed").read_text(encoding=encoding)
    assert "caf\\udce9" in text and ("人物" if encoding == "utf-8" else "\\u4eba") in text
