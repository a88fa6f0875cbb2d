import csv
import importlib.util
import itertools
import re
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors import safe_open

from strfnet.data.synthetic import draw_gait_set, draw_set, write_walkers

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example's ``main`` and returns the lines it prints; ``replaced`` are names of the module."""

    def run(name, *arguments, **replaced):
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        spec.loader.exec_module(module)
        for key, value in replaced.items():
            monkeypatch.setattr(module, key, value)
        getattr(module, "main", lambda: None)()
        return capsys.readouterr().out.splitlines()

    return run


def metrics(lines):
    """The rows of the table that starts with the metrics: name, mAP and R1 in percent."""
    start = next(row for row, line in enumerate(lines) if line.split()[:4] == ["mAP", "%", "R1", "%"])
    rows = (re.match(r"(\S.*?)  +([\d.]+) +([\d.]+)", line) for line in lines[start + 1 :])
    return {row[1]: (float(row[2]), float(row[3])) for row in rows if row}


def test_shipped_weights_rank_new_walkers_far_above_chance(run, tmp_path):
    few = draw_set(train=1, test=8, cameras=2, distractors=0, junk=0, seed=2)
    lines = run("rank_tracklets", "--out", tmp_path, draw_set=lambda **_: few)
    scores = metrics(lines)
    assert list(scores) == ["random order", "untrained", "strf_c2d_resnet8"]
    assert scores["strf_c2d_resnet8"][0] > 60 > scores["untrained"][0]
    assert abs(scores["random order"][1] - 100 * 2 / 30) < 3  # 2 of 30 candidates match
    first = lines[next(row for row, line in enumerate(lines) if line.startswith("query")) + 1]
    found = re.findall(r"([+-]) (\d+)/2 +(0\.\d+)", first)
    assert (
        first.startswith("2/1 ") and len(found) == 5 and [row[2] for row in found] == sorted(row[2] for row in found)
    )
    assert all((mark == "+") == (identity == "2") for mark, identity, _ in found) and found[0][0] == "+"
    with safe_open(tmp_path / "embeddings.safetensors", "pt") as file:
        assert file.get_tensor("embeddings").shape == (32, 64)


def test_a_folder_of_tracklets_is_ranked_and_random_weights_are_named(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))  # no weights are cached
    write_walkers(tmp_path / "data", identities=2, cameras=2, frames=2, height=32)
    lines = run("rank_tracklets", "--data", tmp_path / "data", "--out", tmp_path / "out")
    assert list(metrics(lines)) == ["random order", "strf_p3dc_resnet50"]
    assert "This network has random weights: it was not trained for re-identification." in lines
    with pytest.raises(ValueError, match="nowhere is missing"):
        run("rank_tracklets", "--data", "nowhere", "--out", tmp_path / "out")


def test_both_networks_are_trained_and_stand_beside_chance_and_cost(run, tmp_path):
    data = draw_gait_set(height=32, train=4, test=2, cameras=2, tracklets=4)
    lines = run("train_walkers", "--out", tmp_path, "--epochs", 1, draw_gait_set=lambda **_: data)
    scores = metrics(lines)
    assert list(scores) == ["random order", "C2D", "C2D + STRF"]
    assert abs(scores["random order"][1] - 25) < 5  # one match among 4 in the gallery
    costs = [int(line.split()[-2].replace(",", "")) for line in lines if line.startswith("C2D")]
    assert costs[1] - costs[0] == 10_688
    assert all((tmp_path / model / "result.json").exists() for model in ("c2d_resnet8", "strf_c2d_resnet8"))
    assert run("train_walkers", "--out", tmp_path, "--epochs", 1, draw_gait_set=lambda **_: data)[-3] == lines[-3]


@pytest.mark.parametrize(
    ("example", "last"),
    [
        ("one_layer", "non-local block: (2, 256, 8, 16, 8) attention: (2, 4, 32, 32)"),
        ("inflate_resnet50", "restored bit for bit: True"),
    ],
)
def test_short_examples_end_in_their_result(run, example, last):
    assert run(example)[-1] == last


def test_a_person_who_comes_back_is_matched_while_the_video_is_read(run, tmp_path):
    video, tracks = tmp_path / "video.mkv", tmp_path / "tracks.txt"
    walkers = draw_set(train=1, test=2, cameras=2, tracklets=1, distractors=0, junk=0, frames=12, height=64, seed=5)
    one, other = (item.frames for item in walkers.test if item.camera == 1)
    people = {1: (one[:6], 0, 4), 2: (other[:8], 1, 44), 3: (one[6:], 10, 84)}
    lines = []
    with av.open(str(video), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 128, 80, "bgr0"
        for number in range(16):
            picture = np.full((80, 128, 3), 90, np.uint8)
            for track, (frames, first, left) in people.items():
                if 0 <= number - first < len(frames):
                    picture[8:72, left : left + 32] = frames[number - first]
                    lines.append(f"{number + 1},{track},{left},8,32,64,1,-1,-1,-1")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    tracks.write_text("\n".join([*lines, "16,2,200,8,32,64,1,-1,-1,-1"]))  # the last box is outside
    *matches, summary = run("live_matches", video, tracks)
    assert [re.sub(r".* s: | [(].*", "", line) for line in matches] == ["track 3 looks like track 1"]
    assert 1.0 <= float(matches[0].split()[0]) <= 1.5
    assert re.fullmatch(r"20 boxes of 3 tracks, \d+ boxes a second", summary)


def test_masks_are_drawn_into_files(run, tmp_path):
    lines = run("show_masks", "--out", tmp_path)
    assert lines[0].startswith("leg, backbone.layer2.0.conv2.after.0: static 0.")
    for scene in ("leg", "block"):
        file = tmp_path / f"masks_{scene}.png"
        assert f"figure {file}" in lines and file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_import_from_packages_only(path):
    modules = re.findall(r"^(?:from|import) (\S+)", path.read_text(), re.MULTILINE)
    ours = [name for name in modules if name.split(".")[0] == "strfnet"]
    assert ours and all(len(name.split(".")) <= 2 or name == "strfnet.data.synthetic" for name in ours)
    assert "walker_tasks" not in modules


@pytest.mark.slow
def test_a_video_becomes_crops_a_search_a_threshold_a_tuned_network_and_a_report(run, tmp_path):
    out = tmp_path / "cameras"
    lines = run("camera_to_answer", "--out", out, "--epochs", 1, PEOPLE=6)
    commands = [position for position, line in enumerate(lines) if line.startswith("$ strfnet ")]
    said = [lines[start + 1 : end] for start, end in itertools.pairwise([*commands, len(lines)])]
    names = [lines[position].split()[2] for position in commands]
    assert names == ["crop", "crop", "check", "embed", "search", "search", "search", "evaluate", "train", "show"]
    crops, _, check, embed, search, sure, alone, evaluated, _, shown = said
    assert crops[0].startswith("6 of 6 tracks are in")
    assert check[0].startswith("nothing is wrong with")
    assert embed[0] == f"11 embeddings of 64 numbers are in {out / 'gallery.safetensors'}"

    with (out / "truth.csv").open() as file:
        truth = {(row["camera"], row["track"]): row["identity"] for row in csv.DictReader(file)}
    hits = [line.split() for line in search if line[:1].isdigit()]
    found = [truth["camera2", Path(hit[-1]).parent.name] for hit in hits]
    assert [hit[3] for hit in hits] == 3 * ["camera2"] and found[0] == truth["camera1", "3"]
    assert [float(hit[1]) for hit in hits] == sorted(float(hit[1]) for hit in hits)
    assert (out / "hits.png").read_bytes().startswith(b"\x89PNG")

    limit = next(float(line.split()[1].rstrip(":")) for line in sure + search if line.startswith("threshold"))
    near = [line.split() for line in sure if line[:1].isdigit()]
    assert near == [hit for hit in hits if float(hit[1]) <= limit]
    others = [float(line.split()[1]) for line in alone if line[:1].isdigit()]
    assert all(distance <= limit for distance in others) and (others or alone[0].startswith("no match"))
    assert any(line.startswith("folder") and " 4 " in line for line in evaluated)  # three people, one seen once
    assert (out / "run/result.json").exists()
    assert shown[-1] == f"report: {out / 'report.html'}" and "Why" in (out / "report.html").read_text()
