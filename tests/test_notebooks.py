"""Notebooks kept as percent cells: each runs from its first line to its last, and says what it should."""

import re
import runpy
from pathlib import Path

import matplotlib
import pytest

FOLDER = Path(__file__).parents[1] / "docs/notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.py"))
SAID = {
    "layers_tour.py": (
        "STRF, new: True",
        "non-local block, new: True",
        r"dynamic +greatest value in a still clip 0.000, in a flat one [^0]",
        r"fine +greatest value in a still clip 0.[1-9]\d+, in a flat one 0.000",
        "brighter or darker: True",
        r"frames that notice: \[True, True, False, False, False, False\]",
        r"P3DC +adds +768 parameters and differs by 0.0e\+00",
    ),
    "splice_any_resnet.py": (
        r"largest difference: (0.0|\d.*e-0[678])\n",
        r"places: \['layer2.0.conv2', 'layer3.0.conv2'\]",
        "'layer4.1.after.0'",
        "gradients arrive: True",
        "as it was: True",
    ),
    "attention_maps.py": (
        r"layer2.0.after.0 \(4, 8, 1\) frames seen: \[False, False, True, True\] sum: 1.0",
        r"moving dynamic mask from (0.\d+) to (?!\1)",
        r"still  dynamic mask from (0.\d+) to \1\n",
    ),
}


def test_no_notebook_is_left_out():
    assert sorted(SAID) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_says_what_it_should(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    told = capsys.readouterr().out
    for line in SAID[name]:
        assert re.search(line, told), f"{line}\nnot in\n{told}"
    pictures = sorted(path.name for path in tmp_path.iterdir())
    assert pictures == (["attention.png", "masks.png"] if name == "attention_maps.py" else [])
    assert all((tmp_path / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_cells_of_text_and_of_code(name):
    text = (FOLDER / name).read_text()
    before, *cells = re.split(r"^# %%(.*)\n", text, flags=re.M)
    assert before == "" and len(cells) >= 12
    for kind, lines in zip(cells[::2], cells[1::2], strict=True):
        assert kind in ("", " [markdown]") and lines.strip()
        if kind:
            assert all(line.startswith("#") for line in lines.splitlines() if line)
