"""Every source of a network: runs, files, names, ``walkers`` and functions, with weights and preprocessing."""

import pytest
import torch

import strfnet
from strfnet.models import Preprocessing, UnknownNetwork, find_network
from strfnet.training import Recipe
from strfnet.weights.file import WEIGHTS
from strfnet.weights.store import CheckpointStore, pack

RECIPE = Recipe(model="c2d_resnet8", height=40, width=24, interpolation="bicubic")


@pytest.fixture(autouse=True)
def no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))


@pytest.fixture
def run(tmp_path):
    """A run whose weights are all 1 (older checkpoint), 2 (newest) or 3 (best)."""
    network = strfnet.create_model("c2d_resnet8", num_classes=5)
    for shelf, number, value in (("checkpoints", 7, 1.0), ("checkpoints", 12, 2.0), ("best", 7, 3.0)):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(value)
        CheckpointStore(tmp_path / "run" / shelf).save(
            number, {WEIGHTS: pack(network.state_dict())}, {"recipe": RECIPE.to_json()}
        )
    return tmp_path / "run"


def value(found):
    return found.network.backbone.conv1.weight.unique().tolist()


def test_a_run_has_weights_and_preprocessing(run):
    found = find_network(run)
    assert value(found) == [2.0] and found.name == "c2d_resnet8" and found.trained
    assert found.preprocessing == Preprocessing(40, 24, "bicubic")
    assert found.preprocessing.updated({"height": 32, "width": None, "lr": 1}) == Preprocessing(32, 24, "bicubic")
    assert found.network.head.classifier is None and found.metadata["lr"] == RECIPE.lr
    assert value(find_network(str(run), best=True)) == [3.0]


@pytest.mark.parametrize("kind", ["ours", "bare", "published", "run"])
def test_a_name_takes_weights_of_any_kind(tmp_path, run, kind):
    network = strfnet.create_model("i3d_resnet8", num_classes=5)
    weights = tmp_path / "weights.safetensors"
    if kind == "ours":
        strfnet.save(network, weights, height=48)
    elif kind == "bare":
        weights.write_bytes(pack(network.state_dict()))
    elif kind == "published":
        strfnet.save_official(network, weights)
    else:
        CheckpointStore(tmp_path / "other" / "checkpoints").save(
            1, {WEIGHTS: pack(network.state_dict())}, {"recipe": RECIPE.to_json()}
        )
        weights = tmp_path / "other"
    found = find_network("i3d_resnet8", weights=weights)
    state = network.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in found.network.state_dict().items())
    assert found.network.head.classifier is None and found.trained and found.weights == str(weights)
    assert found.preprocessing.height == {"ours": 48, "run": 40}.get(kind, 256)


def test_a_file_names_its_network(tmp_path):
    network = strfnet.create_model("i3d_resnet8", num_classes=5)
    strfnet.save(network, tmp_path / "ours.safetensors", width=20)
    strfnet.save_official(network, tmp_path / "published.pth")
    for file, width in (("ours.safetensors", 20), ("published.pth", 128)):
        found = find_network(tmp_path / file)
        assert found.name == "i3d_resnet8" and found.preprocessing.width == width
        assert torch.equal(found.network.backbone.conv1.weight, network.backbone.conv1.weight)
        assert found.network.head.classifier is None


def test_walkers_are_shipped(tmp_path, monkeypatch):
    found = find_network("walkers")
    assert found.name == "strf_c2d_resnet8" and found.preprocessing == Preprocessing(64, 32)
    named = find_network("strf_c2d_resnet8", weights="walkers")
    assert "shipped with strfnet" in named.weights and named.preprocessing == found.preprocessing
    for key, tensor in found.network.state_dict().items():
        assert torch.equal(tensor, named.network.state_dict()[key])


def test_a_name_alone_is_untrained_and_repeats_by_its_seed():
    def first(seed):
        torch.manual_seed(seed)
        return find_network("c2d_resnet8", num_classes=3)

    one, two, other = first(1), first(1), first(2)
    assert not one.trained and one.weights == "random weights" and one.network.head.classifier.out_features == 3
    assert torch.equal(one.network.backbone.conv1.weight, two.network.backbone.conv1.weight)
    assert not torch.equal(one.network.backbone.conv1.weight, other.network.backbone.conv1.weight)


def test_a_function_builds_a_network(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "import torch\nsize = 3\ndef build():\n    return torch.nn.Linear(2, size)\ndef number():\n    return 3\n"
    )
    (tmp_path / "own_broken.py").write_text("import nothing_of_this_name\n")
    monkeypatch.chdir(tmp_path)
    found = find_network("own_models:build")
    assert found.network.out_features == 3 and found.name == "own_models:build" and found.trained
    wanted = torch.nn.Linear(2, 3)
    (tmp_path / "weights.safetensors").write_bytes(pack(wanted.state_dict()))
    loaded = find_network("own_models:build", weights=tmp_path / "weights.safetensors")
    assert torch.equal(loaded.network.weight, wanted.weight)
    for source, message in (
        ("own_nothing:build", "cannot import 'own_nothing' .* ModuleNotFoundError"),
        ("own_broken:build", "cannot import 'own_broken' .* No module named 'nothing_of_this_name'"),
        ("own_models:other", "'other' in 'own_models' is NoneType, wanted a function"),
        ("own_models:size", "'size' in 'own_models' is int, wanted a function"),
        ("own_models:number", "'own_models:number' returned int, wanted a torch.nn.Module"),
    ):
        with pytest.raises(ValueError, match=message):
            find_network(source)


@pytest.mark.parametrize("name", ["c2d_resnet8", "strfnet.models:create_model"])
def test_a_classifier_of_another_size_is_left_out_with_a_warning(run, name):
    options = {"name": "c2d_resnet8"} if ":" in name else None
    with pytest.warns(UserWarning, match=r"the classifier in .*run .*: it is left out, and a new one is initialised"):
        found = find_network(name, weights=run, num_classes=3, options=options)
    weight = found.network.head.classifier.weight
    assert value(found) == [2.0] and weight.shape == (3, 64) and len(weight.unique()) > 3
    same = find_network(name, weights=run, num_classes=5, options=options)
    assert same.network.head.classifier.weight.unique().tolist() == [2.0]


def test_what_is_no_network_is_refused(run, tmp_path):
    for source in ("strf_resnet", tmp_path / "nothing"):
        with pytest.raises(UnknownNetwork, match=r"the nearest is 'strf_i3d_resnet|nothing does not exist"):
            find_network(source)
    other = tmp_path / "other.safetensors"
    other.write_bytes(pack(strfnet.create_model("strf_c2d_resnet8", num_classes=5).state_dict()))
    for arguments, message in (
        ({"source": tmp_path}, f"{tmp_path} holds no run"),
        ({"source": "c2d_resnet8", "weights": other}, f"{other} does not fit ReIDNetwork: .* is not in the network"),
        ({"source": "c2d_resnet8", "weights": tmp_path / "no.pth"}, "there is no such file"),
        ({"source": "c2d_resnet8", "best": True}, "c2d_resnet8 is not a training run"),
        ({"source": run, "weights": other}, "has weights of its own"),
        ({"source": run, "num_classes": 3}, "num_classes 3, but .* has weights of its own"),
    ):
        with pytest.raises(ValueError, match=message):
            find_network(**arguments)
