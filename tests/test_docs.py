"""The pages: their code runs, their links lead somewhere, their figures are ours or the papers', and all make a site.

Blocks of one page run one after the other.
"""

import inspect
import os
import re
import runpy
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from string import Template

import pytest
import torch
from torch import nn

import strfnet
from strfnet.cli.parser import CONFIGURED, _parse, main

ROOT = Path(__file__).parents[1]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
}
CELLS = {page.name: page.read_text() for page in sorted((ROOT / "docs/notebooks").glob("*.py"))}
BLOCKS = {page: re.findall(r"```python\n(.*?)```", text, re.S) for page, text in PAGES.items()}
ENTRIES = {
    path
    for page, text in PAGES.items()
    if page.startswith("docs/api/")
    for path in re.findall(r"^\.\. auto(?:class|function):: (\S+)$", text, re.M)
}


@pytest.mark.parametrize("page", [name for name, blocks in BLOCKS.items() if blocks])
def test_the_code_of_a_page_runs(page):
    names = {}
    for block in BLOCKS[page]:
        exec(compile(block, page, "exec"), names)


def shell_lines(text):
    """The lines of shell on a page, as words."""
    shell = re.sub(r"```python\n.*?```", "", text, flags=re.S).replace("\\\n", " ")
    values = dict(re.findall(r'^ {4}([A-Z]+)="(.*)"$', shell, re.M))
    lines = re.findall(r"^(?: {4})?((?:strfnet|python|torchrun) .*)$", shell, re.M)
    return [shlex.split(Template(line).safe_substitute(values), comments=True) for line in lines]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if shell_lines(text)])
def test_the_lines_of_shell_are_calls_that_are_understood(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for program, *words in shell_lines(PAGES[page]):
        if program == "python":
            text = (ROOT / words[0]).read_text()
            assert all(f'"{option}"' in text for option in words if option.startswith("--")), words
            continue
        if program == "torchrun":
            words = words[words.index("strfnet.cli") + 1 :]
        if words[0] in CONFIGURED:
            assert main([*words, "--print-config"]) == 0, capsys.readouterr().err
        else:
            assert _parse(words).command


def anchors(text):
    """Of the headings of a page, as code hosts and MyST make them."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    headings = re.findall(r"^#+ (.*)$", prose.lower(), re.M)
    return {re.sub(r"[^\w\- ]", "", heading).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere():
    for page, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            file = (ROOT / page).parent / target if target else ROOT / page
            assert file.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(file.read_text()), f"{page}: {target}#{anchor}"


# --- Names and docstrings


def value_at(path):
    """What a dotted path of an API page names."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def test_every_public_name_and_all_that_the_pages_import_is_on_an_api_page():
    assert {f"strfnet.{name}" for name in strfnet.__all__} <= ENTRIES
    on_pages = [block for blocks in BLOCKS.values() for block in blocks] + list(CELLS.values())
    known = {id(value_at(path)) for path in ENTRIES}
    for module, names in re.findall(r"^from (strfnet[\w.]*) import (.+)$", "\n".join(on_pages), re.M):
        for name in names.split(", "):
            value = getattr(import_module(module), name)
            assert not callable(value) or name == "main" or id(value) in known, f"{module}.{name}"


@pytest.mark.parametrize("path", sorted(ENTRIES))
def test_what_is_on_an_api_page_has_a_docstring_of_its_own(path):
    value = value_at(path)
    told = value.__doc__ or ""
    assert told.strip() and not told.startswith(f"{value.__name__}("), path  # the latter is what a dataclass gets


@pytest.mark.parametrize("name", strfnet.__all__)
def test_a_public_name_says_what_goes_in_and_what_is_refused(name):
    value = getattr(strfnet, name)
    told = inspect.cleandoc(value.__doc__)
    labels = set(re.findall(r"^(\w+):", told, re.M))
    wanted = {"Raises"} if inspect.signature(value).parameters else set()
    if isinstance(value, type) and issubclass(value, nn.Module):
        wanted |= {"Args", "Shape"}
    assert wanted <= labels, wanted - labels
    if "Args" in labels:  # each of them, under its own name
        arguments = re.search(r"^Args:\n((?: +.*\n?|\n)*)", told, re.M)[1]
        listed = {word for line in re.findall(r"^    ([\w, ]+):", arguments, re.M) for word in line.split(", ")}
        assert listed == set(inspect.signature(value).parameters), name


# --- The cards of the named networks


def rows_of(page):
    """Cells of the table rows of a page whose first cell is a name in code."""
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", PAGES[page], re.M)
    return [(name, [cell.strip() for cell in cells.split("|")]) for name, cells in lines]


def test_cards_hold_every_form_once_and_its_parameters():
    costs = {name: cells for name, cells in rows_of("docs/model_cards.md") if len(cells) == 4}
    assert sorted(costs) == sorted(name for name in strfnet.list_models() if "resnet50" in name)
    for name, (_, parameters, *_macs) in costs.items():
        with torch.device("meta"):
            network = strfnet.create_model(name)
        assert f"{sum(value.numel() for value in network.parameters()) / 1e6:.3f}" == parameters, name


@pytest.mark.parametrize("name", ["strf_p3dc_resnet50", "ste_nvan_resnet50", "c2d_nl_resnet50"])
def test_cards_say_what_the_profiler_counts(name):
    [cells] = [cells for row, cells in rows_of("docs/model_cards.md") if row == name and len(cells) == 4]
    with torch.device("meta"):
        counted = strfnet.profile(strfnet.create_model(name), (1, 3, 8, 256, 128))
    assert cells[2:] == [f"{counted.gmacs:.2f}", f"{counted.gimacs:.2f}"]


def test_cards_print_the_papers_accuracies_and_say_that_they_were_not_run():
    printed = {name: cells for name, cells in rows_of("docs/model_cards.md") if len(cells) == 2}
    of_sets = {"MARS": 0, "DukeMTMC-VideoReID": 1}
    papers = runpy.run_path(str(ROOT / "benchmarks/published.py"))
    published = [row for row in papers["ACCURACIES"] if row.data in of_sets]
    assert set(printed) == {row.network for row in published}
    for row in published:
        mean_ap, rank1 = map(float, printed[row.network][of_sets[row.data]].split(" / "))
        assert (mean_ap, rank1) == (row.mean_ap, row.rank1), row
    strf, nvan = PAGES["docs/model_cards.md"].split("## NVAN and STE-NVAN")
    assert f"not run here ({papers['STRF']}); mAP by rectangle" in " ".join(strf.split())
    assert f"not run here ({papers['NVAN']}); mAP by trapezoid" in " ".join(nvan.split())


# --- The site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages as HTML; a warning is an error."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    here = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, ROOT / "docs", out], env=here, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


class Seen(HTMLParser):
    """What a page would load, where it leads, the places in it, and how many formulas it has."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.leads, self.places, self.formulas = [], [], set(), 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.formulas += tag == "math"
        self.places |= {values["id"]} if "id" in values else set()
        if tag == "a":
            self.leads.append(values.get("href") or "")
        elif tag in ("script", "link", "img", "iframe", "source"):
            self.loads += [value for key in ("src", "href", "srcset") if (value := values.get(key))]


def test_the_site_asks_no_address_and_its_links_lead_somewhere(site):
    pages = {page: Seen(page.read_text()) for page in site.rglob("*.html")}
    assert {f"{Path(name).with_suffix('.html')}" for name in CELLS} <= {page.name for page in pages}
    for page, seen in pages.items():
        for target in seen.loads:
            file = page.parent / re.split("[?#]", target)[0]
            assert "//" not in target and file.exists(), f"{page.name}: {target}"
        for target in seen.leads:
            file, _, anchor = target.partition("#")
            if "//" in file or page.name in ("genindex.html", "search.html"):
                continue
            led = (page.parent / file).resolve() if file else page
            assert led in pages or led.exists(), f"{page.name}: {target}"
            assert not anchor or led not in pages or anchor in pages[led].places, f"{page.name}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", style.read_text()), style


def test_formulas_and_sections_of_docstrings_are_shown_as_such(site):
    layers = (site / "layers.html").read_text()
    assert Seen(layers).formulas > 10 and "$" not in re.sub(r"<[^>]*>", "", layers.split("<article")[1])
    block = (site / "api/layers.html").read_text().split('id="strfnet.NonLocalBlock"')[1].split("</dl>\n</dd>")[0]
    for label in ("Args", "Shape", "Raises", "Source"):
        assert re.search(rf"<dt[^>]*>{label}<", block), label
    assert "<p><code" in block and "Args:" not in block
