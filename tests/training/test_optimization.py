"""Learning rates at times that can be said by heart, and against torch's own one-cycle."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import checkpoints, metadata_of, network_for, tiny_recipe, walkers
from torch import nn

from strfnet.losses import strf_loss
from strfnet.training.optimization import learning_rate, make_optimizer
from strfnet.training.recipe import Recipe
from strfnet.training.trainer import train


def test_steps_drop_when_a_milestone_is_done():
    recipe = Recipe()
    rates = {0: 3e-4, 59.99: 3e-4, 60: 3e-5, 119.9: 3e-5, 120: 3e-6, 180: 3e-7, 239.9: 3e-7}
    for at, rate in rates.items():
        assert learning_rate(recipe, at) == pytest.approx(rate)


def test_warmup_grows_in_a_straight_line():
    recipe = Recipe(warmup=10)
    assert learning_rate(recipe, 0) == pytest.approx(3e-6)
    assert learning_rate(recipe, 5) == pytest.approx(3e-4 * 0.505)
    assert learning_rate(recipe, 10) == pytest.approx(3e-4)


def test_cosine_ends_at_zero():
    recipe = Recipe(schedule="cosine", epochs=100)
    assert [learning_rate(recipe, at) for at in (0, 50, 100)] == pytest.approx([3e-4, 1.5e-4, 0], abs=1e-12)
    assert learning_rate(Recipe(schedule="cosine", epochs=100, warmup=50), 25) == pytest.approx(
        3e-4 * 0.505 * (1 + 2**-0.5) / 2
    )


@pytest.mark.parametrize("warmup", [0, 5])
def test_one_cycle_is_torchs(warmup):
    recipe = Recipe(schedule="one_cycle", epochs=20, warmup=warmup, lr=0.1)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    # torch's first step is 0 and its top at pct_start * total - 1; ours are at the ends of the whole span
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=2001, pct_start=((warmup or 6) / 20 * 2000 + 1) / 2001
    )
    for step in range(2001):
        assert learning_rate(recipe, step / 100) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        if step < 2000:
            reference.step()


def test_frozen_parameters_are_left_out():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    network[0].requires_grad_(False)
    for name, kind in (("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)):
        optimizer = make_optimizer(tiny_recipe(optimizer=name, lr=0.5, weight_decay=0.25), network)
        (group,) = optimizer.param_groups
        assert optimizer.defaults["fused"] and type(optimizer) is kind and group["params"] == [network[1].weight]
        assert (group["lr"], group["weight_decay"], group.get("momentum", 0.9)) == (0.5, 0.25, 0.9)
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        make_optimizer(tiny_recipe(), network)


def test_the_longest_path_gives_the_factor_of_the_learning_rate():
    network = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 1))
    recipe = tiny_recipe(lr_factors={"0": 0.5, "0.1": 0.25})
    optimizer = make_optimizer(recipe, network)
    factors = {parameter: group["factor"] for group in optimizer.param_groups for parameter in group["params"]}
    assert [factors[one] for one in network.parameters()] == [0.5, 0.5, 0.25, 0.25, 1, 1]
    assert [group["factor"] for group in make_optimizer(tiny_recipe(), network).param_groups] == [1]
    with pytest.raises(ValueError, match=r"there is no module for lr_factors, '0\.2', the nearest is '0\.1'"):
        make_optimizer(tiny_recipe(lr_factors={"0.2": 1}), network)


def test_a_frozen_module_keeps_weights_and_statistics_and_a_factor_scales_the_steps(tmp_path):
    recipe = tiny_recipe(frozen=("backbone.conv1", "backbone.bn1"), lr_factors={"backbone.layer1": 0.25}, epochs=1)

    def trained(recipe, network, folder):
        train(network, strf_loss(), walkers(), recipe, tmp_path / folder, progress=False)
        return {key: value.clone() for key, value in network.state_dict().items()}

    start = network_for(recipe)
    before = {key: value.clone() for key, value in start.state_dict().items()}
    recipe = replace(recipe, steps_per_epoch=1, optimizer="sgd", weight_decay=0.0)
    after = trained(recipe, start, "one")
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert {key for key in before if key.startswith(("backbone.conv1", "backbone.bn1"))} <= same
    assert "backbone.layer2.0.bn1.running_mean" not in same and not start.backbone.bn1.training
    assert not start.backbone.conv1.weight.requires_grad and start.backbone.layer1.training
    plain = trained(replace(recipe, lr_factors=None), network_for(recipe), "two")
    for key, factor in (("backbone.layer1.0.conv1.weight", 0.25), ("backbone.layer2.0.conv1.weight", 1)):
        torch.testing.assert_close(
            after[key] - before[key], factor * (plain[key] - before[key]), rtol=1e-3, atol=1e-7
        )
    again = trained(replace(recipe, epochs=2), network_for(recipe), "one")
    whole = trained(replace(recipe, epochs=2), network_for(recipe), "whole")
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    (last,) = checkpoints(tmp_path / "one" / "checkpoints")[-1:]
    assert metadata_of(last)["learning_rate"] == pytest.approx(0.1 * recipe.lr)


def test_gradients_of_other_strides_reach_the_fused_kernel_in_those_of_the_parameter():
    weight = torch.randn(4, 3, 2, 2)
    for name in ("adam", "sgd"):
        network = nn.Conv2d(3, 4, 2, bias=False)
        network.weight.data.copy_(weight)
        optimizer = make_optimizer(tiny_recipe(optimizer=name, lr=0.5), network)
        plain = nn.Parameter(weight.clone())
        kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[name]
        momentum = {"momentum": 0.9} if name == "sgd" else {}
        reference = kind([plain], lr=0.5, weight_decay=5e-4, foreach=False, **momentum)
        for _ in range(2):
            gradient = torch.randn(4, 3, 2, 2)
            network.weight.grad = gradient.contiguous(memory_format=torch.channels_last)
            plain.grad = gradient
            optimizer.step(), reference.step()
        torch.testing.assert_close(network.weight.detach(), plain.detach())
