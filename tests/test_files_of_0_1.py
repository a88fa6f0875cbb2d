"""Files of version 0.1 are read bit for bit, and its unfinished work is resumed."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from files_of_0_1 import FROZEN_RECIPE, RECIPE, tiny_network, tracklets
from safetensors import safe_open
from safetensors.torch import load_file

import strfnet
from strfnet.evaluation import unit_length
from strfnet.inference import embed, load_embeddings
from strfnet.inference.embedder import Embedder
from strfnet.losses.objective import strf_loss
from strfnet.models import Preprocessing
from strfnet.models.checkpoints import describe, load, save
from strfnet.training.log import read_log
from strfnet.training.recipe import Recipe
from strfnet.training.run_directory import read_run
from strfnet.training.trainer import train
from strfnet.weights.file import SHIPPED, read_weights
from strfnet.weights.store import CheckpointStore

FILES = Path(__file__).parent / "files_of_0_1"
NEWEST = FILES / "unfinished/checkpoints/00000006"


@pytest.fixture
def copy(tmp_path):
    """The files, where they can be written."""
    return Path(shutil.copytree(FILES, tmp_path / "files"))


def assert_equal(one, other):
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


@pytest.mark.parametrize(
    "file", [FILES / "weights.safetensors", *SHIPPED.glob("*.safetensors")], ids=lambda f: f.name
)
def test_a_weights_file_is_read_and_written_again_byte_for_byte(file, tmp_path):
    network = load(file)
    assert_equal(network.state_dict(), load_file(file))
    description = describe(file)
    assert description["facts"] and network.name == description["model"]
    save(network, tmp_path / "again.safetensors", **description["facts"])
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_the_weights_of_a_run_are_read_from_it_and_from_its_checkpoints():
    recipe, weights = read_run(FILES / "unfinished")
    assert recipe == Recipe(**RECIPE)
    assert_equal(weights, load_file(NEWEST / "weights.safetensors"))
    assert_equal(read_weights(NEWEST).tensors, weights)
    best = load_file(FILES / "unfinished/best/00000004/weights.safetensors")
    assert_equal(read_run(FILES / "unfinished", best=True)[1], best)
    recipe, weights = read_run(FILES / "finished")
    assert recipe == Recipe(**FROZEN_RECIPE)
    strfnet.create_model(recipe.model, num_classes=4).load_state_dict(weights)


def test_a_finished_run_is_not_trained_again(copy):
    network = strfnet.create_model("c2d_resnet8", num_classes=4)
    log = (copy / "finished/log.jsonl").read_bytes()
    outcome = train(network, strf_loss(), tracklets(16), Recipe(**FROZEN_RECIPE), copy / "finished", progress=False)
    assert (outcome.step, outcome.metrics, outcome.best) == (4, {"mAP": 0.5}, 0.5)
    assert_equal(network.state_dict(), read_run(FILES / "finished")[1])
    assert (copy / "finished/log.jsonl").read_bytes() == log


def test_an_unfinished_run_is_resumed_and_ends_as_one_without_a_stop(copy):
    network = tiny_network()
    evaluate = lambda network: {"weight": float(network[0][0].weight.detach().square().sum())}  # noqa: E731
    train(
        network, strf_loss(), tracklets(16), Recipe(**RECIPE), copy / "unfinished", evaluate=evaluate, progress=False
    )
    torch.testing.assert_close(
        dict(network.state_dict()), load_file(FILES / "unbroken.safetensors"), rtol=1e-9, atol=1e-12
    )
    steps = [line["step"] for line in read_log(copy / "unfinished/log.jsonl") if line["kind"] == "step"]
    assert steps == list(range(1, 13))


def test_a_checkpoint_is_written_again_byte_for_byte(tmp_path):
    checkpoint = CheckpointStore(NEWEST.parent).load(6)
    written = {name: value for name, value in checkpoint.metadata.items() if name not in ("version", "sha256")}
    again = CheckpointStore(tmp_path).save(6, checkpoint.files, written)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in NEWEST.iterdir()
    }


def test_unfinished_shards_are_resumed_and_end_in_the_same_file(copy, capsys):
    network, data = tiny_network(), tracklets(300)
    network.load_state_dict(read_run(FILES / "unfinished")[1])
    embedder = Embedder(network, "tiny", Preprocessing(8, 4), batch=64, workers=0, progress=True)
    out = copy / "half.safetensors"
    assert embedder.embed_into(out, data, ("restricted_first", 2)) == 4
    assert "256 of 300 tracklets are in" in capsys.readouterr().err
    vectors, listed, facts = load_embeddings(out)
    before = load_embeddings(FILES / "embeddings.safetensors")
    assert listed == before.tracklets and before.facts == {}
    assert facts["network"] == "tiny" and facts["metric"] == "cosine"
    assert torch.equal(vectors[:256], unit_length(before.vectors[:256]))  # the shards are those of version 0.1
    torch.testing.assert_close(vectors, unit_length(before.vectors), rtol=1e-5, atol=1e-6)
    assert not (copy / "half.safetensors.parts").exists()


def test_a_file_of_embeddings_lists_its_tracklets():
    with safe_open(FILES / "embeddings.safetensors", "pt") as file:
        listed = json.loads(file.metadata()["tracklets"])
        rows = file.get_tensor("embeddings")
    assert [entry["identity"] for entry in listed] == [f"person{row % 4}" for row in range(300)]
    network = tiny_network()
    network.load_state_dict(read_run(FILES / "unfinished")[1])
    torch.testing.assert_close(
        embed(network, tracklets(300)[:8], frames=2, size=(8, 4)), rows[:8], rtol=1e-5, atol=1e-6
    )
