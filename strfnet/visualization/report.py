"""An HTML report of an evaluation: one self-contained file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from strfnet.evaluation.evaluation import COLUMNS, TEXT_COLUMNS, Evaluation, cells_of, notes_of

_STYLE = Path(__file__).with_name("report.css")
_ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # no requests to other hosts


@dataclass(frozen=True)
class ReportFigure:
    """A PNG file and its caption, which is also its alternative text."""

    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A heading, a paragraph, and figures."""

    title: str
    text: str
    figures: tuple[ReportFigure, ...] = ()


def report_page(
    title: str,
    *,
    notes: Sequence[str],
    facts: Mapping[str, str],
    evaluations: Sequence[Evaluation],
    sections: Sequence[Section],
) -> str:
    """Returns the report as HTML: notes, what was evaluated, the metrics of all protocols, then the sections.

    Figures are embedded in the page; it has no scripts and no links. It follows the light or dark scheme of the
    browser. All text is escaped.

    Args:
        title: title of the page.
        notes: remarks above the metrics.
        facts: what was evaluated, by name: network, data, clips, versions.
        evaluations: rows of the table, as in `strfnet.evaluation.table`.
        sections: the sections, in order.
    """
    body = [f"<h1>{escape(title)}</h1>"]
    body += [f'<p class="note">{escape(note)}</p>' for note in notes]
    body += ["<h2>What was evaluated</h2>", "<dl>"]
    body += [f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts.items()]
    body += ["</dl>", "<h2>Metrics</h2>", *_table(evaluations)]
    for section in sections:
        body += [
            f"<h2>{escape(section.title)}</h2>",
            f"<p>{escape(section.text)}</p>",
            *map(_figure, section.figures),
        ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += f'<meta http-equiv="Content-Security-Policy" content="{_ALLOWED}">\n'
    head += f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>\n{_STYLE.read_text()}</style>'
    lines = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{lines}\n</body>\n</html>\n'


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
    address = f"data:image/png;base64,{b64encode(figure.png).decode()}"
    caption = escape(figure.caption)
    return f'<figure><img src="{address}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
