"""An HTML report of an evaluation: one self-contained file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from strfnet.evaluation.evaluation import COLUMNS, TEXT_COLUMNS, Evaluation, cells_of, notes_of
from strfnet.visualization.thumbnails import SIZE, ReportItem, ReportTracklet

_STYLE = Path(__file__).with_name("report.css")
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no requests to other hosts


@dataclass(frozen=True)
class ReportFigure:
    """A PNG file and its caption, which is also its alternative text."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, ranked lists (output of `report_lists`), and figures."""

    title: str
    text: str
    figures: tuple[ReportFigure, ...] = ()
    lists: tuple[Sequence[ReportItem], ...] = ()


def report_page(
    title: str,
    *,
    notes: Sequence[str],
    facts: Mapping[str, str],
    evaluations: Sequence[Evaluation],
    sections: Sequence[Section],
) -> str:
    """Returns the report as HTML: notes, the metrics of all protocols, what was evaluated, then the sections.

    Images are embedded in the page, a thumbnail once however many lists show it; there are no scripts. A tracklet of
    a ranked list is a link to its frames, which are the last section. The page follows the light or dark scheme of
    the browser, and suits narrow screens and paper. All text is escaped, and so are bytes of names that are no UTF-8.

    Args:
        title: title of the page.
        notes: remarks above the metrics.
        facts: what was evaluated, by name: network, data, clips, versions.
        evaluations: rows of the table, as in `strfnet.evaluation.table`.
        sections: the sections, in order.
    """
    body, thumbnails = [f"<h1>{escape(title)}</h1>"], _Thumbnails()
    body += [f'<p class="note">{escape(note)}</p>' for note in notes]
    body += ["<h2>Metrics</h2>", *_table(evaluations), "<h2>What was evaluated</h2>", "<dl>"]
    body += [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    body += ["</dl>"]
    for section in sections:
        body += [
            f"<h2>{escape(section.title)}</h2>",
            f"<p>{escape(section.text)}</p>",
            *(_list(items, thumbnails) for items in section.lists),
            *map(_figure, section.figures),
        ]
    tracklets = {item.tracklet.row: item.tracklet for one in sections for items in one.lists for item in items}
    if tracklets:
        body += ["<h2>Frames</h2>", *(_frames(tracklets[row], thumbnails) for row in sorted(tracklets))]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">\n'
    style = _STYLE.read_text() + thumbnails.style()
    head += f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{style}</style>'
    lines = "\n".join(body)
    page = f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{lines}\n</body>\n</html>\n'
    return page.encode(errors="backslashreplace").decode()


def _table(evaluations: Sequence[Evaluation]) -> list[str]:
    """The table, whose rows become lists on a narrow screen, and the rules of each protocol."""

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(
            f'<{kind} class="{"text" if column in TEXT_COLUMNS else "number"}" data-column="{escape(column)}">'
            f"{escape(cell)}</{kind}>"
            for column, cell in zip(COLUMNS, row, strict=True)
        )

    rows = [f"<tr>{cells('td', cells_of(evaluation))}</tr>" for evaluation in evaluations]
    percent = "In percent. The two rules of AP differ for the same ranking, so each has its column."
    head = f"<thead><tr>{cells('th', COLUMNS)}</tr></thead>"
    table = f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
    return [table, *(f'<p class="rules">{escape(line)}</p>' for line in (percent, *notes_of(evaluations)))]


def _figure(figure: ReportFigure) -> str:
    source, caption = f"data:image/png;base64,{_base64(figure.png)}", escape(figure.caption)
    return f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _list(items: Sequence[ReportItem], thumbnails: "_Thumbnails") -> str:
    """A query and its ranked list; each tracklet is a link to its frames."""
    parts = []
    for item in items:
        tracklet = item.tracklet
        image = thumbnails.element(tracklet.frames[len(tracklet.frames) // 2], ", ".join(tracklet.caption))
        lines = "<br>".join(map(escape, (item.text, *tracklet.caption)))
        link = f'<a href="#{_anchor(tracklet)}">{image}</a>'
        parts.append(f'<li class="{item.mark.partition(" ")[0]}">{link}<p>{lines}</p></li>')
    return f'<ol class="ranked">{"".join(parts)}</ol>'


def _frames(tracklet: ReportTracklet, thumbnails: "_Thumbnails") -> str:
    """The frames of a tracklet, where the links of the ranked lists lead."""
    *known, _ = tracklet.caption  # the last is the middle frame
    frames = "".join(
        f"<li>{thumbnails.element(image, f'frame {name}')}<p>frame {escape(name)}</p></li>"
        for image, name in zip(tracklet.frames, tracklet.names, strict=True)
    )
    heading = f"<h3>{escape(', '.join(known))}</h3><p>{escape(tracklet.source)}</p>"
    return f'<section id="{_anchor(tracklet)}">{heading}<ol class="ranked">{frames}</ol></section>'


def _anchor(tracklet: ReportTracklet) -> str:
    return f"row{tracklet.row}"


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


class _Thumbnails:
    """JPEG files as the backgrounds of elements: the style has each file once, however many elements show it."""

    def __init__(self) -> None:
        self._classes: dict[bytes, str] = {}

    def element(self, content: bytes, text: str) -> str:
        """An element that shows a file, with its alternative text."""
        name = self._classes.setdefault(content, f"t{len(self._classes)}")
        return f'<span class="{name}" role="img" aria-label="{escape(text)}"></span>'

    def style(self) -> str:
        """The rules of all elements."""
        height, width = SIZE
        shape = f".ranked span {{ aspect-ratio: {width} / {height}; }}\n"
        files = (
            f".{name} {{ background-image: url(data:image/jpeg;base64,{_base64(content)}); }}\n"
            for content, name in self._classes.items()
        )
        return shape + "".join(files)
