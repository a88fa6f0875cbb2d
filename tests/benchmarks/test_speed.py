"""The speed benchmark's program: its table, picture, cases and stored runs, on small networks."""

import importlib
import json
import sys

import pytest
import torch


@pytest.fixture
def record(rooms):
    figure = rooms.figures.Figure
    rows = [
        figure("nvan_resnet50, batch 1", "eager: published takes", 1.3, "x", 1.2, 1.4, goal=1.1),
        figure("nvan_resnet50, batch 1", "eager: output differs", 2e-5, goal=1e-5, at_most=True),
        figure("nvan_resnet50, batch 1", "eager", 1.5, "s", 1.4, 1.6),
        *(figure("nvan_resnet50, batch 1", f"{way}: share of the roof", 0.7, "roof") for way in rooms.plots.COLOURS),
        *(
            figure("growth of block", f"{way}, T = {t}", 0.1 * t, "s")
            for way in ("published", "eager")
            for t in (4, 8)
        ),
        figure("memory", "strfnet, T = 8", 20.0, "MiB"),
        figure("memory", "strfnet, T = 8: of explicit", 0.2, "share", goal=0.18, at_most=True),
    ]
    machine = {"name": "a machine", "torch": "2", "threads": 1, "cores": 2}
    cases = {"all": {"seconds": 120.0, "figures": rooms.figures.dumped(rows)}}
    return {"machine": machine, "settings": "small", "jobs": 2, "cases": cases}


def test_tables_say_goal_figure_and_by_how_much_it_is_missed(rooms, record, tmp_path, monkeypatch, capsys):
    stored, page = tmp_path / "run.json", tmp_path / "page.md"
    stored.write_text(json.dumps(record))
    page.write_text(f"before\n{rooms.figures.BEGIN}\nold\n{rooms.figures.END}\nafter\n")
    call = ["speed.py", "--from", str(stored), "--page", str(page)]
    monkeypatch.setattr(sys, "argv", call)
    assert rooms.speed.main() == 1
    text = capsys.readouterr().out
    assert "1 of 3 goals reached" in text and "MISSED by 100.0%" in text and "MISSED by 11.1%" in text
    assert " 1.50 s" not in text  # seconds are in the JSON
    shown = page.read_text()
    assert shown.startswith("before\n") and shown.endswith("after\n") and "old" not in shown
    assert "a machine, PyTorch 2, 1 thread, small." in shown and "1 of 3 goals reached" in shown
    assert all(line in shown for line in text.splitlines() if "MISSED" in line)
    record["cases"]["all"]["figures"] = [
        row for row in record["cases"]["all"]["figures"] if row["reached"] is not False
    ]
    stored.write_text(json.dumps(record))
    assert rooms.speed.main() == 0 and "1 of 1 goals reached" in capsys.readouterr().out
    page.write_text("nothing")
    with pytest.raises(ValueError, match=r"has no <!-- .* to put the table into"):
        rooms.speed.main()


def test_a_row_shows_the_figure_that_is_worst_by_its_goal(rooms):
    figure = rooms.figures.Figure
    figures = [
        figure("a_net, batch 1", "eager: published takes", 1.5, "x", 1.4, 1.6, goal=1.4),
        figure("b_net, batch 1", "eager: published takes", 1.2, "x", 1.1, 1.3, goal=1.0),
        figure("b_net, batch 4", "eager: published takes", 1.2, "x", 1.0, 1.3, goal=1.3),
        figure("a_net, batch 1", "eager: output differs", 1e-6, goal=1e-5, at_most=True),
        figure("a_net, batch 1", "deployed: output differs", float("nan"), goal=1e-5, at_most=True),
        figure("a_net, training", "eager: published takes", 3.0, "x", 2.9, 3.1),
        figure("b_net, training", "eager: published takes", 2.0, "x", 1.9, 2.1),
        figure("a_net, formats", "kernels", 1.0, "x", goal=2.0),
        figure("a_net, batch 1", "eager", 9.0, "s"),
    ]
    lines = rooms.figures.summary(figures).splitlines()
    rows = {line[:24].strip(): line[24:].split() for line in lines[1:-2]}
    assert list(rows) == ["output, gradients", "training step", "eager", "others"]
    published = "published code"
    assert " ".join(rows["output, gradients"]).startswith(f"{published} 1 of 2 nan")
    eager = "2 of 3 1.20 x 1.00 .. 1.30 ≥ 1.30 b_net, batch 4, MISSED by 7.7%"
    assert " ".join(rows["eager"]) == f"{published} {eager}"
    assert " ".join(rows["training step"]) == f"{published} 2.50 x 2.00 .. 3.00 not judged, 2 cases"
    assert rows["others"][:3] == ["0", "of", "1"] and lines[-1] == "3 of 6 goals reached"


def test_the_table_has_ten_rows(rooms):
    assert len(rooms.figures.ROWS) == 10


def test_the_usual_run_has_the_goals_that_people_read(rooms, monkeypatch):
    monkeypatch.setattr(rooms.speed.os, "cpu_count", lambda: 2)
    named = rooms.speed.cases(rooms.cases.Settings())
    usual = {name for name, case in named.items() if case.usual}
    assert {
        "nvan_resnet50, deployed",
        "strf_p3dc_resnet50, deployed",
        "STRF, T = 8, batch 1",
        "one more frame",
    } < usual
    assert {"p3dc_resnet50, batch 4", "block, T = 32", "nvan_resnet50, training", "memory"} < usual
    rest = set(named) - usual
    others = [f"{name}_resnet50" for name in ("c2d", "i3d", "p3da", "p3db")]
    assert {f"{name}, {how}" for name in others for how in ("batch 1", "deployed")} < rest
    lengths = {f"STRF, T = {t}, batch {b}" for t in (4, 8, 16) for b in (1, 8)} - usual
    runtimes = [f"nvan_resnet50, deployed{much}" for much in (", batch 8", ", all threads", ", batch 8, all threads")]
    assert lengths | set(runtimes) < rest and len(lengths) == 5
    assert all(named[name].alone and named[name].threads > 1 for name in rest if name.endswith("all threads"))


def test_a_figure_that_is_no_number_reaches_no_goal(rooms):
    for at_most in (True, False):
        assert rooms.figures.Figure("a", "b", float("nan"), goal=1.0, at_most=at_most).reached is False


def test_a_picture_is_drawn_or_says_what_it_needs(rooms, record, tmp_path, monkeypatch):
    file = tmp_path / "run.png"
    if importlib.util.find_spec("matplotlib"):
        rooms.plots.draw(record, file)
        assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 20_000
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'strfnet\[viz\]'"):
        rooms.plots.draw(record, file)


def test_cases_run_apart_and_meet_in_one_record(rooms, tmp_path, monkeypatch, capsys):
    stored = tmp_path / "run.json"
    chosen = ["--only", "block, dot", "--only", "16 stripes"]
    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--jobs", "2", *chosen, "--json", str(stored)])
    assert rooms.speed.main() == 0
    record = json.loads(stored.read_text())
    assert list(record["cases"]) == ["block, 16 stripes", "block, dot"]
    assert record["machine"]["name"] and record["machine"]["torch"] == torch.__version__
    rows = [row for case in record["cases"].values() for row in case["figures"]]
    assert rows and all(row["goal"] is None for row in rows if row["unit"] == "x")
    shown = capsys.readouterr().out
    assert "answers are judged, speed and memory are not" in shown
    assert shown.startswith("processor: ") and record["machine"]["features"] == rooms.cases.features()

    monkeypatch.setattr(sys, "argv", ["speed.py", "--quick", "--jobs", "2", *chosen[:2], "--json", str(stored)])
    assert rooms.speed.main() == 0
    again = json.loads(stored.read_text())
    assert again["cases"]["block, 16 stripes"] == record["cases"]["block, 16 stripes"]
    assert again["cases"]["block, dot"] != record["cases"]["block, dot"]
    told = {name: record[name] for name in ("machine", "settings", "jobs")}
    assert rooms.speed.begun(stored, {**told, "jobs": 1}) == {**told, "jobs": 1, "cases": {}}


def test_wrong_calls_are_told_what_there_is(rooms, tmp_path, monkeypatch, capsys):
    for arguments, wanted in (
        (["--only", "nvam"], "--only nvam is in none of: resnet50_fpl, batch 1;"),
        (["--peers", str(tmp_path)], "holds neither net/models.py (of STE-NVAN) nor models/ResNet.py (of AP3D)"),
    ):
        monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])
        with pytest.raises(SystemExit):
            rooms.speed.main()
        assert wanted in capsys.readouterr().err


def test_a_case_that_fails_is_named(rooms):
    with pytest.raises(RuntimeError, match="the case 'no such case' failed: KeyError"):
        rooms.speed.run_apart("no such case", rooms.settings)
