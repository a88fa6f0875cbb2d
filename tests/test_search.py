"""Search in a gallery on disk: the hits, what is left out, the index, and the command."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from strategies import normal
from torch.nn.functional import normalize

from strfnet.cli import main
from strfnet.data import Tracklet
from strfnet.data.synthetic import write_walkers
from strfnet.inference import SearchSettings, add_to_index, open_gallery, save_embeddings, search_gallery
from strfnet.visualization import draw_search

FACTS = {
    "network": "c2d_resnet8",
    "weights": "0123",
    "clips": "restricted_first:2",
    "size": [32, 16],
    "interpolation": "bilinear",
    "metric": "cosine",
}
FRAME = (np.zeros((2, 2, 3), np.uint8),)


def tracklets(count):
    """Each has a camera of three and is seen for 5 seconds; the last has no times."""
    details = [{"track": str(n), "first_time": f"{n}.0", "last_time": f"{n + 5}.0"} for n in range(count - 1)]
    return [Tracklet(FRAME, None, f"cam{n % 3}", of) for n, of in enumerate([*details, {}])]


def write(path, count=40, *, seed=1, width=16, **facts):
    vectors = normal(count, width, seed=seed)
    save_embeddings(path, vectors, tracklets(count), FACTS | facts)
    return vectors


@pytest.fixture
def file(tmp_path):
    write(tmp_path / "some.safetensors")
    return tmp_path / "some.safetensors"


def rows_of(hits):
    return [hit.row for hit in hits]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_hits_are_the_nearest_rows_and_a_row_does_not_find_itself(tmp_path, metric):
    vectors = write(tmp_path / "f", metric=metric)
    gallery = open_gallery(tmp_path / "f")
    ways = {"cosine": 1 - normalize(vectors) @ normalize(vectors).T, "euclidean": torch.cdist(vectors, vectors)}
    distances = ways[metric][7]
    wanted = [row for row in distances.argsort().tolist() if row != 7]
    hits = search_gallery(gallery, 7, SearchSettings(top=5))
    assert rows_of(hits) == wanted[:5]
    np.testing.assert_allclose([hit.distance for hit in hits], distances[wanted[:5]], atol=1e-5)
    assert hits[0].tracklet["details"].get("track", "39") == str(wanted[0])
    assert rows_of(search_gallery(gallery, 3.0 * vectors[7] if metric == "cosine" else vectors[7]))[0] == 7


def test_the_query_s_camera_and_other_times_are_left_out(file):
    gallery = open_gallery(file)
    everything = SearchSettings(top=99)
    assert sorted(rows_of(search_gallery(gallery, 4, everything))) == [n for n in range(40) if n != 4]
    aware = sorted(rows_of(search_gallery(gallery, 4, replace(everything, camera_aware=True))))
    assert aware == [n for n in range(40) if n % 3 != 1]
    vector = gallery.vectors[4:5][0]
    assert sorted(
        rows_of(search_gallery(gallery, vector, replace(everything, camera_aware=True), camera="cam0"))
    ) == [n for n in range(40) if n % 3]
    # Rows are there from n to n + 5 seconds, the last one has no times.
    times = {"since": 10.0, "until": 12.0}
    assert sorted(rows_of(search_gallery(gallery, 0, replace(everything, **times)))) == list(range(5, 13))
    assert sorted(rows_of(search_gallery(gallery, 0, replace(everything, since=40)))) == [35, 36, 37, 38]
    assert sorted(rows_of(search_gallery(gallery, 39, replace(everything, until=0)))) == [0]


def test_hits_above_the_threshold_are_left_out_whatever_their_order(file):
    gallery = open_gallery(file)
    plain = search_gallery(gallery, 0, SearchSettings(top=40))
    limit = plain[3].distance
    assert rows_of(search_gallery(gallery, 0, SearchSettings(threshold=limit))) == rows_of(plain[:4])
    assert search_gallery(gallery, 0, SearchSettings(threshold=plain[0].distance - 1e-4)) == []
    for changed in (SearchSettings(top=40, expand=3), SearchSettings(top=40, rerank=40)):
        hits = search_gallery(gallery, 0, changed)
        assert rows_of(hits) != rows_of(plain)
        assert {hit.row: hit.distance for hit in hits} == {hit.row: hit.distance for hit in plain}
        hits = search_gallery(gallery, 0, replace(changed, threshold=limit))
        assert sorted(rows_of(hits)) == sorted(rows_of(plain[:4]))


def test_query_expansion_searches_by_the_mean_of_the_nearest(file):
    gallery = open_gallery(file)
    near = rows_of(search_gallery(gallery, 0, SearchSettings(top=3)))
    mean = gallery.vectors[torch.tensor([0, *near])].mean(dim=0)
    wanted = [row for row in rows_of(search_gallery(gallery, mean, SearchSettings(top=11))) if row != 0]
    assert rows_of(search_gallery(gallery, 0, SearchSettings(expand=3)))[:10] == wanted[:10]


def test_reranking_finds_the_cluster_of_the_query(tmp_path):
    # The nearest item of the query belongs to another cluster; neighbours in common give it away.
    centres = normalize(normal(2, 16, seed=2))
    vectors = torch.cat([centres[[0]].repeat(9, 1), centres[[1]].repeat(9, 1)]) + 0.1 * normal(18, 16, seed=3)
    query = centres[0] + 0.05 * centres[1]
    vectors[12] = 0.8 * centres[0] + 0.6 * centres[1] + 0.01 * normal(1, 16, seed=5)[0]
    save_embeddings(tmp_path / "f", vectors, tracklets(18), FACTS)
    gallery = open_gallery(tmp_path / "f")
    hits = search_gallery(gallery, query, SearchSettings(top=9, rerank=18))
    assert sorted(rows_of(hits)) == list(range(9))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"query": 40}, "query is row 40, wanted 0 to 39 of .*some.safetensors"),
        ({"query": torch.ones(3)}, r"query is \(1, 3\) and gallery \(40, 16\)"),
        ({"query": torch.ones(16), "settings": SearchSettings(camera_aware=True)}, "the camera of the query is not"),
        (
            {"query": torch.ones(16), "settings": SearchSettings(camera_aware=True), "camera": "cam"},
            "camera is 'cam', which no tracklet of .*some.safetensors has, wanted one of cam0, cam1, cam2 for",
        ),
        ({"query": 4, "camera": "cam0"}, "camera is 'cam0', but row 4 of .*some.safetensors is of camera 'cam1'"),
    ],
)
def test_queries_that_do_not_fit_are_refused(file, call, message):
    with pytest.raises(ValueError, match=message):
        search_gallery(open_gallery(file), **call)


def test_a_gallery_without_cameras_is_not_searched_by_camera(tmp_path):
    save_embeddings(tmp_path / "f", normal(1, 4, seed=0), [Tracklet(FRAME, "a")], FACTS)
    aware = SearchSettings(camera_aware=True)
    with pytest.raises(ValueError, match=r"which no tracklet of .* has, wanted a gallery with cameras"):
        search_gallery(open_gallery(tmp_path / "f"), torch.ones(4), aware, camera="cam0")


def test_times_are_refused_where_no_tracklet_has_some(tmp_path):
    save_embeddings(tmp_path / "f", normal(1, 4, seed=0), [Tracklet(FRAME, "a")], FACTS)
    with pytest.raises(ValueError, match=r"no tracklet of .* has times"):
        search_gallery(open_gallery(tmp_path / "f"), torch.ones(4), SearchSettings(since=3.0))
    wrong = Tracklet(FRAME, "a", details={"first_time": "noon", "last_time": "3"})
    save_embeddings(tmp_path / "f", normal(1, 4, seed=0), [wrong], FACTS)
    with pytest.raises(ValueError, match="first_time of memory, identity a is 'noon', wanted seconds"):
        search_gallery(open_gallery(tmp_path / "f"), torch.ones(4), SearchSettings(since=3.0))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top": 0}, "top is 0 and expand 0, wanted at least 1 and 0"),
        ({"expand": -1}, "top is 10 and expand -1, wanted at least 1 and 0"),
        ({"rerank": 9}, "rerank is 9, wanted at least top, 10, or 0 for none"),
        ({"since": 4.0, "until": 3.0}, "since is 4.0 and until 3.0, wanted since before until"),
        ({"since": float("nan")}, "since is nan, wanted a number"),
        ({"threshold": float("nan")}, "threshold is nan, wanted a number"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        SearchSettings(**wrong)


# --- The picture


def test_the_picture_has_path_camera_and_time_below_each_hit(tmp_path):
    Image.new("RGB", (8, 16), (250, 0, 0)).save(tmp_path / "0001.png")
    seen = {"path": f"{tmp_path}/0001.png", "camera": "hall", "details": {"first_time": "1.5", "last_time": "4.0"}}
    lost = {"path": "crops/a" + 10 * "/long" + "/0001.png", "camera": None, "details": {}}
    query = Tracklet((np.full((16, 8, 3), 60, np.uint8),), None, "door", {"track": "7"})
    figure = draw_search(query, [(0.25, seen), (0.5, lost)], title="some")
    title, first, one, empty, other = (text.get_text() for text in figure.texts)
    assert (title, empty) == ("some", "no image")
    assert first.split("\n") == ["query", "track 7 of camera door", "camera door"]
    lines = one.split("\n")
    assert lines[0] == "1   distance 0.250" and lines[-2:] == ["camera hall", "1.5–4.0 s"]
    assert "".join(lines[1:-2]).removeprefix("…") == seen["path"][-len("".join(lines[1:-2]).removeprefix("…")) :]
    assert other.startswith("2   distance 0.500\n…") and other.endswith("/long/0001.png")
    assert all(text.get_fontsize() >= 8.8 for text in figure.texts)  # 11 pixels
    images = [axes.images[0].get_array()[70, 37] for axes in figure.axes]
    np.testing.assert_allclose(images, [[60 / 255] * 3, [250 / 255, 0, 0], [0.93] * 3], atol=0.01)
    assert draw_search(query, []).texts[-1].get_text() == "no match"


# --- The index


def test_an_index_grows_and_finds_what_the_files_hold(tmp_path):
    one, other = write(tmp_path / "a", 30, seed=1), write(tmp_path / "b", 20, seed=2)
    add_to_index(tmp_path / "index", tmp_path / "a")
    gallery = add_to_index(tmp_path / "index", tmp_path / "b")
    torch.testing.assert_close(gallery.vectors[0:50], normalize(torch.cat([one, other])).float())
    assert [row["details"].get("track") for row in gallery.tracklets][28:32] == ["28", None, "0", "1"]
    save_embeddings(tmp_path / "both", torch.cat([one, other]), [*tracklets(30), *tracklets(20)], FACTS)
    both = open_gallery(tmp_path / "both")
    assert gallery.facts == {name: both.facts[name] for name in FACTS}
    for row in (0, 29, 30, 49):
        assert search_gallery(gallery, row) == search_gallery(both, row)
    assert list(gallery.tracklets) == list(both.tracklets)


def test_files_that_cannot_be_added_leave_the_index_as_it_was(tmp_path):
    index, a = tmp_path / "index", tmp_path / "a"
    write(a, seed=1)
    add_to_index(index, a)
    before = {path: path.read_bytes() for path in index.iterdir()}
    write(tmp_path / "good", seed=5)
    write(tmp_path / "weights", weights="4567")
    write(tmp_path / "width", width=8)
    bad = normal(3, 16, seed=4)
    bad[2, 5] = float("nan")
    save_embeddings(tmp_path / "nan", bad, tracklets(3), FACTS | {"metric": "cosine"})
    save_embeddings(tmp_path / "old", normal(3, 16, seed=4), tracklets(3))
    for name, message in {
        "a": "a is in the index .*index already",
        "weights": "weights 0123 in .*index, 4567 in .*weights",
        "width": "width holds vectors of 8 numbers, wanted 16",
        "nan": "nan holds NaN or infinity in row 2",
        "old": "old does not hold its network",
        "none": "none is missing",
    }.items():
        with pytest.raises(ValueError, match=message):
            add_to_index(index, tmp_path / "good", tmp_path / name)
        assert json.loads((index / "index.json").read_text())["rows"] == len(open_gallery(index).tracklets) == 40
    assert rows_of(search_gallery(open_gallery(index), 3)) == rows_of(search_gallery(open_gallery(a), 3))
    vectors = write(tmp_path / "better", seed=6)
    gallery = add_to_index(index, tmp_path / "better")
    assert gallery.vectors.shape == (80, 16) and len(gallery.tracklets) == 80
    torch.testing.assert_close(gallery.vectors[40:80], normalize(vectors).float())
    assert (index / "vectors.f32").read_bytes().startswith(before[index / "vectors.f32"])


def test_a_damaged_index_and_a_foreign_folder_are_refused(tmp_path):
    write(tmp_path / "a")
    index = tmp_path / "index"
    add_to_index(index, tmp_path / "a")
    for name, message in {
        "tracklets.jsonl": "tracklets.jsonl has .* bytes, wanted",
        "vectors.f32": "vectors.f32 has .* bytes, wanted",
        "index.json": "cannot read .*index.json, the index is damaged",
    }.items():
        whole = (index / name).read_bytes()
        (index / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=message):
            open_gallery(index)
        (index / name).write_bytes(whole)
    assert len(open_gallery(index).tracklets) == 40
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/photo.jpg").touch()
    with pytest.raises(ValueError, match=r"holds no index\.json"):
        open_gallery(tmp_path / "folder")
    with pytest.raises(ValueError, match="holds other files, wanted a new folder or an index"):
        add_to_index(tmp_path / "folder", tmp_path / "a")
    with pytest.raises(ValueError, match="got no file of embeddings"):
        add_to_index(tmp_path / "new")
    with pytest.raises(ValueError, match="missing is missing"):
        open_gallery(tmp_path / "missing")


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_faiss_finds_candidates_and_the_order_is_exact(tmp_path, metric):
    pytest.importorskip("faiss")
    count = 2000
    centres = normal(40, 16, seed=6)
    vectors = centres[torch.arange(count) % 40] + 0.5 * normal(count, 16, seed=7)
    save_embeddings(tmp_path / "f", vectors, tracklets(count), FACTS | {"metric": metric})
    gallery = add_to_index(tmp_path / "index", tmp_path / "f", faiss=True, recall=0.9)
    assert gallery.approximate.probes < gallery.approximate.lists and gallery.recall() >= 0.9
    hits = [search_gallery(gallery, row) for row in range(0, 200, 10)]
    exact = [search_gallery(replace(gallery, approximate=None), row) for row in range(0, 200, 10)]
    same = sum(len({*rows_of(a)} & {*rows_of(b)}) for a, b in zip(hits, exact, strict=True))
    assert same >= 170
    distance_of = {(n, hit.row): hit.distance for n, found in enumerate(exact) for hit in found}
    for n, found in enumerate(hits):
        assert all(distance_of.get((n, hit.row), hit.distance) == hit.distance for hit in found)
        assert found == sorted(found, key=lambda hit: (hit.distance, hit.row)) and len(found) == 10
    # Where candidates are left out, more of them are searched, up to all.
    few = SearchSettings(since=500, until=503)
    assert search_gallery(gallery, 0, few) == search_gallery(replace(gallery, approximate=None), 0, few)
    # A later file is searched too.
    save_embeddings(tmp_path / "g", vectors[:1] + 0.01, tracklets(1), FACTS | {"metric": metric})
    gallery = add_to_index(tmp_path / "index", tmp_path / "g", recall=0.9)
    assert gallery.approximate is not None and rows_of(search_gallery(gallery, 0))[0] == count
    assert [path.name for path in (tmp_path / "index").glob("faiss-*")] == [f"faiss-{count + 1}"]


# --- The command


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    """Walkers, and the file of their embeddings."""
    root = tmp_path_factory.mktemp("walkers")
    write_walkers(root / "people", identities=3, cameras=2, frames=3, height=32)
    words = ["--model", "c2d_resnet8", "--device", "cpu", "--clips", "evenly:2", "--height", "32", "--width", "16"]
    assert main(["embed", *words, "--data", f"{root}/people", "--out", f"{root}/some.safetensors"]) == 0
    return root


def asked(root, query, *words):
    return ["search", "--gallery", f"{root}/some.safetensors", "--query", f"{query}", *map(str, words)]


def test_a_folder_of_the_gallery_finds_its_row_first(walkers, tmp_path, capsys):
    gallery = open_gallery(walkers / "some.safetensors")
    row = 2
    folder = Path(gallery.tracklets[row]["path"]).parent
    words = ["--model", "c2d_resnet8", "--device", "cpu", "--json", "--top", "3", "--picture", tmp_path / "hits.png"]
    assert main(asked(walkers, folder, *words)) == 0
    hits = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    assert hits[0]["row"] == row and abs(hits[0]["distance"]) < 1e-6 and Path(hits[0]["path"]).parent == folder
    assert (tmp_path / "hits.png").read_bytes().startswith(b"\x89PNG")
    assert main(asked(walkers, row, "--top", 2)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["rank", "distance", "row", "identity", "camera", "path"] and len(lines) == 3
    assert lines[1].split()[2] == str(hits[1]["row"])


def test_a_network_of_other_weights_is_refused(walkers, capsys):
    folder = Path(open_gallery(walkers / "some.safetensors").tracklets[0]["path"]).parent
    assert main(asked(walkers, folder, "--model", "c2d_resnet8", "--seed", 1, "--device", "cpu")) == 1
    assert "embeddings that cannot be compared: weights" in capsys.readouterr().err
    assert main(asked(walkers, folder)) == 1
    assert "model and trained are missing" in capsys.readouterr().err


def test_a_wrong_camera_is_found_before_the_query_is_embedded(walkers, capsys, monkeypatch):
    monkeypatch.setattr("strfnet.cli.commands.search.load", lambda *_: pytest.fail("a network was loaded"))
    folder = Path(open_gallery(walkers / "some.safetensors").tracklets[0]["path"]).parent
    words = ["--model", "c2d_resnet8", "--device", "cpu"]
    assert main(asked(walkers, folder, *words, "--camera", "gate", "--camera-aware")) == 1
    assert "camera is 'gate', which no tracklet of" in capsys.readouterr().err
    assert main(asked(walkers, folder, *words, "--since", "3")) == 1
    assert "has times, wanted a gallery of videos for since and until" in capsys.readouterr().err


def test_no_match_is_said_with_the_nearest_distance(walkers, tmp_path, capsys):
    assert main(asked(walkers, 0, "--threshold", "-1", "--picture", tmp_path / "none.png")) == 0
    assert capsys.readouterr().out.startswith("no match: the nearest is at 0.")
    assert (tmp_path / "none.png").exists()
    assert main(asked(walkers, 0, "--threshold", "-1", "--json")) == 0
    out, err = capsys.readouterr()
    assert out == "" and "no match" in err


def test_a_box_and_a_track_of_a_video_are_queries(walkers, tmp_path, capsys):
    av = pytest.importorskip("av")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    with av.open(str(tmp_path / "v.mp4"), "w") as video:
        stream = video.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for image in pixels:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        video.mux(stream.encode())
    (tmp_path / "v.txt").write_text("1,7,8,4,16,40,1,-1,-1,-1\n")
    network = ["--model", "c2d_resnet8", "--device", "cpu", "--json", "--camera", "hall"]
    found = []
    for words in (["--box", "[0,8,4,16,40]"], ["--tracks", tmp_path / "v.txt", "--track", "7"]):
        assert main(asked(walkers, tmp_path / "v.mp4", *network, *words, "--picture", tmp_path / "p.png")) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1] and len(found[0].splitlines()) == 6
    assert main(asked(walkers, tmp_path / "v.mp4", *network)) == 1
    assert "wanted box, or tracks and track, with it" in capsys.readouterr().err
    assert main(asked(walkers, tmp_path / "v.mp4", "--tracks", tmp_path / "v.txt", "--track", "8")) == 1
    assert "track is '8', wanted one of 7" in capsys.readouterr().err


def test_a_query_with_two_readings_or_none_is_refused(walkers, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3").mkdir()
    for words, message in (
        (["3"], "query is 3, a row of the gallery or the path ./3? Write ./ for it"),
        (["nobody"], "query is nobody, which is missing, wanted a folder, an image, a video or a row"),
        (["2", "--box", "[0,1,1,9,9]"], "query is 2, a row, but box and tracks belong to a video"),
    ):
        assert main(asked(walkers, *words)) == 1
        assert message in capsys.readouterr().err
    assert main(asked(walkers, 2, "--camera", "gate", "--camera-aware")) == 1
    assert "camera is 'gate', but row 2 of" in capsys.readouterr().err
    assert main(asked(walkers, "2", "--track", "7")) == 2
    assert "wanted box, or tracks with track" in capsys.readouterr().err


def test_the_command_makes_an_index_that_is_a_gallery(walkers, tmp_path, capsys):
    index = ["index", "--embeddings", f"{walkers}/some.safetensors", "--out", f"{tmp_path}/index"]
    assert main(index) == 0
    rows = len(open_gallery(walkers / "some.safetensors").tracklets)
    assert f"{rows} embeddings of 64 numbers are in {tmp_path}/index" in capsys.readouterr().out
    assert main(asked(walkers, 1)) == 0
    wanted = capsys.readouterr().out
    assert main(["search", "--gallery", f"{tmp_path}/index", "--query", "1"]) == 0
    assert capsys.readouterr().out == wanted
    assert main(index) == 1 and "already" in capsys.readouterr().err
