"""`strfnet show` from the command line: files written, calls refused, and what a report is made of."""

import io
import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from strfnet import create_model
from strfnet.cli.exhibition import Exhibition
from strfnet.cli.parser import main
from strfnet.cli.showing import SUFFIXES, Showing
from strfnet.data.synthetic import draw_set, write_walkers
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.inference.embedder import Embedder
from strfnet.training.log import Log

NETWORK = ["--model", "strf_c2d_resnet8", "--height", "32", "--width", "16", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "walk<b>ers"
    write_walkers(root, identities=3, cameras=2, frames=3, height=32)
    return root


@pytest.fixture
def exhibition(tmp_path):
    def make(name="strf_c2d_resnet8", **asked):
        torch.manual_seed(0)
        network = create_model(name, num_classes=None).eval()
        embedder = Embedder(network, name, (32, 16), "bilinear", 8, 0)
        call = Showing(**{"model": name, "report": True, "out": tmp_path, **asked})
        data = draw_set(train=1, test=3, cameras=2, tracklets=1, frames=4, height=32)
        return Exhibition(call, embedder, data, [PROTOCOLS["folder"], PROTOCOLS["nvan"]], ("middle", 3))

    return make


def test_several_pictures_go_into_a_folder_and_one_into_a_file(walkers, tmp_path, capsys):
    data = ["--data", str(walkers), *NETWORK]
    out = tmp_path / "new" / "shown"
    assert main(["show", "--masks", "--ranks", "true", "--cmc", "--report", *data, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{name}: {out / name}.{SUFFIXES[name]}" for name in ("masks", "ranks", "cmc", "report")
    ]
    assert "making masks ..." in said.err and "6 of 6 tracklets embedded" in said.err
    assert "protocol torchreid leaves no gallery" in said.err and "it is left out" in said.err  # all are queries
    for name in ("masks", "ranks", "cmc"):
        with Image.open(out / f"{name}.png") as image:
            assert image.format == "PNG" and min(image.size) > 200
    page = (out / "report.html").read_text()
    assert "walk&lt;b&gt;ers" in page and "<b>" not in page and "was not trained" in page
    assert sorted(path.name for path in out.iterdir()) == ["cmc.png", "masks.png", "ranks.png", "report.html"]
    assert main(["show", *data, "--ranks", "--masks=false", "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes() == (out / "ranks.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "no picture is named, wanted one or more of --masks, --attention,"),
        (["--masks", "--ranks", "--out", "x.png"], "wanted a folder for masks.png, ranks.png"),
        (["--report", "--out", "x.png"], "wanted a folder for report.html"),
        (["--curve"], "only a training run has a log"),
        (["--mask"], "there is no option 'mask', the nearest is 'masks'"),
        (["--masks", "--protocol", "marz"], "there is no protocol 'marz', the nearest is 'mars'"),
        (["--masks", "--clips", "middle"], "clips are 'middle', wanted a form and its frames"),
        (["--ranks", "--ranks-shown", "0"], "ranks_shown must be at least 1, got 0"),
    ],
)
def test_a_wrong_call_is_told_in_a_line(words, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "shown"]
    assert main(["show", *words, *NETWORK, *out]) == 2
    assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_tracklet_that_is_not_there_is_refused(walkers, tmp_path, capsys):
    words = ["show", "--masks", "--row", "6", "--data", str(walkers), *NETWORK]
    assert main([*words, "--out", str(tmp_path / "new" / "x.png")]) == 1
    assert "row is 6, wanted one of 6 test tracklets" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_report_tells_what_it_is_of(exhibition):
    page = exhibition().report().decode()
    assert "Accuracies on drawn walkers are no accuracies on people" in page
    for words in ("strf_c2d_resnet8", "untrained", "drawn in memory: 10 tracklets in the test, 6 of them queries"):
        assert words in page
    for heading in ("CMC", "Hardest queries", "Masks of the worst case", "Masks of the best case"):
        assert f"<h2>{heading}</h2>" in page
    assert "Attention" not in page.replace("Masks and attention", "") and torch.__version__ in page
    ours = exhibition(weights=Path("walkers")).report().decode()
    assert "walkers, which come with strfnet" in ours and "untrained" not in ours and "was not trained" not in ours
    both = exhibition("ap3d_nl_resnet8").report().decode()
    assert "<h2>Attention of the worst case</h2>" in both and "Masks of" not in both


def test_the_hardest_queries_come_first(exhibition):
    shown = exhibition()
    precisions = shown._judged[0].rankings[0].average_precisions
    by_row = dict(zip(shown.data_set.query, precisions, strict=True))
    assert [by_row[row] for row in shown._hardest] == sorted(precisions)


def test_other_rows_and_places_give_other_pictures(exhibition):
    pictures = [exhibition(row=row).masks() for row in (4, 5)]
    assert pictures[0] != pictures[1] and exhibition(row=4).masks() == pictures[0]
    looks = [exhibition("nvan_resnet8", place=place).attention() for place in (None, (1, 12, 8), (0, 0, 0))]
    assert looks[0] == looks[1] != looks[2]  # 3 frames of 32 x 16: the middle frame, 2 / 5 down, the middle


def test_a_run_shows_its_curve(exhibition, tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("step", 1, {"epoch": 0, "batch": 1, "loss": 2.0})
    log.close()
    shown = exhibition(model=None, trained=tmp_path, curve=True)
    with Image.open(io.BytesIO(shown.curve())) as image:
        assert image.format == "PNG"
    assert "<h2>Training</h2>" in shown.report().decode()


def test_the_example_shows_a_leg_and_a_block(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["show_masks.py", "--out", str(tmp_path / "out")])
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "show_masks.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    for line, what in zip(said[2::3], ("leg", "block"), strict=True):
        file = tmp_path / "out" / f"masks_{what}.png"
        assert line == f"picture     {file}" and file.read_bytes().startswith(b"\x89PNG")
    assert said[0].startswith("leg, backbone.layer2.0.conv2.after.0: static 0.")


def test_every_picture_of_the_docs_is_shown_by_a_page_and_small_enough_to_be_read_on_the_way():
    docs = Path(__file__).parents[1] / "docs"
    pictures = sorted(docs.glob("pictures/*.png"))
    assert pictures and all(path.stat().st_size < 200_000 for path in pictures)
    pages = "".join(page.read_text() for page in docs.glob("*.md"))
    assert [path.name for path in pictures if f"(pictures/{path.name})" not in pages] == []
