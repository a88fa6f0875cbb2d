"""The synthetic comparison, on a short task."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import normal, wake


@pytest.fixture
def modules(load):
    """The benchmark's modules: arms, reid, tables, training."""
    return {name: load(f"synthetic_{name}") for name in ("arms", "reid", "tables", "training")}


@pytest.fixture
def short(load):
    """Plans a task with one tracklet per identity and camera; tests have one group from two cameras."""

    def plan(name, data=0):
        task = load("walker_tasks").plan_task(name, data)
        first = {
            test: [s for s in groups[0] if s.seed[-1] < 1 and s.camera < 3] for test, groups in task.tests.items()
        }
        train = tuple(scene for scene in task.train if scene.seed[-1] < 1)
        return replace(task, train=train, tests={test: (tuple(group),) for test, group in first.items()})

    return plan


@pytest.fixture
def gait(short):
    """The short gait task and its frames."""
    task = short("gait")
    parts = {"train": task.train, "all": task.tests["all"][0]}
    return task, {name: np.stack([scene.draw() for scene in scenes]) for name, scenes in parts.items()}


def learned(modules, gait, seed, arm="strf", steps=2):
    task, clips = gait
    torch.manual_seed(seed)
    network = modules["arms"].build("c2d", arm, 14)
    losses = modules["training"].train(network, task, clips["train"], seed=seed, steps=steps)
    return network, losses


def test_training_is_a_function_of_the_seed_and_is_tested_in_percent(modules, gait):
    network, losses = learned(modules, gait, 0)
    again, same = learned(modules, gait, 0)
    assert losses == same and len(losses) == 2
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert learned(modules, gait, 1)[1] != losses
    clips = gait[1]["all"][:3, :4]
    singly = torch.cat([modules["training"].embed(network.train(), clip[None]) for clip in clips])
    torch.testing.assert_close(modules["training"].embed(network.train(), clips), singly)
    scores = modules["training"].test(network.train(), *gait)
    assert list(scores) == ["all"] and all(0 <= figure <= 100 for figure in scores["all"])
    assert modules["training"].test(again, *gait) == scores


def test_training_is_the_recipe_written_out(modules, gait):
    task, clips = gait
    torch.manual_seed(4)
    network = modules["arms"].build("c2d", "none", 14).train()
    weights = list(network.parameters())
    optimizer = torch.optim.AdamW(weights, lr=1.0, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=3, pct_start=0.15)
    losses = []
    for batch, labels in modules["training"].batches(task, clips["train"], seed=4, steps=3):
        output = network(batch)
        identity = torch.nn.functional.cross_entropy(output.logits, labels, label_smoothing=0.1)
        cosines = torch.nn.functional.normalize(output.feature) @ torch.nn.functional.normalize(output.feature).T
        same = labels[:, None] == labels
        farthest, nearest = cosines.masked_fill(~same, 2).amin(dim=1), cosines.masked_fill(same, -2).amax(dim=1)
        loss = identity + (nearest - farthest + 0.3).relu().mean()
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    np.testing.assert_allclose(learned(modules, gait, 4, arm="none", steps=3)[1], losses, rtol=1e-3)


def test_training_lowers_the_loss(modules, gait):
    losses = learned(modules, gait, 0, steps=10)[1]
    assert np.mean(losses[-3:]) < losses[0] - 0.1


def test_arms_of_a_seed_start_alike_and_see_the_same_batches(modules, gait):
    build = modules["arms"].build
    networks = {}
    for arm in ("none", "strf", "no mask", "spatial"):
        torch.manual_seed(3)
        networks[arm] = build("p3dc", arm, 14).backbone.state_dict()
    shared = [key for key in networks["none"] if "temporal" not in key]
    assert len(shared) > 40
    for arm, state in networks.items():
        assert all(torch.equal(state[key], networks["none"][key]) for key in shared), arm
    one, other = (list(modules["training"].batches(*(gait[0], gait[1]["train"]), seed=5, steps=3)) for _ in range(2))
    for (clips, labels), (clips_again, labels_again) in zip(one, other, strict=True):
        assert torch.equal(clips, clips_again) and torch.equal(labels, labels_again)
    assert not torch.equal(one[0][0], one[1][0])


@pytest.mark.parametrize("name", ["gait", "badge", "mixed"])
def test_a_batch_holds_three_clips_each_of_eight_identities_as_the_recipe_says(modules, short, name):
    task = short(name)
    # A frame that says where it comes from: tracklet, and number in it.
    clips = np.zeros((len(task.train), 16, 2, 1, 3), np.uint8)
    clips[:, :, 0, 0, 0] = np.arange(len(task.train))[:, None] % 256
    clips[:, :, 0, 0, 1] = np.arange(len(task.train))[:, None] // 256
    clips[:, :, 0, 0, 2] = np.arange(16)
    mean, std = (np.array(v) for v in (modules["training"].IMAGENET_MEAN, modules["training"].IMAGENET_STD))
    names = sorted({scene.identity for scene in task.train})
    frames, stride = (4, 2) if name == "badge" else (8, 1)
    starts, twins = set(), set()
    for step, (batch, labels) in enumerate(modules["training"].batches(task, clips, seed=0, steps=40)):
        assert batch.shape == (24, 3, frames, 2, 1) and labels.shape == (24,)
        assert np.bincount(labels).tolist().count(3) == 8
        shown = ((batch.permute(0, 2, 3, 4, 1).numpy() * std + mean) * 255).round()[:, :, 0, 0]
        rows = (shown[:, 0, 0] + 256 * shown[:, 0, 1]).astype(int)
        assert len(set(rows)) == 24
        assert [names.index(task.train[row].identity) for row in rows] == labels.tolist()
        assert (np.diff(shown[:, :, 2]) == stride).all()
        starts |= set(shown[:, 0, 2])
        if task.twins:
            chosen = {names[label] for label in labels.tolist()}
            of_this_factor = {group for group in task.twins[step % 4] if set(group) <= chosen}
            assert of_this_factor
            twins |= of_this_factor
    assert starts == set(range(16 - (frames - 1) * stride))
    assert not task.twins or len(twins) > 24  # of 48 groups, 40 drawn


@pytest.mark.slow
def test_all_arms_of_all_hosts_are_built_and_differ(modules):
    arms = modules["arms"]
    sizes = {
        arm: sum(p.numel() for p in arms.build("c2d", arm, 14).parameters()) for arm in ["none", *arms.ABLATIONS]
    }
    assert sizes["strf"] - sizes["none"] == 10_688
    smaller = {"none", "no mask", "spatial", "temporal", "joint mask", "space mask"}
    assert {arm for arm, size in sizes.items() if size < sizes["strf"]} == smaller
    assert sizes["fine 5x5"] - sizes["strf"] == 16 * (8**2 + 16**2) and sizes["fine dilated"] == sizes["strf"]
    clip = torch.rand(2, 3, 4, 64, 32)
    for run in {(run.host, run.arm) for run in arms.planned()}:
        assert arms.build(*run, 14)(clip).embedding.shape == (2, 64), run


@pytest.mark.parametrize("host", ["dinov2", "clip"])
def test_a_tower_keeps_its_settings_and_its_units_alone_see_the_order_of_frames(modules, host):
    arms, clip = modules["arms"], normal(2, 3, 4, 64, 32, dtype=torch.float32)
    networks = {}
    for arm in ("none", *arms.UNITS):
        torch.manual_seed(3)
        networks[arm] = arms.build(host, arm, 14).eval()
    plain = {key: value.clone() for key, value in networks["none"].state_dict().items()}
    settings = {"backbone.blocks.0.ls1.gamma": "dinov2", "backbone.norm_pre.weight": "clip"}
    assert [settings[key] for key in plain if key in settings] == [host]
    with torch.no_grad():
        start = networks["none"](clip).embedding
        for arm, network in networks.items():
            state = network.state_dict()
            assert all(torch.equal(state[key], value) for key, value in plain.items()), arm
            assert torch.equal(network(clip).embedding, start), arm
            difference = wake(network)(clip).embedding - network(clip.flip(2)).embedding
            assert (difference.abs().max() > 1e-3) == (arm != "none"), arm


def test_every_comparison_has_five_seeds_on_two_data_seeds(modules):
    runs = list(modules["arms"].planned())
    assert len(runs) == len(set(runs))
    for run in runs:
        kin = {r.seed: r.data for r in runs if replace(r, seed=0, data=0) == replace(run, seed=0, data=0)}
        assert kin == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}
    first = {(run.task, run.host, run.arm) for run in runs[:120]}
    hosts = ("c2d", "i3d", "p3dc")
    assert first == {(t, h, a) for t in ("gait", "badge", "layout", "mixed") for h in hosts for a in ("none", "strf")}


def test_a_finished_run_is_a_line_and_is_not_run_again(modules, short, monkeypatch, tmp_path, capsys):
    reid, training = modules["reid"], modules["training"]
    monkeypatch.setattr(training, "plan_task", short)
    monkeypatch.setattr(reid, "ProcessPoolExecutor", lambda jobs, *_: ThreadPoolExecutor(jobs))
    results = tmp_path / "new" / "results.jsonl"
    runs = [replace(run, steps=1) for run in modules["arms"].planned(2) if (run.task, run.host) == ("gait", "c2d")]
    monkeypatch.setattr(reid, "planned", lambda seeds: runs)
    call = ["synthetic_reid.py", "--results", str(results), "--only"]
    monkeypatch.setattr(sys, "argv", [*call, "arm=none,seed=0"])
    assert reid.main() == 0
    monkeypatch.setattr(sys, "argv", [*call, "arm=none/strf,seed=0"])
    assert reid.main() == 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(row["arm"], row["seed"], row["data"], row["steps"]) for row in rows] == [
        ("none", 0, 0, 1),
        ("strf", 0, 0, 1),
    ]
    assert all(set(row["scores"]) == {"all"} and row["loss"] > 0 for row in rows)
    assert "2 runs, 1 of them finished in" in capsys.readouterr().out
    assert reid.main() == 0 and len(results.read_text().splitlines()) == 2


def row(host, arm, seed, mean, *, task="badge", steps=300):
    scores = {"clean": [mean, 50.0], "heavy": [20.0, 10.0]}
    return {"task": task, "host": host, "arm": arm, "seed": seed, "data": seed % 2, "steps": steps} | {
        "scores": scores, "loss": 1.5, "cpu_seconds": 9.6, "parameters": 1,
    }  # fmt: skip


def test_tables_hold_means_deviations_and_paired_differences(modules, run, tmp_path):
    plain, better = [40.0, 42.0, 44.0, 40.0, 44.0], [43.0, 44.0, 48.0, 42.0, 48.0]
    rows = [row("c2d", "none", seed, mean) for seed, mean in enumerate(plain)]
    rows += [row("c2d", "strf", seed, mean) for seed, mean in reversed(list(enumerate(better)))]
    rows += [row("c2d", "no mask", 1, 43.0), row("nvan", "none", 0, 30.0), row("ste_nvan", "none", 0, 29.0)]
    rows += [row("clip", "temporal attention", 0, 31.0), row("clip", "none", 0, 30.0)]
    rows += [row("c2d", "strf", 7, 99.0), row("c2d", "strf", 0, 77.0, steps=600)]
    lines = modules["tables"].tables(rows).splitlines()
    assert "### badge, 300 steps" in lines and "### badge, 600 steps" in lines
    assert "| c2d | 5 | 42.0 ± 2.0 / 50.0 ± 0.0 | 20.0 ± 0.0 / 10.0 ± 0.0 | 1.50 | 10 |" in lines
    assert "| c2d + strf − c2d | clean | +3.0 +2.0 +4.0 +2.0 +4.0 | **+3.0 ± 1.0** | 5 of 5 |" in lines
    assert "| c2d + strf − c2d | heavy | +0.0 +0.0 +0.0 +0.0 +0.0 | +0.0 ± 0.0 | 0 of 5 |" in lines
    assert "| c2d + no mask − c2d + strf | clean | -1.0 | -1.0 ± ? | 0 of 1 |" in lines
    assert "| ste_nvan − nvan | clean | -1.0 | -1.0 ± ? | 0 of 1 |" in lines
    assert "| clip + temporal attention − clip | clean | +1.0 | +1.0 ± ? | 1 of 1 |" in lines

    short = modules["tables"].summary(rows).splitlines()
    assert "| comparison | badge clean | badge heavy |" in short
    assert "| c2d + strf − c2d | **+3.0 ± 1.0** | +0.0 ± 0.0 |" in short
    assert "| c2d + no mask − c2d + strf | -1.0 ± ? | +0.0 ± ? |" in short

    results, file = tmp_path / "results.jsonl", tmp_path / "table.md"
    results.write_text("".join(json.dumps(line) + "\n" for line in rows) + '{"task": "gait", "ho')  # interrupted
    assert run("synthetic_reid", "--table", "--results", results) == (0, "\n".join(short) + "\n")
    assert run("synthetic_reid", "--table", "full", "--results", results, "--out", file) == (0, "")
    assert file.read_text().splitlines() == lines
    assert len(results.read_text().splitlines()) == len(rows)


def test_the_stored_results_are_read(run):
    status, table = run("synthetic_reid", "--table")
    assert status == 0
    (row,) = (line.split("|") for line in table.splitlines() if line.startswith("| c2d + strf − c2d |"))
    assert "**+8.0 ± 1.5**" in row[4]


def test_an_unknown_selection_is_refused(modules, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["synthetic_reid.py", "--list", "--only", "hots=c2d"])
    with pytest.raises(SystemExit):
        modules["reid"].main()
    assert "--only contains hots, wanted some of task, host, arm" in capsys.readouterr().err
