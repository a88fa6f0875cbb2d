import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score

from strfnet.evaluation.distances import cosine_distances, euclidean_distances
from strfnet.evaluation.ranking import rank, rank_embeddings

GOLDEN = load_file(Path(__file__).parent / "golden" / "evaluation.safetensors")
PUBLISHED = {
    "trapezoid": {"average_precision": "trapezoid"},
    "trapezoid_truncated": {"average_precision": "trapezoid", "cut": 20},
    "rectangle": {},
    "rectangle_junk_kept": {"junk": "wrong"},
    "rectangle_nomatch": {},
}


def whose(query_identities=None):
    return {
        "query_identities": GOLDEN["query_ids"] if query_identities is None else query_identities,
        "gallery_identities": GOLDEN["gallery_ids"],
        "query_cameras": GOLDEN["query_cams"],
        "gallery_cameras": GOLDEN["gallery_cams"],
    }


@pytest.mark.parametrize("case", PUBLISHED)
@pytest.mark.parametrize("byte_budget", [1, 2**24])
def test_published_figures_come_out(case, byte_budget):
    people = whose(GOLDEN.get(f"{case}.query_ids"))
    result = rank(GOLDEN["dist"], **people, **PUBLISHED[case], byte_budget=byte_budget)
    assert abs(result.mean_average_precision - GOLDEN[f"{case}.map"].item()) < 1e-9
    cmc = GOLDEN.get(f"{case}.cmc20", GOLDEN.get(f"{case}.cmc"))
    np.testing.assert_allclose(result.cmc[:20], cmc, rtol=0, atol=1e-9)
    if f"{case}.ap" in GOLDEN:
        np.testing.assert_allclose(result.average_precisions, GOLDEN[f"{case}.ap"], rtol=0, atol=1e-9)
    assert result.unmatched == (5 if case == "rectangle_nomatch" else 0)
    assert result.gallery == (150 if case == "rectangle_junk_kept" else 135)


@pytest.mark.parametrize("average_precision", ["rectangle", "trapezoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("byte_budget", [1, 3000, 2**25])
def test_published_figures_come_out_of_embeddings(average_precision, dtype, byte_budget):
    features = GOLDEN["features"].to(dtype)
    result = rank_embeddings(
        features[GOLDEN["query_rows"]],
        features,
        **whose(),
        self_match=GOLDEN["query_rows"],
        average_precision=average_precision,
        byte_budget=byte_budget,
    )
    case = f"{average_precision}_features"
    assert abs(result.mean_average_precision - GOLDEN[f"{case}.map"].item()) < 1e-9
    np.testing.assert_allclose(result.cmc[:20], GOLDEN[f"{case}.cmc20"], rtol=0, atol=1e-9)


def by_hand(distances, people, *, average_precision, junk, cut, ranks):
    """Query by query and item by item; of items at one distance those to be found come last."""
    precisions, penalties, first, reached = [], [], [], [0] * ranks
    own = people["self_match"]
    for q, row in enumerate(distances.tolist()):
        who, where = people["query_identities"][q], people["query_cameras"][q]
        kinds = []
        for g in range(len(row)):
            same = people["gallery_identities"][g] == who
            camera = people["gallery_cameras"][g]
            of_one_camera = same and camera == where and camera is not None
            is_junk = people["gallery_identities"][g] == -1 and junk == "removed"
            if of_one_camera or is_junk or own[q] == g:
                kinds.append("removed")
            elif same:
                kinds.append("removed" if who == -1 else "good")
            else:
                kinds.append("wrong")
        wanted = kinds.count("good")
        if not wanted:
            precisions.append(math.nan)
            penalties.append(math.nan)
            first.append(0)
            continue
        order = sorted(range(len(row)), key=lambda g: (row[g], kinds[g] == "good"))
        hits, place, total, first_hit = 0, 0, 0.0, 0
        for g in order[:cut]:
            if kinds[g] == "removed":
                continue
            place += 1
            if kinds[g] == "good":
                hits += 1
                place_of_last = place
                first_hit = first_hit or place
                before = (hits - 1) / (place - 1) if place > 1 else 1.0
                now = hits / place
                total += now if average_precision == "rectangle" else (now + before) / 2
        precisions.append(total / wanted)
        penalties.append(wanted / place_of_last if hits == wanted else 0.0)
        first.append(first_hit)
        if 0 < first_hit <= ranks:
            reached[first_hit - 1] += 1
    count = sum(not math.isnan(precision) for precision in precisions)
    return precisions, penalties, first, [sum(reached[: k + 1]) / max(count, 1) for k in range(ranks)], count


@st.composite
def problems(draw):
    """Few distances, so that there are ties; unknown cameras, junk, queries in the gallery, unmatched ones."""
    q, g = draw(st.integers(1, 6)), draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    values = rng.integers(0, draw(st.sampled_from([2, 5, 1000])), (q, g)).astype(np.float32)
    values[rng.random((q, g)) < 0.1] = np.inf
    gallery = rng.choice(np.array([-1, 0, 1, 2, 3]), g)
    query = rng.choice(np.array([-1, 0, 1, 2, 3]), q, p=[0.05, 0.05, 0.3, 0.3, 0.3])
    cameras = [None, "a", "b", 3] if draw(st.booleans()) else [1, 2]
    q_at, g_at = rng.integers(0, len(cameras), q), rng.integers(0, len(cameras), g)
    own = []
    for who in query:
        rows = np.flatnonzero(gallery == who)
        own.append(int(rng.choice(rows)) if len(rows) and rng.random() < 0.5 else None)
    return values, {
        "query_identities": query.tolist(),
        "gallery_identities": gallery.tolist(),
        "query_cameras": [cameras[at] for at in q_at],
        "gallery_cameras": [cameras[at] for at in g_at],
        "self_match": own,
    }


@given(
    problem=problems(),
    average_precision=st.sampled_from(["rectangle", "trapezoid"]),
    junk=st.sampled_from(["removed", "wrong"]),
    cut=st.sampled_from([None, 1, 4]),
    byte_budget=st.sampled_from([1, 100, 2**20]),
    seed=st.integers(0, 99),
)
def test_figures_agree_with_loops_for_any_order_and_block_size(
    problem, average_precision, junk, cut, byte_budget, seed
):
    distances, people = problem
    kept = distances.copy()
    settings = {"average_precision": average_precision, "junk": junk, "cut": cut, "ranks": 5}
    precisions, penalties, first, cmc, count = by_hand(distances, people, **settings)
    if not count:
        with pytest.raises(ValueError, match=r"none of \d queries has a match"):
            rank(distances, **people, **settings)
        return
    result = rank(distances, **people, **settings, byte_budget=byte_budget)
    np.testing.assert_array_equal(distances, kept)
    np.testing.assert_allclose(result.average_precisions, precisions, rtol=1e-12)
    np.testing.assert_allclose(result.inverse_negative_penalties, penalties, rtol=1e-12)
    assert result.mean_inverse_negative_penalty == pytest.approx(np.nanmean(penalties), rel=1e-12)
    np.testing.assert_array_equal(result.first_hits, first)
    np.testing.assert_allclose(result.cmc, cmc, rtol=1e-12)
    assert (result.matched, result.unmatched) == (count, len(distances) - count)
    assert result.mean_average_precision == pytest.approx(np.nanmean(precisions), rel=1e-12)

    order = np.random.default_rng(seed).permutation(distances.shape[1])
    moved = people | {
        "gallery_identities": [people["gallery_identities"][g] for g in order],
        "gallery_cameras": [people["gallery_cameras"][g] for g in order],
        "self_match": [None if at is None else int(np.flatnonzero(order == at)[0]) for at in people["self_match"]],
    }
    again = rank(torch.from_numpy(distances[:, order]), **moved, **settings)
    np.testing.assert_array_equal(again.average_precisions, result.average_precisions)
    np.testing.assert_array_equal(again.cmc, result.cmc)
    assert again.mean_average_precision == result.mean_average_precision


@given(problem=problems())
def test_the_rectangle_is_scikit_learns_average_precision(problem):
    distances, people = problem
    people = people | {"query_cameras": None, "gallery_cameras": None, "self_match": None}
    who = np.array(people["gallery_identities"])
    matched = [q for q, one in enumerate(people["query_identities"]) if one != -1 and one in who]
    if not matched:
        return
    result = rank(distances, **people)
    for q in matched:
        left = who != -1
        truth = who[left] == people["query_identities"][q]
        # Scikit-learn sees the ties as broken, the wrong items first; it cannot rank infinity.
        order = np.lexsort((truth, distances[q, left]))
        scores = np.empty(len(order))
        scores[order] = -np.arange(len(order))
        assert result.average_precisions[q] == pytest.approx(average_precision_score(truth, scores), rel=1e-12)


def test_a_tie_with_one_item_to_be_found_needs_no_breaking_to_agree_with_scikit_learn():
    distances = np.array([[0.1, 0.2, 0.2, 0.2, 0.4, 0.4, 0.5]])
    truth = np.array([0, 1, 0, 0, 1, 0, 1])
    result = rank(distances, ["p"], ["p" if one else "r" for one in truth])
    assert result.mean_average_precision == pytest.approx(average_precision_score(truth, -distances[0]), rel=1e-12)


def test_the_two_rules_on_hits_at_ranks_1_and_3():
    for rule, value in (("rectangle", (1 + 2 / 3) / 2), ("trapezoid", (1 + (2 / 3 + 1 / 2) / 2) / 2)):
        result = rank(np.array([[1, 2, 3]]), ["p"], ["p", "r", "p"], average_precision=rule)
        assert result.mean_average_precision == pytest.approx(value, rel=1e-15)
        assert result.cmc.tolist() == [1.0] * 50 and result.first_hits.tolist() == [1]


def test_one_vector_for_everybody_gets_the_worst_figures_wherever_the_matches_lie():
    for identities in (["p", "r", "s"], ["r", "s", "p"]):
        result = rank_embeddings(torch.ones(1, 8), torch.ones(3, 8), ["p"], identities)
        assert result.first_hits.tolist() == [3]


def people_of(q, g, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "query_identities": rng.integers(0, 5, q).tolist(),
        "gallery_identities": rng.integers(-1, 5, g).tolist(),
        "query_cameras": rng.integers(0, 3, q),
        "gallery_cameras": rng.integers(0, 3, g),
    }


@given(seed=st.integers(0, 99), d=st.integers(2, 9), byte_budget=st.sampled_from([500, 2000, 2**20]))
def test_embeddings_rank_as_their_distances_do(seed, d, byte_budget):
    generator = torch.Generator().manual_seed(seed)
    query, gallery = (torch.randn(count, d, generator=generator) for count in (7, 60))
    for distance, distances in (("cosine", cosine_distances), ("euclidean", euclidean_distances)):
        expected = rank(distances(query.double(), gallery.double()), **people_of(7, 60, seed))
        result = rank_embeddings(query, gallery, **people_of(7, 60, seed), distance=distance, byte_budget=byte_budget)
        np.testing.assert_allclose(result.average_precisions, expected.average_precisions, rtol=1e-12)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_equal_embeddings_are_tied_wherever_they_stand_however_the_work_is_cut(distance):
    generator = torch.Generator().manual_seed(0)
    few = 3 + torch.randn(40, 700, generator=generator)
    gallery = few[torch.arange(400) % 40]  # every vector ten times, under several identities
    people = people_of(40, 400)
    expected = rank_embeddings(few, gallery, **people, distance=distance)
    threads = torch.get_num_threads()
    for seed, byte_budget in enumerate([200_000, 700_000, 2_000_000]):
        order = torch.randperm(400, generator=torch.Generator().manual_seed(seed))
        moved = people | {
            "gallery_identities": np.array(people["gallery_identities"])[order],
            "gallery_cameras": people["gallery_cameras"][order],
        }
        torch.set_num_threads(1 + seed)
        try:
            result = rank_embeddings(few, gallery[order], **moved, distance=distance, byte_budget=byte_budget)
        finally:
            torch.set_num_threads(threads)
        np.testing.assert_array_equal(result.average_precisions, expected.average_precisions)
        np.testing.assert_array_equal(result.cmc, expected.cmc)


def test_half_precision_matrices_and_whole_numbers_are_ranked():
    distances = torch.tensor([[1.0, 2.0, 3.0]])
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int64):
        assert rank(distances.to(dtype), [1], [2, 1, 1]).first_hits.tolist() == [2]


def test_text_is_no_number():
    assert rank(np.array([[1.0, 2.0]]), [1], ["1", 1]).first_hits.tolist() == [2]


def test_a_ranking_says_what_it_is():
    text = str(rank(np.array([[1.0, 2, 3], [3.0, 1, 2]]), ["p", "nobody"], ["r", "p", -1], ranks=5))
    assert text == (
        "mAP 50.00 (rectangle)  mINP 50.00  R1 0.00  R5 100.00  1 queries (1 more without a match), 2 gallery items"
    )


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (2, 3)])
@pytest.mark.parametrize("byte_budget", [1, 2**20])
def test_nan_is_refused_with_its_place(place, byte_budget):
    distances = np.zeros((3, 4))
    distances[place] = np.nan
    with pytest.raises(ValueError, match=f"query {place[0]} and gallery item {place[1]} is NaN"):
        rank(distances, [1, 2, 3], [1, 2, -1, 3], byte_budget=byte_budget)
    spoiled = torch.randn(4, 5)
    spoiled[place[1], 2] = torch.inf
    with pytest.raises(ValueError, match=f"gallery holds NaN or infinity in row {place[1]}"):
        rank_embeddings(torch.randn(3, 5), spoiled, [1, 2, 3], [1, 2, -1, 3])


def test_infinity_is_last():
    assert rank(np.array([[np.inf, 5.0, np.inf]]), [1], [1, 2, 2]).first_hits.tolist() == [3]
    assert rank(np.array([[5.0, np.inf, np.inf]]), [1], [1, 2, -1]).first_hits.tolist() == [1]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"average_precision": "area"}, "average_precision must be one of rectangle, trapezoid, got 'area'"),
        ({"junk": "kept"}, "junk must be one of removed, wrong, got 'kept'"),
        ({"cut": 0}, "cut=0, wanted at least 1"),
        ({"ranks": 0}, "ranks=0"),
        ({"byte_budget": 0}, "byte_budget must be at least 1, got 0"),
        ({"query_cameras": [1]}, "query_cameras has 1 entries, wanted 2"),
        ({"gallery_identities": [1, 2]}, r"distances are \(2, 3\), wanted 2 queries and 2 gallery items"),
        ({"query_identities": [1, None]}, "an identity is None"),
        ({"query_identities": [1, 2.5]}, "query_identities holds 2.5, wanted text or integers"),
        ({"self_match": [0, 0]}, "self_match of query 1 is 0, wanted a column of identity 2"),
        ({"self_match": [None, 3]}, "self_match of query 1 is 3"),
        ({"distances": np.zeros(3)}, r"distances are float64 \(3,\)"),
        ({"distances": np.zeros((2, 3), dtype=complex)}, "distances are complex128"),
        ({"query_identities": [8, 9]}, "none of 2 queries has a match"),
    ],
)
def test_what_cannot_be_ranked_is_refused(changed, words):
    arguments = {"distances": np.zeros((2, 3)), "query_identities": [1, 2], "gallery_identities": [1, 2, 3]}
    with pytest.raises(ValueError, match=words):
        rank(**(arguments | changed))


def test_nothing_to_rank_is_refused():
    for shape in ((0, 3), (3, 0)):
        with pytest.raises(ValueError, match="at least 1 of both"):
            rank(np.zeros(shape), [1] * shape[0], [1] * shape[1])


@given(seed=st.integers(0, 999), share=st.sampled_from(["differing", "common"]))
def test_attributes_narrow_the_matches_as_written_query_by_query(seed, share):
    rng = np.random.default_rng(seed)
    identities, cameras, clothes = (rng.integers(0, high, (2, 12)) for high in (3, 3, 2))
    query, gallery = identities[0, :5].tolist(), identities[1].tolist()
    clothes = [
        [None if value == 1 and at % 4 == 3 else value for at, value in enumerate(of)] for of in clothes.tolist()
    ]
    distances = rng.random((5, 12))
    precisions = []
    for row in range(5):
        kept = []
        for column in np.argsort(distances[row]):
            mine = gallery[column] == query[row]
            alike = clothes[0][row] is not None and clothes[0][row] == clothes[1][column]
            removed = cameras[0, row] == cameras[1, column] or alike != (share == "common")
            if not (mine and removed):
                kept.append(mine)
        hits = [place for place, mine in enumerate(kept, start=1) if mine]
        precisions.append(np.mean([hit / place for hit, place in enumerate(hits, start=1)]) if hits else np.nan)
    rules = {"query_cameras": cameras[0, :5].tolist(), "gallery_cameras": cameras[1].tolist()}
    rules[share] = [(clothes[0][:5], clothes[1])]
    if np.isnan(precisions).all():
        with pytest.raises(ValueError, match="another camera that fits the attributes"):
            rank(distances, query, gallery, **rules)
        return
    found = rank(distances, query, gallery, **rules)
    np.testing.assert_allclose(found.average_precisions, precisions, rtol=1e-12)
    assert found.unmatched == np.isnan(precisions).sum()
