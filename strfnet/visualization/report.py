"""An HTML report of an evaluation: one self-contained file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from strfnet.evaluation.evaluation import COLUMNS, TEXT_COLUMNS, Evaluation, cells_of, notes_of

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1c2024; --soft: #5d666f; --page: #fbfbf9; --line: #d9dcdf; --note: #fff3d6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #a0a8b0; --page: #16191c; --line: #3a4046; --note: #3d3218; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 70rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.75rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
p { max-width: 46rem; }
.note { background: var(--note); padding: .6rem .9rem; border-radius: .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.5rem; }
dt, figcaption, .rules { color: var(--soft); }
dd { margin: 0; min-width: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8125rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); text-align: left; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; }
.rules, figcaption { font-size: .875rem; }
figure { margin: 1.25rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .4rem; }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
"""
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
    head += f'<link rel="icon" href="data:,">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>'
    lines = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{lines}\n</body>\n</html>\n'


def _table(evaluations: Sequence[Evaluation]) -> list[str]:
    """The table in a scrolling box, and the rules of each protocol."""

    def cells(kind: str, row: Sequence[str]) -> str:
        numbers = ["" if column in TEXT_COLUMNS else ' class="number"' for column in COLUMNS]
        return "".join(f"<{kind}{is_}>{escape(cell)}</{kind}>" for cell, is_ in zip(row, numbers, strict=True))

    rows = [f"<tr>{cells('td', cells_of(evaluation))}</tr>" for evaluation in evaluations]
    percent = "In percent. The two rules of AP differ for the same ranking, so each has its column."
    head = f"<thead><tr>{cells('th', COLUMNS)}</tr></thead>"
    table = f'<div class="wide" tabindex="0"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return [table, *(f'<p class="rules">{escape(line)}</p>' for line in (percent, *notes_of(evaluations)))]


def _figure(figure: ReportFigure) -> str:
    address = f"data:image/png;base64,{b64encode(figure.png).decode()}"
    caption = escape(figure.caption)
    return f'<figure><img src="{address}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
