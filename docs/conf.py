"""How the pages become a site: `make docs`. It asks no address, while it is built or while it is read."""

import re
from typing import Any

import latex2mathml.converter
from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser

import strfnet

project = "strfnet"
author = "The strfnet authors"
copyright = author
release = version = strfnet.__version__
html_title = f"strfnet {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"  # Sphinx's own choice is a script from another address

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # single backticks in a docstring: a name of ours, a link where it has a place
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what torch says of every module says nothing of ours
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88
nitpicky = True  # a name of strfnet that has no place on any page is a warning; other packages' have none
TYPE_VARIABLES = r"strfnet\.[\w.]+\.Network"
nitpick_ignore_regex = [("py:.*", rf"(?!strfnet\.).*|{TYPE_VARIABLES}")]

SECTIONS = ("Args", "Attributes", "Shape", "Returns", "Raises", "Source", "Sources")
NAMED = re.compile(r" {4}([\w., ]+): (.*)")


def sections_as_fields(app: Any, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Rewrite a docstring of ours, in place, as reStructuredText: "Shape: ..." becomes a field.

    What stands behind the colon goes on until a blank line or the next section. Where nothing does, indented lines
    follow, "name: what it is", which become a list.
    """
    told: list[str] = []
    section = listed = False
    for line in lines:
        label, _, text = line.partition(":")
        named = NAMED.fullmatch(line)
        if label in SECTIONS:
            section, listed = True, not text.strip()
            told += ["", f":{label}:{text}"]
        elif not line.strip():
            section = False
            told.append("")
        elif listed and named:
            told += ["", f"    * ``{named[1]}``: {named[2]}"]
        elif listed and line.startswith(" "):
            told.append(f"      {line.strip()}")
        else:
            told.append(f"    {line}" if section else line)
            listed = listed and section
    lines[:] = told


def cells_as_markdown(text: str) -> str:
    """A notebook of percent cells as Markdown: text cells without their comment signs, code cells as blocks."""
    pages = []
    for cell in re.split(r"^# %%", text, flags=re.M)[1:]:
        kind, _, lines = cell.partition("\n")
        if kind.strip() == "[markdown]":
            pages.append(re.sub(r"^# ?", "", lines, flags=re.M).strip())
        else:
            pages.append(f"```python\n{lines.strip()}\n```")
    return "\n\n".join(pages)


class PercentParser(MystParser):
    """Notebooks kept as Python files are pages like the others."""

    supported = ("percent",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        super().parse(cells_as_markdown(inputstring), document)


def write_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.add_source_suffix(".py", "percent")
    app.add_source_parser(PercentParser)
    app.connect("autodoc-process-docstring", sections_as_fields)
