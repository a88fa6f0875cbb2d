"""Which weights a network gets, and how clips reach it."""

from dataclasses import replace

import pytest
import torch

import strfnet
from strfnet.data.readers.folder import read_folder
from strfnet.data.synthetic import write_walkers
from strfnet.deployment.optimizer import optimize
from strfnet.inference.embedder import Network, make_embedder
from strfnet.training.recipe import Recipe
from strfnet.training.state import WEIGHTS, weights_file
from strfnet.weights.store import put

RECIPE = Recipe(model="c2d_resnet8", height=40, width=24, interpolation="bicubic")


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose weights are all 1, 2 or 3: an older checkpoint, the newest, the best."""
    network = strfnet.create_model("c2d_resnet8", num_classes=5)
    for shelf, number, value in (("checkpoints", 7, 1.0), ("checkpoints", 12, 2.0), ("best", 7, 3.0)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        put(tmp_path / "run" / shelf, number, {WEIGHTS: weights_file(network)}, {"recipe": RECIPE.to_json()})
    return tmp_path / "run"


def value(embedder):
    return embedder.network.backbone.conv1.weight.unique().tolist()


def test_a_run_gives_its_newest_weights_or_its_best(run):
    assert value(make_embedder(Network(trained=run))) == [2.0]
    assert value(make_embedder(Network(trained=run, best=True))) == [3.0]
    assert make_embedder(Network(trained=run)).name == "c2d_resnet8"


def test_a_run_tells_how_clips_are_shown_unless_the_call_does(run):
    shown = make_embedder(Network(trained=run, batch=3, workers=1))
    assert (shown.size, shown.interpolation, shown.batch, shown.workers) == ((40, 24), "bicubic", 3, 1)
    shown = make_embedder(Network(trained=run, height=32, width=16, interpolation="bilinear"))
    assert (shown.size, shown.interpolation) == ((32, 16), "bilinear")


def test_a_network_by_name_takes_weights_from_a_file_or_starts_as_it_is(tmp_path, capsys):
    network = strfnet.create_model("c2d_resnet8", num_classes=5)
    (tmp_path / "weights.safetensors").write_bytes(weights_file(network))
    asked = Network(model="c2d_resnet8", weights=tmp_path / "weights.safetensors")
    shown = make_embedder(asked)
    assert torch.equal(shown.network.backbone.conv1.weight, network.backbone.conv1.weight)
    assert shown.network.head.classifier is None and shown.size == (256, 128)
    assert capsys.readouterr().err == ""
    one, two, other = (make_embedder(replace(asked, weights=None, seed=seed)).network for seed in (1, 1, 2))
    first = one.backbone.conv1.weight
    assert torch.equal(first, two.backbone.conv1.weight) and not torch.equal(first, other.backbone.conv1.weight)
    assert "c2d_resnet8 starts from random weights; it was not trained" in capsys.readouterr().err


def test_weights_of_another_network_are_refused_by_the_name_of_their_file(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(weights_file(strfnet.create_model("strf_c2d_resnet8", num_classes=5)))
    with pytest.raises(ValueError, match=f"{file} does not fit ReIDNetwork: .* is not in the network"):
        make_embedder(Network(model="c2d_resnet8", weights=file))


def test_an_optimized_network_embeds_alike_and_its_parts_are_not_mixed_with_others(tmp_path, monkeypatch):
    """The compiler has tests of its own; here clips of full batches must be what it is asked for."""
    asked = []

    def folded_only(network, clip_shape):
        asked.append(clip_shape)
        return optimize(network, clip_shape, compiled=False)

    monkeypatch.setattr(strfnet, "optimize", folded_only)
    write_walkers(tmp_path / "walkers", identities=2, cameras=2, frames=5, height=32)
    tracklets = read_folder(tmp_path / "walkers")
    plain = make_embedder(Network(model="p3dc_resnet8", height=32, width=16, batch=3))
    fast = replace(plain, optimize=True)
    expected = plain.embed(tracklets, ("evenly", 4))
    torch.testing.assert_close(fast.embed(tracklets, ("evenly", 4)), expected, rtol=1e-4, atol=1e-4)
    assert asked == [(3, 3, 4, 32, 16)]
    assert plain._facts(("evenly", 4)) != fast._facts(("evenly", 4))
