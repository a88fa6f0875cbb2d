"""A network and its weights in one file: rebuilt exactly, or refused with a reason."""

import copy
import json
import os
import pickle
import random
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from strategies import normal, wake
from sweeps import sweep

import strfnet
from strfnet.cli.parser import main
from strfnet.models import convert, describe, load, load_official, save, save_official
from strfnet.weights.file import BLANK, listed, read_weights, write_file
from strfnet.weights.store import CheckpointStore


def built(name="strf_p3dc_resnet8", classes=5, seed=0):
    return wake(strfnet.create_model(name, num_classes=classes), seed)


def assert_same(one, two):
    """The same network with the same weights, bit for bit."""
    assert str(one) == str(two) and one.name == two.name
    state = two.state_dict()
    assert list(one.state_dict()) == list(state)
    for key, value in one.state_dict().items():
        assert value.dtype == state[key].dtype and torch.equal(value, state[key]), key


@pytest.mark.parametrize("name", sweep([name for name in strfnet.list_models() if name.endswith("resnet8")], quick=5))
def test_a_network_is_rebuilt_as_it_was(name, tmp_path):
    network = built(name)
    save(network, tmp_path / "network.safetensors")
    again = load(tmp_path / "network.safetensors")
    assert_same(again, network)
    clip = normal(1, 3, 4, 64, 32, dtype=torch.float32)
    with torch.no_grad():
        assert torch.equal(again.eval()(clip).embedding, network.eval()(clip).embedding)
    frozen = [key for key, value in network.named_parameters() if not value.requires_grad]
    assert frozen == [key for key, value in again.named_parameters() if not value.requires_grad]
    assert all(value.is_contiguous() for value in again.state_dict().values())


def test_a_rebuilt_network_can_be_trained_and_draws_no_random_number(tmp_path):
    save(built(), tmp_path / "network.safetensors")
    before = torch.get_rng_state()
    network = load(tmp_path / "network.safetensors").train()
    assert torch.equal(torch.get_rng_state(), before)
    network(normal(2, 3, 2, 64, 32, dtype=torch.float32)).logits.sum().backward()
    torch.optim.SGD(network.parameters(), lr=0.1).step()


@pytest.mark.parametrize("classes", sweep([1, None, 702], quick=1))
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_classes_and_dtype_are_kept(classes, dtype, tmp_path):
    network = built("nvan_resnet8", classes).to(dtype)
    save(network, tmp_path / "network.safetensors")
    assert_same(load(tmp_path / "network.safetensors"), network)


def test_facts_are_kept_beside_the_weights(tmp_path):
    save(built(), tmp_path / "network.safetensors", trained_on="MARS", epochs=[1, 2], note='0" \\ é')
    told = describe(tmp_path / "network.safetensors")
    assert told == {
        "model": "strf_p3dc_resnet8",
        "num_classes": 5,
        "strfnet": strfnet.__version__,
        "origin": None,
        "facts": {"trained_on": "MARS", "epochs": [1, 2], "note": '0" \\ é'},
    }
    with safe_open(tmp_path / "network.safetensors", "pt") as file:  # safetensors' own reader can read it
        assert json.loads(file.metadata()["strfnet"])["model"] == "strf_p3dc_resnet8"
    with pytest.raises(ValueError, match="facts must be what JSON can hold"):
        save(built(), tmp_path / "network.safetensors", when=object())
    assert describe(tmp_path / "network.safetensors") == told
    assert os.listdir(tmp_path) == ["network.safetensors"]


def test_no_damage_is_accepted(tmp_path):
    path = tmp_path / "network.safetensors"
    save(built(classes=None), path, trained_on="walkers")
    whole, draw = path.read_bytes(), random.Random(0)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [draw.randrange(8 * header) for _ in range(500)] + [draw.randrange(8 * len(whole)) for _ in range(500)]
    accepted = []
    for place in places:
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            read_weights(path)
            accepted.append(place)
        except ValueError as error:
            assert str(path) in str(error)
    for length in [draw.randrange(header) for _ in range(100)] + [draw.randrange(len(whole)) for _ in range(100)]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_weights(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        load(path)
    assert accepted == []
    path.write_bytes(whole)
    assert load(path).name == "strf_p3dc_resnet8"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_both_ways(value, tmp_path, monkeypatch):
    path, network = tmp_path / "network.safetensors", built()
    save(network, path)
    good = path.read_bytes()
    broken = built("c2d_resnet8")
    with torch.no_grad():
        network.head.neck.bias[2] = broken.head.neck.bias[2] = value
    message = "has weights that are NaN or infinite: head.neck.bias is not finite"
    with pytest.raises(ValueError, match=message):
        save(network, path)
    assert path.read_bytes() == good
    with pytest.raises(ValueError, match=r"infinite: bn.bias is not finite"):
        save_official(broken, tmp_path / "out.pth")
    monkeypatch.setattr("strfnet.weights.file.check_finite", lambda *_: None)
    save(network, path)
    monkeypatch.undo()
    for read in (load, lambda p: strfnet.create_model("strf_p3dc_resnet8", num_classes=5, pretrained=p)):
        with pytest.raises(ValueError, match=f"{path} {message}"):
            read(path)


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (lambda n: setattr(n, "name", None), "wanted one that strfnet.create_model has built"),
        (lambda n: setattr(n, "name", "p3dc_resnet8"), r"backbone.layer2.0.conv2.after is new"),
        (lambda n: setattr(n, "name", "strf_p3da_resnet8"), "conv2.class is 'FollowedP3DC', not 'FollowedP3DA'"),
        (lambda n: setattr(n.head, "pooling", "mean"), "head.pooling is 'mean', not 'max_mean'"),
        (lambda n: setattr(n.backbone.layer3[0].conv1, "stride", (1, 1)), r"layer3.0.conv1.stride is \(1, 1\), not"),
        (lambda n: setattr(n.backbone, "relu", torch.nn.Identity()), "backbone.relu.class is 'Identity', not 'ReLU'"),
        (lambda n: n.head.register_parameter("scale", torch.nn.Parameter(torch.ones(1))), "head.scale is not in"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_rebuilt_is_refused_with_what_differs(change, difference, tmp_path):
    network = built()
    change(network)
    with pytest.raises(ValueError, match=difference):
        save(network, tmp_path / "network.safetensors")
    assert os.listdir(tmp_path) == []


def test_the_name_stays_with_copies_and_pickles():
    network = built()
    assert network.name == copy.deepcopy(network).name == pickle.loads(pickle.dumps(network)).name
    with pytest.raises(ValueError, match="network is Linear, wanted one"):
        save(torch.nn.Linear(2, 2), "nowhere")


class Code:
    """An object whose pickle would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


class Shell(Code):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Code, Shell])
@pytest.mark.parametrize(
    "place", [lambda c: c, lambda c: {"conv1.weight": c}, lambda c: {"state_dict": {}, "rank1": c}]
)
@pytest.mark.parametrize(
    "write", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c, 2))], ids=["torch", "pickle"]
)
def test_no_code_in_a_pickle_is_run(kind, place, write, tmp_path):
    write(place(kind(tmp_path / "harm")), tmp_path / "file.pth")
    for read in (load_official, load, lambda p: strfnet.create_model("c2d_resnet8", pretrained=p)):
        with pytest.raises(ValueError, match=r"cannot read weights from \S+file.pth: "):
            read(tmp_path / "file.pth")
    assert os.listdir(tmp_path) == ["file.pth"]


def test_an_object_in_the_place_of_a_number_is_refused(tmp_path):
    state = {"conv1.weight": torch.ones(2)}
    for value in (
        np.array([1.0]),
        np.array([state], dtype=object),
        np.str_("x"),
        np.datetime64(3, "D"),
        {1, 2},
        b"x",
    ):
        torch.save({"state_dict": state, "rank1": value}, tmp_path / "file.pth")
        with pytest.raises(ValueError, match=r"cannot read weights from \S+file.pth: it holds"):
            read_weights(tmp_path / "file.pth")
    for value in (
        np.float64(0.1),
        np.float32(0.1),
        np.float16(0.1),
        np.int64(-5),
        np.uint8(7),
        np.bool_(True),
        ">f8",
    ):
        number = np.dtype(">f8").type(0.3) if value == ">f8" else value
        torch.save({"state_dict": state, "rank1": number}, tmp_path / "file.pth")
        found = read_weights(tmp_path / "file.pth").beside["rank1"]
        assert type(found) is type(number) and found == number


@pytest.mark.parametrize(
    "content",
    [{}, {"a": torch.ones(2).to_sparse()}, {1: torch.ones(2)}, {"a": torch.ones(2, device="meta")}],
    ids=["nothing", "sparse", "numbered", "meta"],
)
def test_what_is_no_state_dict_of_dense_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"cannot read weights from \S+file.pth: it holds (more than weights|dict)"):
        read_weights(tmp_path / "file.pth")


def test_a_fact_that_looks_like_the_place_of_the_digest_is_kept(tmp_path):
    write_file(tmp_path / "file", {"a": torch.ones(2)}, {"fact": BLANK})
    assert read_weights(tmp_path / "file").metadata == {"fact": BLANK}


def test_a_folder_without_a_run_and_one_without_an_evaluation_are_refused_as_what_they_are(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        read_weights(tmp_path, best=True)
    CheckpointStore(tmp_path / "checkpoints").save(1, {}, {})
    with pytest.raises(ValueError, match="holds no best weights, because its run was not evaluated"):
        read_weights(tmp_path, best=True)


def test_eight_misfits_are_listed_and_the_others_counted():
    assert listed([*"abcdefgh"]) == "a, b, c, d, e, f, g, h"
    assert listed([*"abcdefghi"]) == "a, b, c, d, e, f, g, h and 1 more"


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"], ids=["NumPy 1", "NumPy 2"])
def test_numbers_of_either_numpy_are_read(module, tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "rank1": np.float64(0.5)}, tmp_path / "file.pth",
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = (tmp_path / "file.pth").read_bytes()
    assert b"numpy._core.multiarray" in content or b"numpy.core.multiarray" in content
    content = content.replace(b"numpy._core.multiarray", module).replace(b"numpy.core.multiarray", module)
    (tmp_path / "file.pth").write_bytes(content)
    assert read_weights(tmp_path / "file.pth").beside == {"rank1": 0.5}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"<html>{}", "it is a web page"),
        (b"weights", "neither a safetensors file nor one of torch.save"),
        (b"PK\x03\x04 and nothing more", "not a ZIP archive"),
        (b"\x80\x02}q\x00.", ""),
        (b"\x10\0\0\0\0\0\0\0{}              ", "it holds no weights"),
        (pickle.dumps({"a": 1}, 5), "neither"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_by_its_name_and_the_reason(content, reason, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for read in (load, load_official, lambda p: strfnet.create_model("c2d_resnet8", pretrained=p)):
        with pytest.raises(ValueError, match=f"cannot read weights from {path}: .*{reason}") as caught:
            read(path)
        assert "weights_only" not in str(caught.value)


def test_a_file_that_is_not_there_a_folder_and_truncated_archives_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"cannot read weights from {tmp_path / 'none.pth'}: there is no such file"):
        load_official(tmp_path / "none.pth")
    with pytest.raises(ValueError, match=f"{tmp_path} holds no run"):
        load_official(tmp_path)
    save_official(built("c2d_resnet8"), tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in (1, 4, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cannot read weights from \S+cut.pth"):
            load_official(tmp_path / "cut.pth")


def test_files_are_told_apart(tmp_path):
    save(built("c2d_resnet8"), tmp_path / "ours.safetensors")
    save_official(built("c2d_resnet8"), tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"theirs.pth was not written by strfnet.save; strfnet.load_official"):
        load(tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"theirs.pth was not written by strfnet.save"):
        describe(tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match=r"ours.safetensors was written by strfnet.save, wanted a published file"):
        load_official(tmp_path / "ours.safetensors")


def plain(network, path):
    """The weights alone under our names, with no description."""
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)


@pytest.mark.parametrize("write", sweep([save, save_official, plain], quick=1))
def test_create_model_takes_a_file_of_any_kind(write, tmp_path):
    network = built("ap3d_nl_resnet8")
    write(network, tmp_path / "file")
    made = strfnet.create_model("ap3d_nl_resnet8", num_classes=5, pretrained=tmp_path / "file")
    assert_same(made, network)
    headless = strfnet.create_model("ap3d_nl_resnet8", num_classes=None, pretrained=str(tmp_path / "file"))
    assert torch.equal(headless.head.neck.bias, network.head.neck.bias)
    with pytest.warns(UserWarning, match="classifier in .*file is for 5 classes, wanted 9: it is left out") as warned:
        other = strfnet.create_model("ap3d_nl_resnet8", num_classes=9, pretrained=tmp_path / "file")
    assert warned[0].filename == __file__
    assert torch.equal(other.head.neck.bias, network.head.neck.bias)
    assert other.head.classifier.weight.shape == (9, 64) and other.head.classifier.weight.std() < 0.002
    with pytest.raises(ValueError, match=r"file.* does not fit .*is missing"):
        strfnet.create_model("ap3d_nl_resnet18", num_classes=5, pretrained=tmp_path / "file")
    with pytest.raises(ValueError, match=r"weights are 'DEFAULT' and pretrained is \S+file', wanted one of the two"):
        strfnet.create_model("ap3d_nl_resnet18", weights="DEFAULT", pretrained=tmp_path / "file")


def test_nvans_weights_may_start_ste_nvan(tmp_path):
    network = built("nvan_resnet8")
    save(network, tmp_path / "nvan.safetensors")
    made = strfnet.create_model("ste_nvan_resnet8", num_classes=5, pretrained=tmp_path / "nvan.safetensors")
    assert made.name == "ste_nvan_resnet8" and torch.equal(made.backbone.conv1.weight, network.backbone.conv1.weight)


@pytest.mark.filterwarnings("error")
def test_an_image_file_starts_the_image_network_and_no_warning_is_due(tmp_path):
    image = strfnet.create_model("c2d_resnet18", num_classes=1000)
    save_official(image, tmp_path / "image.pth", family="image")
    made = strfnet.create_model("strf_i3d_resnet18", num_classes=5, pretrained=tmp_path / "image.pth")
    assert torch.equal(made.backbone.layer4[0].conv1.weight, image.backbone.layer4[0].conv1.weight)
    assert torch.equal(made.backbone.layer2[0].conv2.weight[:, :, 1], image.backbone.layer2[0].conv2.weight)


def test_convert_tells_what_it_recognised_and_goes_both_ways(tmp_path, capsys):
    network = built("p3db_resnet8", classes=12)
    theirs, ours, again = (str(tmp_path / name) for name in ("in.pth", "ours.safetensors", "again.pth"))
    save_official(network, theirs)
    assert main(["convert", theirs, ours, "--name", "p3db_resnet8"]) == 0
    count = sum(p.numel() for p in network.parameters()) / 1e6
    assert capsys.readouterr().out == (
        f"recognised p3db_resnet8 (AP3D), 12 classes, {count:.2f} M parameters\n"
        f"written to {ours}, {os.path.getsize(ours) / 1e6:.1f} MB\n"
    )
    assert main(["convert", ours, again]) == 0
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (theirs, again))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_convert_refuses_in_one_line(tmp_path, capsys):
    save_official(built("p3db_resnet8"), tmp_path / "in.pth")
    save(built("p3db_resnet8"), tmp_path / "ours.safetensors")
    source, ours, out = (str(tmp_path / name) for name in ("in.pth", "ours.safetensors", "out.safetensors"))
    for words, code, told in (
        ([source, out], 1, "may be p3da_resnet8, p3db_resnet8, p3dc_resnet8: say which"),
        ([source, str(tmp_path / "out.pth"), "--name", "p3db_resnet8"], 1, "wanted the suffix .safetensors"),
        ([ours, out], 1, "another suffix, such as .pth"),
        ([ours, str(tmp_path / "out.pth"), "--name", "p3dc_resnet8"], 1, "holds p3db_resnet8, but name is"),
        ([source, out, "--name", "p3db_resnet9"], 2, "there is no model 'p3db_resnet9', the nearest is"),
        ([str(tmp_path / "none.pth"), out], 1, "there is no such file"),
    ):
        assert main(["convert", *words]) == code
        text = capsys.readouterr()
        assert text.out == "" and told in text.err.splitlines()[-1] and "Traceback" not in text.err
    assert sorted(os.listdir(tmp_path)) == ["in.pth", "ours.safetensors"]
    with pytest.raises(ValueError, match="is already a file of ours"):
        convert(tmp_path / "ours.safetensors", tmp_path / "out.safetensors")
