"""Training, evaluation and embedding from the command line, on walkers drawn into files."""

import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from data_trees import TREES, write_g2a_vreid_tree, write_ilids_tree
from safetensors.torch import load_file
from scipy.io import savemat
from sweeps import sweep

from strfnet.cli import main
from strfnet.data.readers.formats import FORMATS
from strfnet.data.readers.mars import read_mars
from strfnet.data.synthetic import draw_set, write_mars, write_walkers
from strfnet.evaluation import unit_length
from strfnet.inference import embed
from strfnet.models import create_model, describe, find_network, load, save, save_official
from strfnet.training import Recipe, read_log, read_run
from strfnet.weights.store import CheckpointStore, pack

ROOT = Path(__file__).parents[1]
SMALL = """
model: strf_c2d_resnet8
format: mars
complete: false
height: 32
width: 16
frames: 2
sampling: consecutive
batches: every_identity
batch: 4
identities: 2
tracklets: 2
optimizer: sgd
lr: 0.01
epochs: 2
milestones: []
protocol: nvan
workers: 0
device: cpu
"""


@pytest.fixture(scope="module")
def walkers(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "walkers"
    write_mars(root, draw_set(train=4, test=3, cameras=2, frames=4, height=32))
    return root


@pytest.fixture(scope="module")
def config(tmp_path_factory, walkers):
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(f"{SMALL}data: {walkers}\n")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, config):
    """A finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    with redirect_stdout(StringIO()) as out:
        assert main(["train", "--config", str(config), "--out", str(folder)]) == 0
    (folder / "printed").write_text(out.getvalue())
    return folder


def on_two_ranks(*words):
    """The command line, started twice by torchrun."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", "--module"]
    done = subprocess.run([*launch, "strfnet.cli", *map(str, words)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(trained, walkers):
    return ["--trained", str(trained), "--data", str(walkers), "--format", "mars", "--complete", "false"]


def refused(capsys, *words):
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return err.splitlines()[-1]


def test_a_run_tells_its_last_figures_and_by_which_rule(run):
    printed = (run / "printed").read_text()
    figures = json.loads((run / "result.json").read_text())["figures"]
    assert f"result, after the last epoch (2, step 4): mAP {figures['mAP']:.4g}" in printed
    assert "nvan: the code of NVAN and STE-NVAN" in printed
    recipe, weights = read_run(run)
    assert recipe.model == "strf_c2d_resnet8" and weights["head.classifier.weight"].shape == (4, 64)


def test_a_finished_run_started_again_tells_the_same_and_changes_nothing(run, config, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*.safetensors")}
    assert main(["train", "--config", str(config), "--out", str(run)]) == 0
    assert capsys.readouterr().out == (run / "printed").read_text()
    assert {path: path.read_bytes() for path in run.rglob("*.safetensors")} == before


def test_evaluate_agrees_with_the_end_of_training(run, walkers, tmp_path, capsys):
    file = tmp_path / "figures.json"
    assert main(["evaluate", *asked(run, walkers), "--protocol", "nvan", "--out", str(file)]) == 0
    (told,) = json.loads(file.read_text())
    figures = json.loads((run / "result.json").read_text())["figures"]
    assert told["mean_average_precision"] == figures["mAP"] and told["cmc"][0] == figures["R1"]
    assert f"metrics written to {file}" in capsys.readouterr().out


def test_all_protocols_stand_side_by_side(run, walkers, capsys):
    assert main(["evaluate", *asked(run, walkers)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["mars", "nvan", "ap3d", "torchreid", "cfaan"]
    assert "mAP rectangle" in lines[0] and "mAP trapezoid" in lines[0]


def test_a_protocol_that_leaves_no_gallery_is_left_out_and_the_others_are_shown(run, tmp_path, capsys):
    root = write_g2a_vreid_tree(tmp_path / "data")  # in the layout of MARS
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([[1, 2, 3, 4]])})  # all tracklets are queries
    data = ["--data", str(root), "--format", "mars", "--complete", "false", "--trained", str(run)]
    assert main(["evaluate", *data]) == 0
    said = capsys.readouterr()
    assert "protocol torchreid leaves no gallery" in said.err and "it is skipped" in said.err
    assert "torchreid" not in said.out and "mars" in said.out and "nvan" in said.out
    assert main(["evaluate", *data, "--protocol", "torchreid"]) != 0
    assert "protocol torchreid leaves no gallery" in capsys.readouterr().err


def test_other_frames_than_the_protocol_s_are_marked(run, walkers, capsys):
    assert main(["evaluate", *asked(run, walkers), "--protocol", "ap3d", "--clips", "evenly:2"]) == 0
    assert "evenly 2 *" in capsys.readouterr().out


def test_reranked_distances_are_judged_where_that_is_asked(run, walkers, capsys):
    assert main(["evaluate", *asked(run, walkers), "--protocol", "ap3d", "--rerank", "true"]) == 0
    assert "cosine re-ranked" in capsys.readouterr().out


@pytest.mark.slow
def test_two_processes_evaluate_as_one_and_print_once(run, walkers, tmp_path, capsys):
    words = ["evaluate", *asked(run, walkers), "--protocol", "ap3d", "--out"]
    assert main([*words, str(tmp_path / "one.json")]) == 0
    printed = on_two_ranks(*words, tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert printed.replace("two.json", "one.json") == capsys.readouterr().out


def test_embed_writes_what_the_trained_network_says(run, walkers, tmp_path):
    file = tmp_path / "vectors.safetensors"
    assert main(["embed", *asked(run, walkers), "--clips", "all_frames:3", "--out", str(file)]) == 0
    recipe, weights = read_run(run)
    network = create_model(recipe.model, num_classes=4)
    network.load_state_dict(weights)
    expected = embed(
        network, read_mars(walkers, complete=False).test, clips=lambda n: [[0, 1, 2], [3]], size=(32, 16)
    )
    torch.testing.assert_close(load_file(file)["embeddings"], unit_length(expected))


def test_best_weights_are_those_of_the_best_evaluation(run, walkers, tmp_path):
    result = json.loads((run / "result.json").read_text())
    file = tmp_path / "figures.json"
    call = ["evaluate", *asked(run, walkers), "--protocol", "nvan", "--best", "true", "--out", str(file)]
    assert main(call) == 0
    assert json.loads(file.read_text())[0]["mean_average_precision"] == result["best"]


def test_a_run_becomes_one_file_that_tells_its_recipe(run, walkers, tmp_path, capsys):
    file = tmp_path / "network.safetensors"
    assert main(["convert", str(run), str(file)]) == 0
    recipe, weights = read_run(run)
    assert capsys.readouterr().out.startswith(f"recognised {recipe.model} (")
    network = load(file)
    own = network.state_dict()
    assert network.head.classifier is None and all(torch.equal(weights[key], value) for key, value in own.items())
    assert weights.keys() - own.keys() == {"head.classifier.weight", "head.classifier.bias"} & weights.keys()
    facts = describe(file)["facts"]
    assert (
        facts["lr"] == recipe.lr
        and facts["height"] == recipe.height
        and str(walkers) not in file.read_bytes().decode("latin1")
    )
    data = ["--data", str(walkers), "--format", "mars", "--complete=false", "--protocol", "ap3d", "--device", "cpu"]
    figures = []
    for network in (["--trained", str(run)], ["--model", recipe.model, "--weights", str(file)]):
        assert main(["evaluate", *data, *network]) == 0
        figures.append(capsys.readouterr().out)
    assert figures[0] == figures[1]  # frames are shown in the size of the run
    assert main(["convert", str(tmp_path), str(file)]) == 1
    assert "holds no run" in capsys.readouterr().err and load(file)


def test_options_reach_the_network_of_every_command(tmp_path, capsys):
    stripes = ["--options", '{"stripes": [2, 2, 4]}']
    network = create_model("nvan_spatial_resnet8", num_classes=3, stripes=[2, 2, 4])
    save_official(network, tmp_path / "published.pth")
    named = ["--name", "nvan_spatial_resnet8"]
    assert main(["convert", str(tmp_path / "published.pth"), str(tmp_path / "a.safetensors"), *named, *stripes]) == 0
    assert describe(tmp_path / "a.safetensors")["options"] == {"stripes": [2, 2, 4]}
    again = [str(tmp_path / "a.safetensors"), str(tmp_path / "back.pth")]
    assert main(["convert", *again, *stripes]) == 1
    assert "options are {'stripes': [2, 2, 4]}, but" in capsys.readouterr().err

    macs = []
    for options in ([], stripes):
        assert main(["profile", "nvan_spatial_resnet8", "--json", "--clip", "1", "3", "4", "64", "32", *options]) == 0
        macs.append(json.loads(capsys.readouterr().out)["totals"]["macs"])
    assert macs[0] != macs[1]

    write_walkers(tmp_path / "data", identities=2, cameras=2, frames=4, height=64)
    words = ["embed", "--data", str(tmp_path / "data"), "--height", "64", "--width", "32", "--clips", "all_frames:4"]
    words += ["--model", "nvan_spatial_resnet8", "--device", "cpu"]
    for name, options in (("a", []), ("b", stripes)):
        weights = ["--weights", str(tmp_path / "a.safetensors")]
        assert main([*words, *weights, *options, "--out", str(tmp_path / f"{name}.embeddings")]) == 0
    one, other = (load_file(tmp_path / f"{name}.embeddings")["embeddings"] for name in "ab")
    assert torch.equal(one, other)
    assert main([*words, "--options", '{"stripe": 2}', "--out", str(tmp_path / "c")]) == 1
    assert "the nearest is 'stripes'" in capsys.readouterr().err
    assert main(["embed", "--trained", str(tmp_path / "a.safetensors"), *stripes, "--out", str(tmp_path / "d")]) == 2
    assert "a training run has its own" in capsys.readouterr().err


def test_a_network_starts_from_the_weights_of_a_run(run, config, tmp_path, capsys):
    weights = next((run / "checkpoints").glob("*/weights.safetensors"))
    words = ["train", "--config", str(config), "--start-from", str(run), "--epochs", "1", "--lr", "1e-9"]
    assert main([*words, "--out", str(tmp_path / "next")]) == 0
    _, before = read_run(run)
    _, after = read_run(tmp_path / "next")
    torch.testing.assert_close(after["head.classifier.weight"], before["head.classifier.weight"])
    assert main([*words, "--start-from", str(weights), "--model", "c2d_resnet8", "--out", str(tmp_path / "no")]) == 1
    assert "does not fit" in capsys.readouterr().err


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Three people to train on and two to test on, in two cameras."""
    root = tmp_path_factory.mktemp("people") / "own"
    for part, number in (("train", 3), ("test", 2)):
        write_walkers(root / part, identities=number, tracklets=2, frames=3, height=32, seed=number)
    return root


def trained(out, *words, data):
    small = ["--workers", "0", "--device", "cpu", "--frames", "2"]
    return main(["train", "--format", "folder", "--data", str(data), "--out", str(out), *small, *words])


@pytest.mark.parametrize("kind", sweep(["run", "walkers", "file", "published"], quick=2))
def test_a_network_is_tuned_from_whatever_embed_takes(kind, people, tmp_path, capsys):
    if kind == "walkers":
        weights, name, size = "walkers", "strf_c2d_resnet8", (64, 32)
    else:
        name, size, weights = "i3d_resnet8", (256, 128), tmp_path / "weights"
        network = create_model(name, num_classes=7, places=["layer2.0"])
        if kind == "file":
            save(network, weights, height=32, width=16)
            size = (32, 16)
        elif kind == "published":
            save_official(network, weights)
            size = (256, 16)
        else:
            recipe = Recipe(model=name, options=network.options, height=40, width=24).to_json()
            tensors = {"weights.safetensors": pack(network.state_dict())}
            CheckpointStore(weights / "checkpoints").save(3, tensors, {"recipe": recipe})
            size = (40, 24)
    words = ["--weights", str(weights), "--epochs", "1", "--lr", "1e-9", "--tracklets", "2"]
    words += ["--width", "16"] if kind == "published" else []
    assert trained(tmp_path / "run", *words, data=people) == 0
    recipe, tensors = read_run(tmp_path / "run")
    assert (recipe.model, recipe.height, recipe.width) == (name, *size)
    assert recipe.weights is None and str(recipe.start_from) == str(weights)
    assert recipe.options == (None if kind == "walkers" else {"places": ["layer2.0"]})
    start = (find_network(weights).network if kind == "walkers" else network).backbone.conv1.weight
    torch.testing.assert_close(tensors["backbone.conv1.weight"], start.detach())
    assert tensors["head.classifier.weight"].shape == (3, 64)
    said = capsys.readouterr().err
    assert f"starting from {weights}" in said
    left_out = "the classifier in .*weights is for 7 classes, wanted 3: it is left out"
    assert kind == "walkers" or re.search(left_out, said)
    if kind == "file":
        weights.unlink()
        assert trained(tmp_path / "run", *words, data=people) == 0  # a finished run, which has its weights


def test_what_a_call_leaves_open_is_sized_to_the_data_in_one_line_and_kept(people, tmp_path, capsys):
    words = ["--weights", "walkers", "--epochs", "2", "--milestones", "[]", "--height", "32"]
    assert trained(tmp_path / "run", *words, data=people) == 0
    recipe, _ = read_run(tmp_path / "run")
    assert (recipe.identities, recipe.tracklets, recipe.batch, recipe.batches) == (3, 4, 12, "distinct")
    assert (recipe.evaluate_every, recipe.height, recipe.width) == (1, 32, 32)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "sized to" in line]
    assert "identities 3" in line and "3 identities, a median of 4 tracklets each" in line and "epochs" not in line
    for folder in (people / "train").glob("*/*/tracklet2"):  # as many people, with half of their tracklets
        (tmp_path / "fewer" / "train" / folder.parent.relative_to(people / "train")).mkdir(parents=True)
        target = tmp_path / "fewer" / "train" / folder.relative_to(people / "train")
        target.symlink_to(folder, target_is_directory=True)
    assert trained(tmp_path / "run", *words, "--epochs", "3", data=tmp_path / "fewer") == 1
    error = capsys.readouterr().err
    assert "tracklets was {" in error and "identities was" not in error and "or set data_changed" in error
    assert trained(tmp_path / "run", *words, "--epochs", "3", "--data-changed", data=tmp_path / "fewer") == 0
    assert read_run(tmp_path / "run")[0].batch == 12 and "not evaluated" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "walker"], "weights are 'walker', wanted a weights file, the folder of a run, walkers, or"),
        (["--weights", "walkers", "--start-from", "walkers"], "start_from is walkers, wanted one of the two"),
        (["--weights", "walkers", "--model", "c2d_resnet8"], "weights 'walkers' are not available for c2d_resnet8"),
        (
            ["--weights", "walkers", "--frozen", "[backbone.layer]"],
            "module for frozen, 'backbone.layer', the nearest",
        ),
        (
            ["--weights", "walkers", "--lr-factors", '{"head.nek": 2}'],
            "lr_factors, 'head.nek', the nearest is 'head.",
        ),
    ],
)
def test_what_cannot_be_tuned_is_one_line(words, message, people, tmp_path, capsys):
    assert trained(tmp_path / "run", "--epochs", "1", *words, data=people) == 1
    assert message in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"train": 2}, "has no test tracklets"),
        ({"train": 2, "test": 1}, "all 2 test tracklets are of camera camera1, and a match is of another one"),
    ],
)
def test_data_without_a_match_are_named_before_the_first_step(parts, reason, tmp_path, capsys):
    root = tmp_path / "own"
    for part, number in parts.items():
        write_walkers(root / part, identities=number, cameras=1, tracklets=2, frames=2, height=32)
    assert trained(tmp_path / "run", "--weights", "walkers", "--epochs", "1", data=root) == 0
    said = capsys.readouterr()
    assert "strfnet: the run is not evaluated: " in said.err and reason in said.err and "not evaluated; " in said.out
    show = ["show", "--out", str(tmp_path / "figure.png")]
    for command in (["evaluate"], ["evaluate", "--protocol", "nvan"], [*show, "--cmc"]):
        assert main([*command, "--model", "walkers", "--data", str(root), "--device", "cpu"]) == 1
        said = capsys.readouterr()
        assert reason in said.err.splitlines()[-1] and "embedded" not in said.err
    masks = [*show, "--masks", "--model", "walkers", "--data", str(root), "--clips", "all_frames:2"]
    assert main(masks) == ("test" not in parts)  # figures without a ranking need no match


def test_walkers_are_drawn_where_no_data_are_named(tmp_path, capsys):
    (tmp_path / "small.yaml").write_text(SMALL.replace("format: mars", "format: null"))
    words = ["train", "--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*words, "--steps-per-epoch", "1"]) == 0
    assert "no data given: drawing synthetic walkers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lr", "0"], "lr must be above 0, got 0"),
        (["--batch", "5"], "batch must be 2 identities x 2 tracklets = 4, got 5"),
        (["--device", "cuda:7"], "device 'cuda:7' is not available, wanted one of cpu"),
        (["--model", "strf_resnet50"], "there is no model 'strf_resnet50', the nearest is 'strf_i3d_resnet50'"),
        (["--protocol", "nvam"], "there is no protocol 'nvam', the nearest is 'nvan'"),
        (["--format", "marss"], "there is no format 'marss', the nearest is 'mars'"),
        (["--format", "null"], "format is None, wanted both, or neither for synthetic walkers"),
        (["--sampling", "stride"], "there is no sampling 'stride', the nearest is 'strided'"),
        (["--epoch", "3"], "there is no option '--epoch', the nearest is '--epochs'"),
    ],
)
def test_a_bad_recipe_is_refused_before_any_data_are_read(config, tmp_path, capsys, words, message):
    call = ["train", "--config", config, "--out", tmp_path / "run", "--data", "/nowhere", *words]
    assert message in refused(capsys, *call)
    assert not (tmp_path / "run").exists()


def test_data_that_are_not_there_are_one_line(config, tmp_path, capsys):
    assert main(["train", "--config", str(config), "--data", "/nowhere", "--out", str(tmp_path / "run")]) == 1
    err = capsys.readouterr().err
    assert err.startswith("strfnet: error: /nowhere is missing") and err.count("\n") == 1


@pytest.mark.parametrize("best", [False, True])
def test_a_folder_without_a_run_is_refused(walkers, tmp_path, capsys, best):
    call = ["evaluate", *asked(tmp_path, walkers), "--best", str(best).lower()]
    assert main(call) == 1
    assert f"{tmp_path} holds no run" in capsys.readouterr().err


@pytest.mark.parametrize("format", sweep(FORMATS, quick=5))
def test_every_data_set_is_trained_on_and_judged_by_its_protocol(tmp_path, capsys, format):
    data = TREES[format](tmp_path / "data")
    protocol = {"csv": "folder", "ag_vpreid": "aerial_to_ground"}.get(format, format)
    (tmp_path / "small.yaml").write_text(SMALL)
    words = ["--format", format, "--data", str(data)]
    train = ["train", "--config", str(tmp_path / "small.yaml"), "--epochs", "1", "--steps-per-epoch", "1"]
    assert main([*train, *words, "--protocol", protocol, "--out", str(tmp_path / "run")]) == 0
    assert f"\n{protocol}: " in capsys.readouterr().out
    call = ["evaluate", "--trained", str(tmp_path / "run"), *words, "--complete", "false", "--protocol", protocol]
    assert main([*call, "--out", str(tmp_path / "figures.json")]) == 0
    (told,) = json.loads((tmp_path / "figures.json").read_text())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert told["mean_average_precision"] == result["figures"]["mAP"] and 0 < result["figures"]["mAP"] <= 1
    assert told["splits"][0]["matched"] > 0


def test_the_recipe_chooses_the_objective(config, tmp_path):
    def losses(*words):
        """Identity and triplet loss of the first step."""
        folder = tmp_path / "_".join(["run", *words])
        small = ["--epochs", "1", "--steps-per-epoch", "1", "--out", str(folder)]
        assert main(["train", "--config", str(config), *small, *words]) == 0
        step = next(line for line in read_log(folder / "log.jsonl") if line["kind"] == "step")
        return step["identity_loss"], step["triplet_loss"]

    identity, triplet = losses()
    assert losses("--seed", "0") == (identity, triplet)
    assert losses("--seed", "4")[0] != identity
    for words in (["--loss", "nvan"], ["--mined-on", "feature"]):
        assert losses(*words)[0] == identity and losses(*words, "--seed", "0")[1] != triplet
    smoothed = losses("--smoothing", "0.1")
    assert smoothed[0] != identity and smoothed[1] == triplet


@pytest.mark.parametrize("command", ["train", "evaluate", "embed"])
def test_split_and_counts_are_those_of_the_call(walkers, config, tmp_path, capsys, command):
    network = ["--config", str(config)] if command == "train" else ["--model", "c2d_resnet8"]
    words = [command, *network, "--data", str(walkers), "--format", "mars", "--out", str(tmp_path / "out")]
    assert main([*words, "--complete", "false", "--split", "4"]) == 1
    assert "split is 4, but mars has one" in capsys.readouterr().err
    assert main([*words, "--complete", "true"]) == 1
    assert "wanted 1980" in capsys.readouterr().err


def test_all_splits_are_averaged_and_no_network_is_tested_on_identities_it_has_seen(tmp_path, capsys):
    people = [f"person{number:03d}" for number in (1, 2, 4, 8, 9, 10)]
    data = [
        "--format",
        "ilids",
        "--data",
        str(write_ilids_tree(tmp_path / "data", people=people, splits=2)),
        "--complete",
        "false",
    ]
    small = ["--height", "32", "--width", "16", "--device", "cpu", "--workers", "0", "--protocol", "ilids"]

    def evaluated(*words):
        assert main(["evaluate", *data, *small, *words, "--out", str(tmp_path / "metrics.json")]) == 0
        return json.loads((tmp_path / "metrics.json").read_text())[0]["mean_average_precision"]

    def trained(*words):
        return ["--trained", str(tmp_path / words[0]), *words[1:]]

    network = ["--model", "strf_c2d_resnet8", "--weights", "walkers"]
    each = [evaluated(*network, "--split", str(split)) for split in range(2)]
    assert "1 of 2" in capsys.readouterr().out
    assert evaluated(*network, "--split", "all") == pytest.approx(sum(each) / 2) and len(set(each)) > 1
    shown = capsys.readouterr()
    assert "10 of 10 tracklets embedded" in shown.err and "Not all splits" not in shown.out

    (tmp_path / "small.yaml").write_text(SMALL)
    train = ["train", "--config", str(tmp_path / "small.yaml"), "--epochs", "1", "--steps-per-epoch", "1", *data]
    for split in range(2):
        words = ["--split", str(split), "--protocol", "ilids", "--out", str(tmp_path / f"run{split}")]
        assert main([*train, *words]) == 0
    own = [evaluated(*trained(f"run{split}", "--split", str(split))) for split in range(2)]
    assert evaluated(*trained("run{split}", "--split", "all")) == pytest.approx(sum(own) / 2)
    assert evaluated(*trained("run{split}", "--split", "1")) == own[1]
    capsys.readouterr()
    for words in (trained("run1", "--split", "all"), trained("run1", "--split", "0"), trained("run1")):
        assert main(["evaluate", *data, *small, *words]) == 1
        assert (
            "was trained on split 1 of ilids, and split 0 tests identities that it has seen"
            in capsys.readouterr().err
        )
    assert main(["show", "--ranks", *data, *network, "--split", "all", "--out", str(tmp_path / "x.png")]) == 2
    assert "split is all, but only evaluate averages over splits" in capsys.readouterr().err
    assert main(["evaluate", *data, *network, "--split", "some"]) == 2
    assert "split" in capsys.readouterr().err


def test_several_data_sets_are_trained_on_together(config, walkers, tmp_path, capsys):
    other = TREES["duke"](tmp_path / "duke")
    call = ["train", "--config", config, "--epochs", "1", "--steps-per-epoch", "1", "--batches", "distinct"]
    call = [str(word) for word in (*call, "--out", tmp_path / "run")]
    assert main([*call, "--more-data", f"[duke:{other}]"]) == 0
    recipe, tensors = read_run(tmp_path / "run")
    assert recipe.more_data == (f"duke:{other}",)
    people = len(read_mars(walkers, complete=False).train) // 4 + 2
    assert len(tensors["head.classifier.weight"]) == people == 6
    (tmp_path / "moved").mkdir()
    moved = other.rename(tmp_path / "moved" / "duke")  # runs compare data by their content
    assert main([*call, "--more-data", f"[duke:{moved}]"]) == 0
    for words, message in (
        (f"[{moved}]", "wanted format:path, such as duke:/data/Duke"),
        (f"[dukes:{moved}]", "there is no format 'dukes', the nearest is 'duke'"),
    ):
        capsys.readouterr()
        assert main([*call, "--more-data", words]) == 2
        assert message in capsys.readouterr().err
