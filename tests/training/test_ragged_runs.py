"""Runs whose batches hold clips of unequal lengths."""

import copy
import os
import signal

import pytest
import torch
from strategies import wake
from tiny_runs import (
    TINY,
    checkpoints,
    metadata_of,
    network_for,
    objective_for,
    ragged_walkers,
    tiny_recipe,
    walkers,
)
from torch import nn

from strfnet import create_model, splice
from strfnet.data.frames import read_clip
from strfnet.data.identities import identity_batches
from strfnet.layers.head import ReIDOutput
from strfnet.system.compat import BatchNorm
from strfnet.system.progress import ProgressLine
from strfnet.system.signals import Stopped
from strfnet.training.log import read_log
from strfnet.training.trainer import identity_labels, train

ONE_STEP = {"epochs": 1, "steps_per_epoch": 1, "optimizer": "sgd", "lr": 1.0, "weight_decay": 0, "flip": 0}


def recipe_of(**changes):
    return tiny_recipe(**{"sampling": "strided_ragged", "frames": 6, "batches": "every_identity", **changes})


def run(folder, recipe, network=None, objective=None, data=None):
    network = network or network_for(recipe)
    train(network, objective or objective_for(recipe), data or ragged_walkers(), recipe, folder, progress=False)
    return network


def digests(folder):
    return metadata_of(checkpoints(folder / "checkpoints")[-1])["sha256"]


def first_batch():
    """The clips of the first batch without padding, (1, 3, t, h, w), and their labels."""
    data = ragged_walkers()
    labels = identity_labels(data)
    rows = identity_batches(labels, identities=2, tracklets=2, form="every_identity", seed=TINY["seed"], epoch=0)[0]
    clips = [read_clip(data[row].frames, range(len(data[row].frames)), (64, 32)).double()[None] for row in rows]
    assert len({clip.shape[2] for clip in clips}) > 1
    return clips, torch.tensor([labels[row] for row in rows])


def assert_one_step(folder, recipe, network, other, output, labels):
    """Trains ``network``; its weights then are those of ``other`` after a step along the gradient of ``output``."""
    loss = objective_for(recipe)(output, labels)
    loss.total.backward()
    gradients = {name: one.grad for name, one in other.named_parameters() if one.grad is not None}
    expected = dict(other.state_dict())
    expected |= {name: expected[name] - gradient for name, gradient in gradients.items()}
    run(folder, recipe, network)
    (step,) = (line for line in read_log(folder / "log.jsonl") if line["kind"] == "step")
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    assert (step["loss"], step["gradient_norm"]) == (pytest.approx(loss.total.item()), pytest.approx(norm.item()))
    torch.testing.assert_close(dict(network.state_dict()), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", ["strf_p3dc_resnet8", "ste_nvan_resnet8", "ap3d_nl_resnet8"])
def test_the_step_is_that_of_the_clips_one_by_one(tmp_path, model):
    network = wake(create_model(model, num_classes=4)).double()
    norms = tuple(name for name, module in network.named_modules() if isinstance(module, BatchNorm))
    other = copy.deepcopy(network).train()
    for name in norms:
        other.get_submodule(name).requires_grad_(False).eval()
    clips, labels = first_batch()
    output = ReIDOutput(*map(torch.cat, zip(*map(other, clips), strict=True)))
    assert_one_step(tmp_path, recipe_of(model=model, frozen=norms, **ONE_STEP), network, other, output, labels)


def test_batch_norms_see_the_frames_that_exist_and_no_others(tmp_path):
    network = wake(create_model("c2d_resnet8", num_classes=4)).double()
    other = copy.deepcopy(network).train()
    clips, labels = first_batch()
    maps = other.backbone(torch.cat(clips, dim=2)).split([clip.shape[2] for clip in clips], dim=2)
    feature = torch.cat([one.amax(dim=(3, 4)).mean(dim=2) for one in maps])
    embedding = other.head.neck(feature)
    output = ReIDOutput(embedding, feature, other.head.classifier(embedding))
    assert_one_step(tmp_path, recipe_of(model="c2d_resnet8", **ONE_STEP), network, other, output, labels)


def test_the_padding_changes_no_bit_of_a_run(tmp_path):
    recipe, filled = recipe_of(model="strf_p3dc_resnet8", epochs=1, erasing=1.0), []

    def fill(module, arguments):
        if len(arguments) == 2:
            clips, lengths = arguments
            for clip, length in zip(clips, lengths.tolist(), strict=True):
                clip[:, length:] = 1e4
            filled.append(lengths)

    run(tmp_path / "plain", recipe)
    network = network_for(recipe)
    network.register_forward_pre_hook(fill)
    run(tmp_path / "filled", recipe, network)
    assert len(filled) > 2 and digests(tmp_path / "filled") == digests(tmp_path / "plain")


def test_without_short_tracklets_the_run_is_that_of_strided(tmp_path):
    for name in ("strided", "strided_ragged"):
        run(tmp_path / name, recipe_of(sampling=name, frames=3, erasing=0.5), data=walkers())
    assert digests(tmp_path / "strided") == digests(tmp_path / "strided_ragged")


def test_a_stopped_run_ends_bit_for_bit_as_one_without_a_stop(tmp_path):
    recipe, calls = recipe_of(epochs=3, save_every=1, workers=1, erasing=0.5), []

    def stopped(output, labels):
        calls.append(labels)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective_for(recipe)(output, labels)

    with pytest.raises(Stopped):
        run(tmp_path / "stopped", recipe, objective=stopped)
    for name in ("stopped", "whole"):
        run(tmp_path / name, recipe)
    assert digests(tmp_path / "stopped") == digests(tmp_path / "whole")


def test_the_frames_that_exist_are_counted_in_bfloat16_too(tmp_path, monkeypatch):
    counted = []
    monkeypatch.setattr(ProgressLine, "advance", lambda line, done, images, text: counted.append(images))
    run(tmp_path, recipe_of(model="strf_p3dc_resnet8", precision="bf16", epochs=1, steps_per_epoch=1))
    assert counted == [sum(clip.shape[2] for clip in first_batch()[0])]


class Backbone(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


class WithoutLengths(Backbone):
    def forward(self, clip):
        return self.backbone(clip)


class IgnoresLengths(Backbone):
    def forward(self, clip, lengths=None, return_lengths=False):
        maps = self.backbone(clip)
        return (maps, torch.full((len(maps),), maps.shape[2])) if return_lengths else maps


def without_lengths(num_classes):
    return changed(num_classes, WithoutLengths)


def ignores_lengths(num_classes):
    return changed(num_classes, IgnoresLengths)


def with_convolution(num_classes):
    return splice(changed(num_classes), {"backbone.layer2.0": nn.Conv3d(32, 32, 1)})


def changed(num_classes, kind=None):
    network = create_model("c2d_resnet8", num_classes=num_classes)
    network.name = None
    network.backbone = network.backbone if kind is None else kind(network.backbone)
    return network


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (without_lengths, r"wanted a network\(clips, lengths\) that takes them: .*unexpected keyword argument"),
        (with_convolution, "that takes them: .*Conv3d cannot take ragged clips: its forward has no parameter"),
        (ignores_lengths, "whose output does not depend on frames past the end of a clip"),
    ],
)
def test_a_network_that_takes_no_lengths_is_refused_before_anything_is_there(tmp_path, model, message):
    recipe = recipe_of(model=model)
    network = model(4)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f"sampling 'strided_ragged' makes clips of unequal lengths, .*{message}"):
        run(tmp_path / "run", recipe, network)
    assert not (tmp_path / "run").exists()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    run(tmp_path / "run", recipe_of(model=model, sampling="strided", epochs=1, steps_per_epoch=1), network)
