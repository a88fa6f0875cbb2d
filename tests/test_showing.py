"""`strfnet show` from the command line: files written, calls refused, and what a report is made of."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image

from strfnet.cli import main
from strfnet.cli.commands.show import Figures
from strfnet.cli.options.groups import Data, Inference, Network
from strfnet.cli.options.show import SUFFIXES, Show
from strfnet.data.synthetic import draw_set, write_walkers
from strfnet.evaluation import PROTOCOLS
from strfnet.inference import Embedder
from strfnet.models import Preprocessing, find_network
from strfnet.training.log import Log

NETWORK = ["--model", "strf_c2d_resnet8", "--height", "32", "--width", "16", "--device", "cpu", "--workers", "0"]


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "walk<b>ers"
    write_walkers(root, identities=3, cameras=2, frames=3, height=32)
    return root


@pytest.fixture
def figures(tmp_path):
    def make(name="strf_c2d_resnet8", weights=None, trained=None, **asked):
        torch.manual_seed(0)
        found = find_network(name, weights=weights)
        network = Network(trained=trained, model=None if trained else name, weights=weights)
        parts = {"data_set": Data(), "network": network, "inference": Inference()}
        call = Show(
            **{
                "report": True,
                "out": tmp_path,
                "clips": "middle:3",
                "queries_shown": 1,
                "ranks_shown": 2,
                **parts,
                **asked,
            }
        )
        embedder = Embedder(found.network, name, Preprocessing(32, 16), workers=0)
        data = draw_set(train=1, test=3, cameras=2, tracklets=1, frames=4, height=32)
        return Figures(call, embedder, found, data, [PROTOCOLS["folder"], PROTOCOLS["nvan"]])

    return make


@pytest.mark.slow
def test_several_pictures_go_into_a_folder_and_one_into_a_file(walkers, tmp_path, capsys):
    data = ["--data", str(walkers), *NETWORK, "--queries-shown", "1", "--ranks-shown", "2"]
    out = tmp_path / "new" / "shown"
    assert main(["show", "--masks", "--ranks", "true", "--cmc", "--report", *data, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        f"{name}: {out / name}.{SUFFIXES[name]}" for name in ("masks", "ranks", "cmc", "report")
    ]
    assert "drawing masks ..." in said.err and "6 of 6 tracklets embedded" in said.err
    for name in ("masks", "ranks", "cmc"):
        with Image.open(out / f"{name}.png") as image:
            assert image.format == "PNG" and min(image.size) > 200
    page = (out / "report.html").read_text()
    assert "walk&lt;b&gt;ers" in page and "<b>" not in page and "not trained for re-identification" in page
    assert "hold for 6 queries of 3 identities under 2 cameras" in page and "ynthetic" not in page
    assert sorted(path.name for path in out.iterdir()) == ["cmc.png", "masks.png", "ranks.png", "report.html"]
    assert main(["show", *data, "--ranks", "--masks=false", "--out", str(tmp_path / "one.png")]) == 0
    assert (tmp_path / "one.png").read_bytes() == (out / "ranks.png").read_bytes()


def test_tracklets_without_identity_are_shown_but_not_ranked(walkers, tmp_path, capsys):
    data = [
        "--data",
        str(walkers / "walker1"),
        "--layout",
        "camera/track",
        *NETWORK,
        "--out",
        str(tmp_path / "a.png"),
    ]
    assert main(["show", "--masks", "--row", "1", *data]) == 0
    assert "2 tracklets without identity" in capsys.readouterr().err and (tmp_path / "a.png").exists()
    assert main(["show", "--ranks", *data]) == 1
    assert "2 of 2 tracklets have no identity" in capsys.readouterr().err


def test_a_wrong_clip_sampler_is_refused_before_anything_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "--masks", "--clips", "middle", *NETWORK, "--out", "shown"]) == 2
    assert "clips is 'middle', wanted a clip sampler and its frames, such as middle:8" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_tracklet_that_is_not_there_is_refused(walkers, tmp_path, capsys):
    words = ["show", "--masks", "--row", "6", "--data", str(walkers), *NETWORK]
    assert main([*words, "--out", str(tmp_path / "new" / "x.png")]) == 1
    assert "row is 6, wanted one of 6 test tracklets" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_report_names_its_network_data_and_weights(figures):
    page = figures().report()
    assert "Metrics on synthetic walkers do not measure accuracy on people" in page
    assert "hold for 6 queries of 3 identities under 2 cameras, and for no other data" in page
    for words in ("strf_c2d_resnet8", "random weights", "drawn in memory: 10 test tracklets, 6 of them queries"):
        assert words in page
    for heading in (
        "CMC",
        "Hardest queries",
        "Regions that match",
        "Masks of the worst case",
        "Masks of the best case",
    ):
        assert f"<h2>{heading}</h2>" in page
    assert "Attention" not in page.replace("Masks and attention", "") and torch.__version__ in page
    ours = figures(weights=Path("walkers")).report()
    assert "walkers, shipped with strfnet" in ours and "untrained" not in ours and "not trained for" not in ours
    both = figures("ap3d_nl_resnet8").report()
    assert "<h2>Attention of the worst case</h2>" in both and "Masks of" not in both


def test_the_hardest_queries_come_first(figures):
    shown = figures()
    precisions = shown.evaluations[0].rankings[0].average_precisions
    by_row = dict(zip(shown.data_set.query, precisions, strict=True))
    assert [by_row[row] for row in shown.hardest] == sorted(precisions)


def test_other_rows_and_places_give_other_figures(figures):
    masks = [figures(row=row).draw("masks") for row in (4, 5)]
    assert masks[0] != masks[1] and figures(row=4).draw("masks") == masks[0]
    looks = [figures("nvan_resnet8", place=place).draw("attention") for place in (None, (1, 12, 8), (0, 0, 0))]
    assert looks[0] == looks[1] != looks[2]  # 3 frames of 32 x 16: the middle frame, 2 / 5 down, the middle


def test_a_query_is_compared_with_another_tracklet(figures):
    shown = figures(row=5, match=True)
    first = next(item.row for item in shown._whole_list(5) if item.mark != "not counted")
    other = next(row for row in range(10) if row not in (5, first))
    assert (
        shown.draw("match") == figures(row=5, other=first).draw("match") != figures(row=5, other=other).draw("match")
    )
    # Any network on clips will do.
    assert figures("nvan_resnet8", row=5).draw("match").startswith(b"\x89PNG")


def test_a_run_shows_its_curve(figures, tmp_path):
    log = Log(tmp_path / "log.jsonl")
    log.write("step", 1, {"epoch": 0, "batch": 1, "loss": 2.0})
    log.close()
    shown = figures(trained=tmp_path, curve=True)
    with Image.open(io.BytesIO(shown.draw("curve"))) as image:
        assert image.format == "PNG"
    assert "<h2>Training</h2>" in shown.report()
