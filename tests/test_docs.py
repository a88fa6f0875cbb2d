"""The pages: their code runs, their links resolve, their figures are those of the commands and papers they name.

Code blocks of one page run one after the other.
"""

import ast
import inspect
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from statistics import mean, stdev
from string import Template

import pytest
import torch
from test_import_graph import ROWS
from torch import nn

import strfnet
from strfnet.cli import main

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {page.relative_to(ROOT).as_posix(): page.read_text() for page in FILES}
BLOCKS = {page: re.findall(r"```python\n(.*?)```", text, re.S) for page, text in PAGES.items()}
DOCUMENTED = re.findall(r"^\.\. public:: (\S+)$", PAGES["docs/api.md"], re.M)  # packages


@pytest.mark.parametrize("page", [page for page, blocks in BLOCKS.items() if blocks])
def test_the_code_of_a_page_runs(page, capsys):
    names = {}
    for block in BLOCKS[page]:
        exec(compile(block, page, "exec"), names)
    if page == "README.md":  # the ranked list that it shows is the one that it prints
        printed = re.sub(r"\(-?\d\.\d\d\)", "", capsys.readouterr().out)
        for line in re.findall(r"^    (query .*|mAP [\d.]+)", PAGES[page], re.M):
            assert re.sub(r"\(-?\d\.\d\d\)", "", line) in printed


def shell_lines(text):
    """The shell lines of a page, as lists of words."""
    shell = re.sub(r"```python\n.*?```", "", text, flags=re.S).replace("\\\n", " ")
    values = dict(re.findall(r'^ {4}([A-Z]+)="(.*)"$', shell, re.M))
    lines = re.findall(r"^ {4}((?:strfnet|python|torchrun) .*)$", shell, re.M)
    return [shlex.split(Template(line).safe_substitute(values), comments=True) for line in lines]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if shell_lines(text)])
def test_the_shell_lines_of_a_page_are_valid_calls(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for program, *words in shell_lines(PAGES[page]):
        if program == "python":
            source = (ROOT / words[0]).read_text()
            assert all(f'"{option}"' in source for option in words if option.startswith("--")), words
            continue
        if program == "torchrun":
            words = words[words.index("strfnet.cli") + 1 :]
        assert main([words[0], "--help"]) == 0, words
        options = capsys.readouterr().out
        if "--print-config" in options:
            assert main([*words, "--print-config"]) == 0, capsys.readouterr().err
        else:
            assert all(word.partition("=")[0] in options for word in words if word.startswith("--")), words


def anchors(text):
    """Anchors of the headings of a page, as code hosts and MyST make them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    headings = re.findall(r"^#+ (.*)$", prose.lower(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def test_links_between_pages_resolve():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            file = (ROOT / page).parent / target if target else ROOT / page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(file.read_text()), f"{page}: {target}#{anchor}"


def test_files_that_pages_name_exist():
    for page, text in PAGES.items():
        for path in re.findall(r"`((?:strfnet|tests|benchmarks|examples|docs)/[\w./]+)`", text):
            assert (ROOT / path).exists() or "NAME" in path or page == "docs/changes.md", f"{page}: {path}"


def test_the_pages_are_few_and_every_figure_is_shown():
    pages = [text for page, text in PAGES.items() if page.startswith("docs/")]
    assert len(pages) <= 20
    assert sum(len(text.split()) for text in pages) < 16_000
    for figure in (ROOT / "docs/figures").iterdir():
        assert any(f"figures/{figure.name})" in text for text in pages), figure.name


# --- Words

OLD_WORDS = (
    *("at hand", "heirs", "went by it", "whole or not at all", "told by", "asked apart", "drawn walkers"),
    *("Who was seen by which camera", "asked in a process of its own", "steps too, and a", "cannot be told not to"),
    *("so answers as it would", "knows nobody elsewhere", "bytes of it that are true", "was not the last one's"),
    *("weights 'walkers' come for", "asked for in single blocks", "an ordinary one by another name"),
    *("is held back as much", "who looked for himself", "no figure of theirs", "What every token gathers"),
    "may be resumed with another value of",
)


@pytest.mark.parametrize(
    "files",
    [
        pytest.param([file for file in FILES if file.name != "changes.md"], id="pages"),
        pytest.param(sorted((ROOT / "strfnet").rglob("*.py")), id="strfnet"),
    ],
)
def test_the_old_words_are_gone(files):
    found = []
    for file in files:
        text = " ".join(file.read_text().split())
        old = [words for words in OLD_WORDS if re.search(rf"\b{re.escape(words)}", text)]
        found += [f"{file.relative_to(ROOT)}: {words}" for words in old]
    assert found == []


# --- Names and docstrings


def test_pages_import_public_names_of_packages():
    for page, blocks in BLOCKS.items():
        for node in ast.walk(ast.parse("\n".join(blocks))):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "strfnet":
                package = import_module(node.module)
                assert hasattr(package, "__path__"), f"{page} imports from {node.module}, deeper than a package"
                assert {alias.name for alias in node.names} <= set(package.__all__), f"{page}: {node.module}"


def test_every_package_is_on_the_api_page():
    wanted = {f"strfnet.{package}" for row in ROWS for package in row} - {"strfnet.system"}
    assert set(DOCUMENTED) == wanted - {"strfnet.cli"} | {"strfnet.data.synthetic"}
    elsewhere = {name for package in DOCUMENTED for name in import_module(package).__all__}
    assert set(strfnet.__all__) <= elsewhere  # each name of strfnet has its entry in a package


PUBLIC = [f"{package}.{name}" for package in DOCUMENTED for name in import_module(package).__all__]


@pytest.mark.parametrize("path", PUBLIC)
def test_a_public_name_has_a_docstring_of_its_own(path):
    value = resolve_name(path)
    written = value.__doc__ or ""
    generated = written.startswith(f"{path.rpartition('.')[2]}(")  # by dataclass
    assert not callable(value) or (written.strip() and not generated)


@pytest.mark.parametrize("name", strfnet.__all__)
def test_a_docstring_lists_every_argument_and_the_errors(name):
    value = getattr(strfnet, name)
    text = inspect.cleandoc(value.__doc__)
    labels = set(re.findall(r"^(\w+):", text, re.M))
    wanted = {"Raises"} if inspect.signature(value).parameters else set()
    if isinstance(value, type) and issubclass(value, nn.Module):
        wanted |= {"Args", "Shape"}
    assert wanted <= labels, wanted - labels
    if "Args" in labels:
        arguments = re.search(r"^Args:\n((?: +.*\n?|\n)*)", text, re.M)[1]
        listed = {
            word for line in re.findall(r"^    (?:\\\*)*(\w[\w, ]*):", arguments, re.M) for word in line.split(", ")
        }
        assert listed == set(inspect.signature(value).parameters), name


def test_the_architecture_page_holds_the_table_of_packages():
    lines = re.findall(r"^\| (`.*`) \|", PAGES["docs/architecture.md"].partition("## Rules")[0], re.M)
    assert [set(re.findall(r"`(\w+)`", line)) for line in lines] == list(ROWS)


# --- Figures


def rows_of(page):
    """Cells of the table rows of a page whose first cell is a name in code."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGES[page], re.M)
    return [(name, [cell.strip() for cell in cells.split("|")]) for name, cells in lines]


@pytest.mark.slow
def test_cards_hold_every_form_once_and_its_parameters():
    costs = {name: cells for name, cells in rows_of("docs/networks.md") if len(cells) == 4}
    assert sorted(costs) == sorted(name for name in strfnet.list_models() if "resnet50" in name)
    for name, (_, parameters, *_macs) in costs.items():
        with torch.device("meta"):
            network = strfnet.create_model(name)
        assert f"{sum(value.numel() for value in network.parameters()) / 1e6:.3f}" == parameters, name


@pytest.mark.parametrize("name", ["strf_p3dc_resnet50", "ste_nvan_resnet50", "c2d_nl_resnet50"])
def test_cards_print_what_the_profiler_counts(name):
    [cells] = [cells for row, cells in rows_of("docs/networks.md") if row == name and len(cells) == 4]
    with torch.device("meta"):
        counted = strfnet.profile(strfnet.create_model(name), (1, 3, 8, 256, 128))
    assert cells[2:] == [f"{counted.gmacs:.2f}", f"{counted.gimacs:.2f}"]


def test_cards_print_the_published_accuracies_and_say_that_they_were_not_run():
    printed = {name: cells for name, cells in rows_of("docs/networks.md") if len(cells) == 2}
    of_sets = {"MARS": 0, "DukeMTMC-VideoReID": 1}
    papers = runpy.run_path(str(ROOT / "benchmarks/published.py"))
    published = [row for row in papers["ACCURACIES"] if row.data in of_sets]
    assert set(printed) == {row.network for row in published}
    for row in published:
        mean_ap, rank1 = map(float, printed[row.network][of_sets[row.data]].split(" / "))
        assert (mean_ap, rank1) == (row.mean_ap, row.rank1), row
    strf, nvan = PAGES["docs/networks.md"].split("## NVAN and STE-NVAN")
    assert f"not run here ({papers['STRF']}); mAP by rectangle" in " ".join(strf.split())
    assert f"not run here ({papers['NVAN']}); mAP by trapezoid" in " ".join(nvan.split())


def test_the_performance_table_is_the_one_of_the_stored_run(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    figures = runpy.run_path(str(ROOT / "benchmarks/figures.py"))
    record = json.loads((ROOT / "docs/data/speed.json").read_text())
    assert figures["markdown"](record) in PAGES["docs/performance.md"]


HOSTS = {"C2D": "c2d", "I3D": "i3d", "P3D-A": "p3da", "P3D-B": "p3db", "P3D-C": "p3dc"}
COMPARED = {  # rows of the synthetic table: two (host, arm)
    **{f"STRF on {name}": ((host, "strf"), (host, "none")) for name, host in HOSTS.items()},
    "temporal units only, against STRF on C2D": (("c2d", "temporal"), ("c2d", "strf")),
    "spatial units only, against STRF on C2D": (("c2d", "spatial"), ("c2d", "strf")),
    "temporal reduction, against NVAN": (("nvan_temporal", "none"), ("nvan", "none")),
    "STE-NVAN, against NVAN": (("ste_nvan", "none"), ("nvan", "none")),
}


def test_the_synthetic_table_is_the_one_of_the_stored_results():
    scores = defaultdict(dict)
    for line in (ROOT / "docs/data/synthetic_reid.jsonl").read_text().splitlines():
        row = json.loads(line)
        for test, (mean_ap, _) in row["scores"].items() if row["steps"] == 300 else ():
            column = "gait" if row["task"] == "gait" else f"{row['task']} {test}"
            scores[row["host"], row["arm"], column][row["seed"]] = mean_ap
    head, _, *lines = PAGES["docs/synthetic.md"].partition("| comparison |")[2].splitlines()
    columns = [cell.strip() for cell in head.split("|")[:-1]]
    table = {cells[1].strip(): cells[2:-1] for line in lines[: len(COMPARED)] for cells in [line.split("|")]}
    assert set(table) == set(COMPARED)
    for name, (one, other) in COMPARED.items():
        for column, cell in zip(columns, table[name], strict=True):
            runs, baseline = scores[(*one, column)], scores[(*other, column)]
            values = [runs[seed] - baseline[seed] for seed in runs]
            wanted = f"{mean(values):+.1f} ± {stdev(values):.1f}" if values else ""
            assert cell.strip(" *") == wanted, (name, column)


# --- The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages as HTML; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", ROOT / "docs", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Page(HTMLParser):
    """What an HTML page loads, the links and anchors in it, and its number of formulas."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.anchors, self.formulas = [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.formulas += tag == "math"
        self.anchors |= {values["id"]} if "id" in values else set()
        if tag == "a":
            self.links.append(values.get("href") or "")
        elif tag in ("script", "link", "img", "iframe", "source"):
            self.loads += [value for key in ("src", "href", "srcset") if (value := values.get(key))]


@pytest.mark.slow
def test_the_site_loads_nothing_from_elsewhere_and_its_links_resolve(site):
    pages = {page: Page(page.read_text()) for page in site.rglob("*.html")}
    for page, parsed in pages.items():
        for target in parsed.loads:
            file = page.parent / re.split("[?#]", target)[0]
            assert "//" not in target and file.exists(), f"{page.name}: {target}"
        for target in parsed.links:
            file, _, anchor = target.partition("#")
            if "//" in file or page.name in ("genindex.html", "search.html"):
                continue
            linked = (page.parent / file).resolve() if file else page
            assert linked in pages or linked.exists(), f"{page.name}: {target}"
            known = linked not in pages or anchor in pages[linked].anchors
            assert not anchor or known, f"{page.name}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text()), style


def test_every_public_name_has_an_entry_with_its_sections(site):
    text = (site / "api.html").read_text()
    assert {path for path in PUBLIC if callable(resolve_name(path))} <= Page(text).anchors
    block = text.split('id="strfnet.layers.NonLocalBlock"')[1].split("</dl>\n</dd>")[0]
    for label in ("Args", "Shape", "Raises", "Source"):
        assert re.search(rf"<dt[^>]*>{label}<", block), label
    assert "<p><code" in block and "Args:" not in block


def test_formulas_are_typeset(site):
    layers = (site / "layers.html").read_text()
    assert Page(layers).formulas > 10 and "$" not in re.sub(r"<[^>]*>", "", layers.split("<article")[1])


def test_every_figure_of_the_docs_is_on_a_page_and_small():
    figures = sorted((ROOT / "docs/figures").glob("*.png"))
    assert figures and all(path.stat().st_size < 200_000 for path in figures)
    pages = "".join(PAGES.values())
    assert [path.name for path in figures if f"figures/{path.name})" not in pages] == []
