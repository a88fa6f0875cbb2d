import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strfnet.data.sampling import EVALUATION_SAMPLERS
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.evaluation import (
    Evaluation,
    check_matches,
    evaluate,
    evaluate_protocols,
    gallery_of,
    mean_over_splits,
    table,
    unit_length,
)
from strfnet.evaluation.evaluation import COLUMNS, cells_of
from strfnet.evaluation.protocols import PROTOCOLS, Protocol, protocols_of
from strfnet.evaluation.ranking import rank
from strfnet.evaluation.reranking import rerank


def seen(identity, camera):
    return Tracklet((Path("frame.jpg"),), identity, camera)


def small_mars():
    """Junk, distractors and three people; queries 5 and 8 lie in the gallery, the only other view of 7 is 8."""
    who = [(-1, 1), (-1, 2), (0, 1), (0, 2), (2, 1), (2, 2), (2, 2), (4, 3), (4, 1), (6, 4)]
    return DataSet("MARS", (), tuple(seen(*one) for one in who), (5, 7, 8), tuple(range(10)))


GALLERY = {
    "mars": range(10),
    "nvan": range(10),
    "ap3d": range(10),
    "torchreid": [0, 1, 2, 3, 4, 6, 9],
    "cfaan": [0, 1, 4, 6, 9],
    "duke": range(10),
}


def test_cosine_metrics_do_not_depend_on_the_length_of_embeddings():
    generator = torch.Generator().manual_seed(0)
    test = tuple(seen(f"{row % 20}", row // 20 % 3) for row in range(200))
    data = DataSet("drawn", (), test, tuple(range(200)), tuple(range(200)))
    embeddings = 3 + 1e-4 * torch.randn(200, 64, generator=generator)  # nearly parallel, so that rounding decides
    expected = evaluate(embeddings, data, PROTOCOLS["folder"]).to_json()
    assert evaluate(unit_length(embeddings), data, PROTOCOLS["folder"]).to_json() == expected


def test_a_tracklet_without_identity_is_named():
    data = DataSet("drawn", (), (seen("a", 1), seen("a", 2), seen(None, 3)), (0,), (0, 1, 2))
    with pytest.raises(
        ValueError, match=r"1 of 3 tracklets have no identity, the first is frame\.jpg: an evaluation"
    ):
        evaluate(torch.eye(3), data, PROTOCOLS["folder"])


@pytest.mark.parametrize("name", GALLERY)
def test_a_protocol_searches_its_gallery(name):
    assert gallery_of(small_mars(), PROTOCOLS[name]) == tuple(GALLERY[name])


@pytest.mark.parametrize("name", GALLERY)
def test_figures_are_those_of_the_gallery_written_out(name):
    data, protocol = small_mars(), PROTOCOLS[name]
    embeddings = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    rows = [row for row in GALLERY[name] if data.test[row].identity != -1]
    unit = torch.nn.functional.normalize(embeddings.double())
    vectors = embeddings.double() if protocol.distance == "euclidean" else unit
    distances = torch.cdist(vectors[list(data.query)], vectors[rows])
    expected = rank(
        distances,
        [data.test[row].identity for row in data.query],
        [data.test[row].identity for row in rows],
        query_cameras=[data.test[row].camera for row in data.query],
        gallery_cameras=[data.test[row].camera for row in rows],
        average_precision="trapezoid" if name in ("mars", "nvan") else "rectangle",
    )
    result = evaluate(embeddings, data, protocol)
    assert result.mean_average_precision == pytest.approx(expected.mean_average_precision, rel=1e-12)
    np.testing.assert_array_equal(result.cmc, expected.cmc)
    (ranking,) = result.rankings
    assert (ranking.matched, ranking.unmatched) == ((1, 2) if name in ("torchreid", "cfaan") else (3, 0))
    assert ranking.gallery == len(rows)


def test_a_query_in_the_gallery_is_removed_where_cameras_are_not_known():
    data = DataSet("folder x", (), tuple(seen(who, None) for who in "aabb"), (0, 2), (0, 1, 2, 3))
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2], [0.1, 1.0]])
    result = evaluate(embeddings, data, PROTOCOLS["folder"])
    # Query 0 sees 2, 3, 1 and wants 1; query 2 sees 0, 3, 1 and wants 3. Itself would have been first.
    assert result.rankings[0].first_hits.tolist() == [3, 2]
    assert result.mean_average_precision == (1 / 3 + 1 / 2) / 2


def test_gallery_and_queries_apart():
    data = DataSet(
        "iLIDS-VID", (), tuple(seen(who, camera) for camera in "12" for who in "abc"), (0, 1, 2), (3, 4, 5)
    )
    embeddings = torch.eye(3).repeat(2, 1)
    result = evaluate(embeddings, data, PROTOCOLS["ilids"], sampling="all_frames 32")
    assert result.mean_average_precision == result.cmc[0] == 1 and result.rankings[0].gallery == 3
    assert result.as_published and not evaluate(embeddings, data, PROTOCOLS["ilids"]).as_published


def test_presets_name_what_exists():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name
        assert protocol.clips in EVALUATION_SAMPLERS and protocol.frames > 0
        assert protocol.distance in ("cosine", "euclidean")
        assert (protocol.average_precision == "trapezoid") == (name in ("mars", "nvan"))


def test_the_protocols_of_a_data_set():
    def names(data):
        return [protocol.name for protocol in protocols_of(DataSet(data, (), (), (), ()))]

    assert names("MARS") == ["mars", "nvan", "ap3d", "torchreid", "cfaan"]
    assert names("iLIDS-VID") == ["ilids", "torchreid"]
    assert names("folder of mine") == names("synthetic walkers") == ["folder"]
    drawn = DataSet("MARS", (), (), (), ()).named_after(Path("demo/walkers"))
    assert drawn.name == "walkers (MARS layout)" and protocols_of(drawn)[0].name == "mars"


def test_the_mean_over_splits():
    embeddings = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    parts = [evaluate(embeddings.roll(by, dims=0), small_mars(), PROTOCOLS["ap3d"]) for by in range(3)]
    mean = mean_over_splits(parts)
    assert mean.mean_average_precision == pytest.approx(sum(part.mean_average_precision for part in parts) / 3)
    penalties = [part.mean_inverse_negative_penalty for part in parts]
    assert mean.mean_inverse_negative_penalty == pytest.approx(sum(penalties) / 3) and len(set(penalties)) > 1
    np.testing.assert_allclose(mean.cmc, sum(part.cmc for part in parts) / 3)
    assert len({part.mean_average_precision for part in parts}) > 1
    assert table([mean]).splitlines()[1].split()[-3:] == ["3", "unknown", "*"]
    with pytest.raises(ValueError, match="got 2 evaluations of 2 kinds"):
        mean_over_splits([parts[0], evaluate(embeddings, small_mars(), PROTOCOLS["nvan"])])
    with pytest.raises(ValueError, match="got 0 evaluations"):
        mean_over_splits([])


def test_a_table_keeps_the_two_rules_apart_and_says_what_was_counted():
    data = small_mars()
    embeddings = torch.randn(10, 6, generator=torch.Generator().manual_seed(1))
    results = [evaluate(embeddings, data, protocol, sampling="all_frames 32") for protocol in protocols_of(data)]
    lines = table(results).splitlines()
    columns = re.split(r"  +", lines[0])
    rows = {
        cells[0]: dict(zip(columns, cells, strict=True)) for cells in (re.split(r"  +", line) for line in lines[1:6])
    }
    for result in results:
        row, rule = rows[result.protocol.name], result.protocol.average_precision
        other = {"rectangle": "trapezoid", "trapezoid": "rectangle"}[rule]
        assert row[f"mAP {rule}"] == f"{100 * result.mean_average_precision:.2f}" and row[f"mAP {other}"] == "-"
        assert row["mINP"] == f"{100 * result.rankings[0].mean_inverse_negative_penalty:.2f}"
        assert result.to_json()["mean_inverse_negative_penalty"] == result.mean_inverse_negative_penalty
        assert row["R1"] == f"{100 * result.cmc[0]:.2f}"
        assert row["queries"] == str(result.rankings[0].matched)
        assert row["unmatched"] == str(result.rankings[0].unmatched)
        assert row["gallery"] == str(result.rankings[0].gallery)
    assert rows["mars"]["frames"] == "all_frames 32" and rows["nvan"]["frames"] == "all_frames 32 *"
    assert lines[-6].startswith("* other frames than the protocol's")
    assert "nvan: the code of NVAN" in lines[-4] and lines[-4].endswith("[frames: restricted_first 8]")
    assert len({line.index(rows["mars"]["distance"]) for line in lines[1:2]}) == 1


@given(sizes=st.lists(st.integers(1, 3), min_size=2, max_size=3))
def test_the_columns_of_a_table_stand_below_each_other(sizes):
    data = small_mars()
    results = [evaluate(torch.randn(10, size), data, PROTOCOLS["ap3d"], sampling="all_frames 32") for size in sizes]
    lines = table(results).splitlines()[: 1 + len(sizes)]
    assert len({line.index("cosine") for line in lines[1:]} | {lines[0].index("distance")}) == 1


def test_an_evaluation_of_unlike_splits_says_so():
    data = small_mars()
    other = DataSet("MARS", (), data.test, (5,), data.gallery)
    embeddings = torch.randn(10, 6)
    mean = mean_over_splits([evaluate(embeddings, each, PROTOCOLS["ap3d"]) for each in (data, other)])
    assert isinstance(mean, Evaluation) and " 1..3 " in table([mean])


@pytest.mark.parametrize("shape", [(9, 6), (10,), (10, 2, 3)])
def test_other_embeddings_are_refused(shape):
    with pytest.raises(ValueError, match=r"wanted \(10, d\), one row for each test tracklet of MARS"):
        evaluate(torch.zeros(shape), small_mars(), PROTOCOLS["mars"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([[1.0]], small_mars(), PROTOCOLS["mars"]), "embeddings is list, wanted a Tensor"),
        ((torch.zeros(4, 2), [0, 1, 0, 1], PROTOCOLS["mars"]), "data_set is list, wanted a DataSet"),
        ((torch.zeros(4, 2), small_mars(), "mars"), "protocol is 'mars', wanted a Protocol"),
    ],
)
def test_arguments_of_other_types_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        evaluate(*arguments)


def test_the_json_of_an_evaluation_has_the_average_precision_of_each_query_and_none_without_a_match():
    test = tuple(seen(*one) for one in [("a", 1), ("a", 2), ("b", 1), ("c", 2)])
    data = DataSet("drawn", (), test, (0, 2), (0, 1, 2, 3))
    found = evaluate(torch.eye(4), data, PROTOCOLS["folder"]).to_json()["splits"][0]
    assert found["matched"] == found["unmatched"] == 1
    assert found["average_precisions"][1] is None and 0 < found["average_precisions"][0] <= 1


def test_a_protocol_that_leaves_nothing_is_refused():
    data = small_mars()
    data = DataSet("MARS", (), data.test, data.query, (0, *data.query))
    with pytest.raises(ValueError, match="protocol torchreid leaves no gallery of MARS"):
        evaluate(torch.randn(10, 4), data, PROTOCOLS["torchreid"])
    with pytest.raises(ValueError, match=r"data is 'MARS', wanted a tuple of names, such as \('MARS',\)"):
        Protocol("mine", "of mine", data="MARS")
    with pytest.raises(ValueError, match="gallery must be one of all, listed, without_queries, got 'some'"):
        Protocol("mine", "of mine", gallery="some")


def test_all_searches_queries_that_are_listed_apart_too():
    data = DataSet("DukeMTMC-VideoReID", (), tuple(seen(who, 1) for who in "abab"), (0, 1), (2, 3))
    assert gallery_of(data, PROTOCOLS["duke"]) == (2, 3)
    assert gallery_of(data, PROTOCOLS["nvan"]) == (0, 1, 2, 3)


def test_distances_are_those_of_the_protocol():
    data = DataSet("mine", (), (seen("a", 1), seen("a", 2), seen("b", 2)), (0,), (1, 2))
    embeddings = torch.tensor([[1.0, 0.0], [9.0, 0.1], [1.0, 0.5]])  # the right one points alike and lies far off
    hits = {name: evaluate(embeddings, data, PROTOCOLS[name]).cmc[0] for name in ("ap3d", "torchreid")}
    assert hits == {"ap3d": 1, "torchreid": 0}


def test_a_cut_is_that_of_the_protocol():
    data = DataSet("mine", (), (seen("a", 1), seen("a", 2), seen("b", 2)), (0,), (1, 2))
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.5]])
    assert evaluate(embeddings, data, Protocol("whole", "", cut=2)).mean_average_precision == 0.5
    assert evaluate(embeddings, data, Protocol("short", "", cut=1)).mean_average_precision == 0


def test_reranked_distances_are_judged_by_the_same_rules():
    data_set = small_mars()
    embeddings = torch.randn(10, 8, generator=torch.Generator().manual_seed(3))
    protocol = PROTOCOLS["nvan"]
    result = evaluate(embeddings, data_set, protocol, reranked=True)
    who = [(item.identity, item.camera) for item in data_set.test]
    query = [who[row] for row in data_set.query]
    expected = rank(
        rerank(embeddings[list(data_set.query)], embeddings),
        [identity for identity, _ in query],
        [identity for identity, _ in who],
        query_cameras=[camera for _, camera in query],
        gallery_cameras=[camera for _, camera in who],
        average_precision="trapezoid",
    )
    assert result.mean_average_precision == expected.mean_average_precision
    assert result.mean_average_precision != evaluate(embeddings, data_set, protocol).mean_average_precision
    assert "cosine re-ranked" in table([result]) and result.to_json()["reranked"] is True


def test_several_protocols_share_the_embeddings_of_a_clip_sampler():
    data, calls = small_mars(), []

    def embed(tracklets, clips):
        assert tracklets == data.test
        calls.append(clips)
        return torch.randn(10, 6, generator=torch.Generator().manual_seed(clips[1]))

    protocols = [PROTOCOLS[name] for name in ("mars", "nvan", "ap3d", "cfaan")]
    results = evaluate_protocols(embed, data, protocols)
    assert calls == [("all_frames", 32), ("restricted_first", 8), ("restricted_first", 6)]
    assert [result.protocol for result in results] == protocols and all(result.as_published for result in results)
    expected = evaluate(embed(data.test, ("restricted_first", 8)), data, PROTOCOLS["nvan"])
    assert results[1].mean_average_precision == expected.mean_average_precision
    calls.clear()
    middle = evaluate_protocols(embed, data, protocols, clips=("middle", 4), rerank=True)
    assert calls == [("middle", 4)] and all(result.sampling == "middle 4" and result.reranked for result in middle)


def dressed(identity, camera, **details):
    return Tracklet((Path("frame.jpg"),), identity, camera, details)


def test_clothes_and_platforms_are_those_of_the_details():
    test = [dressed("a", 1, clothes="red", platform="aerial"), dressed("a", 2, clothes="red", platform="ground")]
    test += [dressed("a", 3, clothes="blue", platform="ground"), dressed("b", 2, clothes="red", platform="aerial")]
    data = DataSet("mine", (), (*test, seen(0, 2), seen(-1, 2)), (0,), tuple(range(1, 6)))
    embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.2], [1.0, 0.6], [1.0, 0.4], [1.0, 0.5], [1.0, 0.1]])
    precisions = {
        name: evaluate(embeddings, data, PROTOCOLS[name]).mean_average_precision
        for name in ("ccvid", "ccvid_same_clothes", "ccvid_clothes_changing")
    }
    assert precisions == {
        "ccvid": pytest.approx((1 + 2 / 4) / 2),
        "ccvid_same_clothes": 1,
        "ccvid_clothes_changing": pytest.approx(1 / 3),
    }
    across = evaluate(embeddings, data, PROTOCOLS["aerial_to_ground"])
    assert (
        across.mean_average_precision == 1 and across.rankings[0].gallery == 2
    )  # b is searched from the ground only
    with pytest.raises(ValueError, match="protocol ground_to_aerial leaves no query of mine"):
        evaluate(embeddings, data, PROTOCOLS["ground_to_aerial"])
    bare = DataSet("mine", (), (*test, seen("c", 2), seen(-1, 2)), (0,), tuple(range(1, 6)))
    with pytest.raises(ValueError, match=r"frame\.jpg has no clothes, which protocol ccvid_clothes_changing"):
        evaluate(embeddings, bare, PROTOCOLS["ccvid_clothes_changing"])


def test_the_splits_of_a_data_set_are_embedded_once_and_averaged():
    tracklets = {
        (who, camera): Tracklet((Path(f"{who}{camera}.jpg"),), who, camera) for who in "abcd" for camera in "12"
    }

    def split(people):
        test = tuple(tracklets[who, camera] for camera in "12" for who in people)
        half = len(people)
        return DataSet("iLIDS-VID", (), test, tuple(range(half)), tuple(range(half, 2 * half)), splits=3)

    splits, calls = [split(people) for people in ("abc", "bcd", "acd")], []

    def embed(asked, clips):
        calls.append([str(one.frames[0]) for one in asked])
        seeds = [ord(one.identity) + 100 * int(one.camera) for one in asked]
        return torch.stack([torch.randn(2, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    (mean,) = evaluate_protocols(embed, splits, [PROTOCOLS["ilids"]])
    assert sorted(calls[0]) == sorted(f"{who}{camera}.jpg" for who, camera in tracklets) and len(calls) == 1
    parts = [evaluate(embed(each.test, None), each, PROTOCOLS["ilids"], sampling="all_frames 32") for each in splits]
    assert mean.mean_average_precision == pytest.approx(sum(part.mean_average_precision for part in parts) / 3)
    assert len({part.mean_average_precision for part in parts}) > 1
    assert re.search(r" 3 +all_frames 32", table([mean])) and "Not all splits" not in table([mean])
    assert " 1 of 3  all_frames 32" in table(parts[:1]) and "Not all splits: published metrics" in table(parts[:1])


def test_clips_frames_and_cuts_are_those_of_the_codes_that_protocols_name():
    clips = {
        "ls_vid": "dense 8",
        "nvan": "restricted_first 8",
        "torchreid": "evenly 15",
        "cfaan": "restricted_first 6",
        **dict.fromkeys(["ccvid", "ccvid_same_clothes", "ccvid_clothes_changing"], "all_frames 16"),
    }
    for name, protocol in PROTOCOLS.items():
        assert protocol.sampling == clips.get(name, "all_frames 32")
        assert protocol.cut == (10_000 if name == "nvan" else None)
        assert protocol.distractors == (name != "cfaan")


def test_the_row_of_a_table_has_the_ranks_that_its_columns_name():
    test = tuple(seen(str(row), camera) for camera in (1, 2) for row in range(8))
    data = DataSet("drawn", (), test, tuple(range(8)), tuple(range(16)))
    evaluation = evaluate(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), data, PROTOCOLS["ap3d"])
    row, cmc = dict(zip(COLUMNS, cells_of(evaluation), strict=True)), evaluation.cmc
    assert len({*cmc[:10]}) > 4
    assert [row["R1"], row["R5"], row["R10"]] == [f"{100 * cmc[k]:.2f}" for k in (0, 4, 9)]


@pytest.mark.parametrize(
    ("who", "query", "rule", "reason"),
    [
        ([], (), "folder", "drawn has no test tracklets"),
        ([(None, 1), (None, 2)], (), "folder", "its 2 test tracklets have no identity"),
        ([("a", None), ("b", None)], (), "folder", "no identity has two test tracklets, and their cameras are not"),
        ([("a", 1), ("a", 1)], (0,), "folder", "all 2 test tracklets are of camera 1, and a match is of another one"),
        ([("a", 1), ("b", 2)], (), "folder", "no identity of the 2 test tracklets is seen by two of their 2 cameras"),
        ([("a", 1), ("b", 2)], (0,), "folder", "none of its 1 queries has .* identity and another camera$"),
        ([("a", 1), ("b", 2)], (0,), "ccvid_same_clothes", "another camera, and of the protocol's attributes$"),
        ([("a", 1), ("b", 2)], (0,), "ccvid_clothes_changing", "another camera, and of the protocol's attributes$"),
    ],
)
def test_data_without_a_match_are_refused_with_the_reason(who, query, rule, reason):
    test = tuple(Tracklet((Path("frame.jpg"),), *one, details={"clothes": "1"}) for one in who)
    with pytest.raises(ValueError, match=reason):
        check_matches(DataSet("drawn", (), test, query, tuple(range(len(test)))), PROTOCOLS[rule])
