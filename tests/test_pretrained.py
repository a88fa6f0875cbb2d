"""The weights that come with strfnet: whole, described, told from others, and better than chance on new walkers."""

import hashlib
import re
import runpy
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

import strfnet
from strfnet.cli.parser import main
from strfnet.data.synthetic import draw_set
from strfnet.evaluation.evaluation import evaluate
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.inference import Embedder
from strfnet.models import describe, find_network
from strfnet.weights.file import SHIPPED

NAME = "strf_c2d_resnet8"
ROOT = Path(__file__).parents[1]
FILE = SHIPPED / f"{NAME}_walkers.safetensors"


def test_one_small_file_comes_with_the_package_and_its_card_tells_its_digest():
    assert [path.name for path in SHIPPED.iterdir()] == [FILE.name] and FILE.stat().st_size < 1_000_000
    card = (ROOT / "docs/networks.md").read_text()
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() in card


def test_it_tells_the_recipe_that_lies_among_the_examples():
    facts = describe(FILE)["facts"]
    recipe = yaml.safe_load((ROOT / "examples/recipes/pretrained.yaml").read_text())
    for name in ("model", "workers", "device"):
        del recipe[name]
    assert {name: facts[name] for name in recipe} == recipe
    assert not {"data", "start_from"} & facts.keys()


def test_walkers_are_the_weights_of_one_network_and_a_word_for_no_other(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = strfnet.create_model(NAME, pretrained="walkers")
    wanted = strfnet.load(FILE).state_dict()
    own = network.state_dict()
    assert all(torch.equal(own[key], value) for key, value in wanted.items())
    assert own.keys() - wanted.keys() == {"head.classifier.weight", "head.classifier.bias"}  # random
    with pytest.raises(
        ValueError, match=rf"weights 'walkers' are not available for c2d_resnet8, wanted {NAME}, or \./walkers"
    ):
        strfnet.create_model("c2d_resnet8", pretrained="walkers")
    monkeypatch.chdir(tmp_path)
    strfnet.save(strfnet.create_model("c2d_resnet8"), "walkers")
    strfnet.create_model("c2d_resnet8", pretrained="./walkers")


@pytest.fixture(scope="module")
def judged():
    """By weights: mAP on the walkers that are drawn where no data are named, none of whom was trained on."""
    data = draw_set()
    scores = {}
    for weights in (Path("walkers"), None):
        found = find_network(NAME, weights=weights)
        preprocessing = found.preprocessing.updated({"height": 64, "width": 32})
        embeddings = Embedder(found.network, NAME, preprocessing).embed(data.test, ("all_frames", 8))
        scores[weights] = evaluate(embeddings, data, PROTOCOLS["ap3d"]).mean_average_precision
    return scores


def test_it_finds_new_walkers_again(judged):
    trained, untrained = judged.values()
    assert trained > 0.8 and trained > untrained + 0.2


def test_commands_show_it_frames_of_the_size_it_was_trained_on(tmp_path, capsys):
    preprocessing = find_network(NAME, weights="walkers").preprocessing
    assert preprocessing.size == (64, 32) and preprocessing.interpolation == "bilinear"
    words = ["show", "--masks", "--model", NAME, "--weights", "walkers", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "masks.png")]) == 0
    words[words.index(NAME)] = "c2d_resnet8"
    assert main([*words, "--out", str(tmp_path / "other.png")]) == 1
    assert "weights 'walkers' are not available for c2d_resnet8" in capsys.readouterr().err


def test_the_example_trains_such_weights(tmp_path, monkeypatch, capsys):
    small = ["batch=4", "identities=2", "tracklets=2", "epochs=1", "steps_per_epoch=1", "warmup=0"]
    monkeypatch.setattr(sys, "argv", ["pretrain_walkers.py", "--out", str(tmp_path), "--train", *small])
    drawn = draw_set(train=2, test=2, cameras=2, frames=8, seed=1)
    monkeypatch.setattr("strfnet.data.synthetic.walker_set.draw_set", lambda **_asked: drawn)
    runpy.run_path(str(ROOT / "examples/pretrain_walkers.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert len(re.findall("none of them seen in training", said)) == 2
    facts = describe(tmp_path / FILE.name)["facts"]
    assert facts["height"] == 64 and facts["batch"] == 4
