"""The benchmarks of ranking and of the triplet loss, on small problems: all ways agree; speed is not judged."""

import json

import pytest


def test_all_triplet_losses_agree(run):
    status, shown = run("triplet", "--quick")
    assert status == 0 and "reached  losses and gradients agree" in shown and "MISSED" not in shown


def test_a_wrong_triplet_loss_fails_the_run(load, run, monkeypatch):
    triplet = load("triplet")
    monkeypatch.setattr(
        triplet, "looped", lambda *given, right=triplet.looped, **named: 1.01 * right(*given, **named)
    )
    status, shown = run("triplet", "--quick")
    assert status == 1 and "MISSED" in shown


@pytest.mark.slow
def test_all_rankings_agree_and_memory_is_measured(run):
    status, shown = run("ranking", "--quick", "--json")
    assert status == 0
    content = json.loads(shown)
    assert content["reached"] == {"the figures agree": True}
    assert all(0 < row["above_mib"] < row["whole_mib"] for row in content["evaluations"])
    assert set(content["ratios"]) >= {"strfnet", "in Python"}


def test_a_wrong_ranking_fails_the_run(load, run, monkeypatch):
    ranking = load("ranking")

    def wrong(problem):
        mean, cmc = ranking.searched(problem)
        return mean - 1e-6, cmc

    monkeypatch.setattr(ranking, "walked_in_python", wrong)
    monkeypatch.setattr(ranking, "measured_afresh", lambda *_: {"above_mib": 1.0, "whole_mib": 2.0})
    status, shown = run("ranking", "--quick", "--json")
    assert status == 1 and json.loads(shown)["reached"] == {"the figures agree": False}
