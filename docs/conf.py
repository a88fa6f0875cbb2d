"""Sphinx settings of `make docs`. The site loads nothing from other addresses."""

import re
import sys
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

import latex2mathml.converter
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

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
html_math_renderer = "mathml"  # Sphinx's default loads a script from another address

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"  # single backticks in a docstring link to a public name
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # nn.Module's docstrings describe no layer of strfnet
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 100
nitpicky = True  # a reference to a name of strfnet that does not exist is a warning
TYPE_VARIABLES = r"strfnet\.[\w.]+\.Network"
nitpick_ignore_regex = [("py:.*", rf"(?!strfnet\.).*|{TYPE_VARIABLES}")]

SECTIONS = ("Args", "Attributes", "Shape", "Returns", "Raises", "Source", "Sources")
NAMED = re.compile(r" {4}(\w[\w., ]*): (.*)")


def sections_as_fields(app: Any, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    """Rewrites a docstring in place as reStructuredText: "Shape: ..." becomes a field.

    A field ends at a blank line or at the next section. A section without text on its first line is a list of
    indented lines, "name: meaning".
    """
    written: list[str] = []
    section = listed = False
    for line in lines:
        label, _, text = line.partition(":")
        named = NAMED.fullmatch(line)
        if label in SECTIONS:
            section, listed = True, not text.strip()
            written += ["", f":{label}:{text}"]
        elif not line.strip():
            section = False
            written.append("")
        elif listed and named:
            written += ["", f"    * ``{named[1]}``: {named[2]}"]
        elif listed and line.startswith(" "):
            written.append(f"      {line.strip()}")
        else:
            written.append(f"    {line}" if section else line)
            listed = listed and section
    lines[:] = written


class PublicNames(SphinxDirective):
    """``.. public:: strfnet.evaluation`` documents every public name of a package, in the order of its list."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = import_module(self.arguments[0])
        lines = []
        for name in package.__all__:
            value = getattr(package, name)
            if isinstance(value, type):
                lines += [f".. autoclass:: {package.__name__}.{name}", "   :members:"]
            elif callable(value):
                lines += [f".. autofunction:: {package.__name__}.{name}"]
        return self.parse_text_to_nodes("\n".join(lines))


def link_to_public_name(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Link ``strfnet.inflate`` and ``strfnet.evaluation.ranking.rank`` to the package's entry.

    A name that exists and is not public stays without a link; a name that does not exist stays a warning.
    """
    target = node.get("reftarget", "")
    if not target.startswith("strfnet."):
        return None
    try:
        parts = getattr(resolve_name(target), "__module__", "").split(".")
    except (ImportError, AttributeError):
        return None
    name = target.rpartition(".")[2]
    for package in (".".join(parts[:length]) for length in (2, 3)):
        if name in getattr(sys.modules.get(package), "__all__", ()):
            entry = f"{package}.{name}"
            return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, "obj", entry, node, content)
    return content


def write_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    translator.body.append(latex2mathml.converter.convert(node.astext(), display=display))
    raise nodes.SkipNode


def setup(app: Any) -> None:
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.add_directive("public", PublicNames)
    app.connect("autodoc-process-docstring", sections_as_fields)
    app.connect("missing-reference", link_to_public_name)
