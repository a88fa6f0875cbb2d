"""The recipes under examples/: one for each row of the papers' tables, and as the papers' code trains."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

import strfnet
from strfnet.cli import main
from strfnet.cli.arguments import parse
from strfnet.data.readers.formats import FORMATS
from strfnet.data.synthetic import draw_set, write_mars
from strfnet.evaluation.protocols import PROTOCOLS
from strfnet.models import find_network

FOLDER = Path(__file__).parents[1] / "examples" / "recipes"
STRF_TABLE = [strf + host for host in ("i3d", "p3da", "p3db", "p3dc") for strf in ("", "strf_")]
NVAN_TABLE = ["resnet50_fpl", "resnet50_maxfpl", "nvan", "nvan_spatial", "nvan_temporal", "ste_nvan"]
OVERLAYS = ["on_duke", "on_ilids"]
TOWERS = ["dinov2", "clip"]
OTHERS = ["ste_nvan_from_nvan", "walkers", "pretrained", "few_people"]


def recipe(*names):
    words = [word for name in names for word in ("--config", str(FOLDER / f"{name}.yaml"))]
    data = [] if names[0] == "walkers" else ["--data", "DATA"]
    return parse(["train", *words, *data, "--out", "run"])[1].recipe


def others(one, *names):
    """All that a recipe says, but for these."""
    return {name: value for name, value in asdict(one).items() if name not in names}


def test_every_row_of_both_tables_has_a_recipe_and_no_file_is_unknown():
    files = {path.stem for path in FOLDER.iterdir()}
    assert files == {*STRF_TABLE, *NVAN_TABLE, *OVERLAYS, *TOWERS, *OTHERS}


@pytest.mark.parametrize("name", STRF_TABLE + NVAN_TABLE)
def test_a_recipe_is_of_its_row(name):
    one = recipe(name)
    assert one.model == (name if "resnet50" in name else f"{name}_resnet50")
    one.check_names({"model": strfnet.list_models(), "format": FORMATS, "protocol": PROTOCOLS})
    assert one.format == "mars" and one.weights == "IMAGENET1K_V1" and (one.height, one.width) == (256, 128)


def test_the_rows_of_strf_s_table_differ_in_the_network_alone():
    first = recipe(STRF_TABLE[0])
    assert all(others(recipe(name), "model") == others(first, "model") for name in STRF_TABLE)
    # As AP3D's published code trains.
    assert (first.frames, first.stride, first.sampling, first.interpolation) == (4, 8, "strided", "bicubic")
    assert (first.batch, first.identities, first.tracklets, first.batches) == (32, 8, 4, "groups")
    assert (first.optimizer, first.lr, first.weight_decay, first.epochs) == ("adam", 3e-4, 5e-4, 240)
    assert (first.schedule, first.milestones, first.gamma) == ("steps", (60, 120, 180), 0.1)
    assert (first.loss, first.protocol, first.flip, first.erasing) == ("strf", "ap3d", 0.5, 0)


def test_the_rows_of_nvan_s_table_differ_in_the_network_and_the_baselines_schedule():
    first = recipe("nvan")
    schedule = ("model", "weight_decay", "epochs", "milestones")
    assert all(others(recipe(name), *schedule) == others(first, *schedule) for name in NVAN_TABLE)
    assert (first.frames, first.sampling, first.interpolation) == (8, "restricted_random", "bilinear")
    assert (first.batch, first.identities, first.tracklets, first.batches) == (32, 8, 4, "every_identity")
    assert (first.loss, first.protocol, first.lr, first.optimizer) == ("nvan", "nvan", 1e-4, "adam")
    for name in NVAN_TABLE:
        baseline = "fpl" in name
        one = recipe(name)
        assert one.weight_decay == (1e-5 if baseline else 5e-5)
        assert one.epochs == (300 if baseline else 200)
        assert one.milestones == tuple(range(50, one.epochs, 50)) and one.gamma == 0.1


def test_ste_nvan_starts_from_nvan_by_another_recipe():
    one = recipe("ste_nvan_from_nvan")
    assert one == replace(recipe("ste_nvan"), weights=None, start_from=Path("runs/nvan"))


def test_few_people_start_from_weights_that_give_the_network_and_are_sized_to_the_data():
    call = parse(["train", "--config", str(FOLDER / "few_people.yaml"), "--data", "DATA", "--out", "run"])[1]
    assert call.recipe.weights == "walkers" and call.recipe.epochs == 20 and call.recipe.lr <= 1e-3
    sizes = {"batch", "identities", "tracklets", "batches", "milestones", "evaluate_every"}
    assert {*call.unsaid} == {"model", "height", "width", "interpolation", *sizes}


@pytest.mark.parametrize(("name", "format"), [("on_duke", "duke"), ("on_ilids", "ilids")])
def test_another_data_set_is_laid_over_a_recipe(name, format):
    written = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert written == {"format": format, "protocol": format}
    assert recipe("strf_p3dc", name) == replace(recipe("strf_p3dc"), format=format, protocol=format)
    recipe("nvan", name).check_names({"format": FORMATS, "protocol": PROTOCOLS})


def test_the_parameters_of_nvan_fit_ste_nvan():
    nvan, ste = (strfnet.create_model(f"{name}_resnet18", num_classes=3) for name in ("nvan", "ste_nvan"))
    ste.load_state_dict(nvan.state_dict())


@pytest.mark.parametrize("name", TOWERS)
def test_a_tower_of_tokens_is_trained_with_its_units_and_read_back(name, monkeypatch, tmp_path):
    monkeypatch.chdir(FOLDER.parents[1])
    write_mars(tmp_path / "data", draw_set(train=4, test=3, cameras=2, frames=4, height=64))
    call = ["--config", f"examples/recipes/{name}.yaml", "--out", str(tmp_path / "run")]
    few = ["--batch=4", "--identities=2", "--tracklets=2", "--frames=2", "--epochs=1", "--warmup=0"]
    data = ["--data", str(tmp_path / "data"), "--format=mars", "--complete=false"]
    assert main(["train", *call, *few, *data]) == 0
    network = find_network(tmp_path / "run").network.eval()
    units = [module for module in network.modules() if isinstance(module, strfnet.TemporalAttention)]
    assert len(units) == 2 and all(unit.out.weight.any() for unit in units)
    assert network(torch.zeros(1, 3, 2, 64, 32)).embedding.shape == (1, 64)
