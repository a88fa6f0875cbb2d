"""The report is one sound HTML page that requests nothing, with the numbers of the table, and all text escaped."""

import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from strategies import normal

from strfnet.data.synthetic import draw_set
from strfnet.data.tracklet import Tracklet
from strfnet.evaluation.evaluation import COLUMNS, evaluate, table
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.visualization.page import Page, png
from strfnet.visualization.ranked_items import RankedItem
from strfnet.visualization.report import ReportFigure, Section, report_page
from strfnet.visualization.thumbnails import report_lists

EVIL = """<script src="https://evil.example/x.js">alert('1')</script>&"'$"""
VOID = {"meta", "link", "img", "br"}


class Reader(HTMLParser):
    """Tags in order with their attributes, text by tag, and whether every tag is closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self, tag):
        return [text for of, text in self.texts if of == tag]


@pytest.fixture(scope="module")
def evaluations():
    data = draw_set(train=1, test=4, frames=1, height=8)
    vectors = normal(len(data.test), 6)
    known = [evaluate(vectors, data, PROTOCOLS[name], sampling="evenly 15") for name in ("nvan", "torchreid")]
    return [known[0], replace(known[1], data=EVIL)]


@pytest.fixture(scope="module")
def picture():
    return png(Page(40, 30).figure)


def page_of(evaluations, picture):
    return report_page(
        EVIL,
        notes=[EVIL],
        facts={EVIL: EVIL},
        evaluations=evaluations,
        sections=[Section(EVIL, EVIL, (ReportFigure(picture, EVIL),)), Section("last", "no picture")],
    )


def test_nothing_is_asked_for_from_outside(evaluations, picture):
    page = page_of(evaluations, picture)
    reader = Reader(page)
    names = {tag for tag, _ in reader.tags}
    assert not names & {"script", "iframe", "object", "embed", "base", "form", "video", "audio", "svg"}
    for tag, attributes in reader.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "href", "srcset", "action", "poster", "data", "background"):
                assert value.startswith("#" if tag == "a" else "data:"), (tag, value)
            assert name != "style"
    (style,) = reader.text("style")
    assert "url(" not in style and "@import" not in style and "prefers-color-scheme: dark" in style
    policy = next(a["content"] for tag, a in reader.tags if "content-security-policy" in str(a).lower())
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_the_pictures_lie_in_the_page(evaluations, picture):
    images = [attributes for tag, attributes in Reader(page_of(evaluations, picture)).tags if tag == "img"]
    (image,) = images
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64" and b64decode(data) == picture and image["alt"] == EVIL


def test_an_item_of_a_ranked_list_leads_to_its_frames(evaluations, picture):
    data = draw_set(train=1, test=3, cameras=2, tracklets=1, frames=9, height=16)
    evil = Tracklet(data.test[1].frames[:2], EVIL, EVIL, {"track": EVIL, "first_time": "1.5", "last_time": EVIL})
    data = replace(data, test=(data.test[0], evil, *data.test[2:]))
    found = [RankedItem(1, 0.25, "not counted"), RankedItem(2, 0.5, "wrong")]
    lists = report_lists(data, {4: found, 5: found}, notes={4: "AP 12.5"})
    page = report_page("title", notes=[], facts={}, evaluations=evaluations,
                       sections=[Section("hardest", "text", lists=lists)])  # fmt: skip
    reader = Reader(page)
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    assert links == ["#row4", "#row1", "#row2", "#row5", "#row1", "#row2"]
    assert [attributes["id"] for tag, attributes in reader.tags if tag == "section"] == [
        "row1",
        "row2",
        "row4",
        "row5",
    ]
    marks = [attributes["class"] for tag, attributes in reader.tags if tag == "li" and "class" in attributes]
    assert marks == 2 * ["query", "not", "wrong"]
    images = [attributes for tag, attributes in reader.tags if attributes.get("role") == "img"]
    assert (
        len(images) == 6 + 2 + 7 + 7 + 7 and images[0]["class"] == images[6 + 2 + 7 + 3]["class"]
    )  # the middle frame
    shown = [item for found in lists for item in found]
    assert [image["aria-label"] for image in images[:6]] == [", ".join(item.tracklet.caption) for item in shown]
    (style,) = reader.text("style")
    rule = re.compile(r"^\.(t\d+) \{ background-image: url\(data:image/jpeg;base64,([\w+/=]+)\); \}$", re.MULTILINE)
    files = {name: b64decode(content) for name, content in rule.findall(style)}
    assert [files[image["class"]] for image in images[:6]] == [
        item.tracklet.frames[len(item.tracklet.frames) // 2] for item in shown
    ]
    distinct = {file for item in shown for file in item.tracklet.frames}
    assert style.count("url(") == len(files) == len(distinct) and set(files.values()) == distinct
    for words in ("AP 12.5", "– 0.250", "✗ 0.500", f"track {EVIL}", f"1.5–{EVIL} s", "frame 2 of 2", "frame 9 of 9"):
        assert words in reader.text("p")
    assert (
        page.index("<h2>Metrics") < page.index("<h2>What was") < page.index("<h2>hardest") < page.index("<h2>Frames")
    )


def test_every_column_is_on_paper_and_on_a_narrow_screen(evaluations, picture):
    page = page_of(evaluations, picture)
    cells = [attributes for tag, attributes in Reader(page).tags if tag == "td"]
    assert [cell["data-column"] for cell in cells] == 2 * list(COLUMNS)
    (style,) = Reader(page).text("style")
    narrow = style[style.index("@media screen and (max-width: 60rem)") :]
    assert "attr(data-column)" in narrow and "display: none" not in style.replace("thead { display: none; }", "", 1)
    printed = style[style.index("@media print") :]
    assert re.search(r"\.ranked[^{]*\{ break-inside: avoid", printed)  # a ranked list stays on one page
    assert not re.search(r"overflow(-x)?: hidden", style)


def test_text_from_outside_is_shown_as_it_is(evaluations, picture):
    reader = Reader(page_of(evaluations, picture))
    for tag in ("title", "h1", "dt", "dd", "h2", "figcaption"):
        assert EVIL in reader.text(tag), tag
    assert reader.text("p").count(EVIL) == 2  # a note and a section
    assert EVIL in reader.text("td")  # the name of a data set


def test_the_table_has_the_numbers_of_the_text(evaluations, picture):
    reader = Reader(page_of(evaluations, picture))
    lines = table(evaluations).splitlines()
    assert reader.text("th") == re.split(r"\s{2,}", lines[0])
    cells, width = reader.text("td"), len(reader.text("th"))
    assert cells[:width] == re.split(r"\s{2,}", lines[1])
    assert cells[width:] == re.split(r"\s{2,}", lines[2])
    told = [line for line in lines[3:] if line]
    assert told == [text for text in reader.text("p") if text in told] and told[0].startswith("* other frames")
