"""What a recipe refuses, and that it survives JSON."""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strfnet.data.choices import Batches
from strfnet.data.identities import identity_batches
from strfnet.training.recipe import CHANGEABLE, Recipe


def test_the_defaults_are_ap3ds_recipe():
    recipe = Recipe()
    assert (recipe.frames, recipe.stride, recipe.sampling, recipe.batch) == (4, 8, "strided", 32)
    assert (recipe.identities, recipe.tracklets, recipe.batches) == (8, 4, "groups")
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adam", 3e-4, 5e-4)
    assert (recipe.epochs, recipe.schedule, recipe.milestones, recipe.gamma) == (240, "steps", (60, 120, 180), 0.1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0, "lr must be above 0, got 0"),
        ("lr", -1e-3, "lr must be above 0, got -0.001"),
        ("lr", float("nan"), "lr must be above 0, got nan"),
        ("lr", float("inf"), "lr must be above 0, got inf"),
        ("lr", "fast", "lr must be above 0, got fast"),
        ("batch", 16, "batch must be 8 identities x 4 tracklets = 32, got 16"),
        ("epochs", 0, "epochs must be a whole number at least 1, got 0"),
        ("epochs", 1.5, "epochs must be a whole number at least 1, got 1.5"),
        ("epochs", True, "epochs must be a whole number at least 1, got True"),
        ("accumulate", 0, "accumulate must be a whole number at least 1, got 0"),
        ("workers", -1, "workers must be a whole number at least 0, got -1"),
        ("save_every", 0, "save_every must be a whole number at least 1, got 0"),
        ("steps_per_epoch", 0, "steps_per_epoch must be a whole number at least 1, got 0"),
        ("keep", 0, "keep must be a whole number at least 1, got 0"),
        ("seed", -1, "seed must be a whole number at least 0, got -1"),
        ("weight_decay", -1, "weight_decay must be at least 0, got -1"),
        ("smoothing", 1, "smoothing must be at least 0 and below 1, got 1"),
        ("flip", 1.1, "flip must be at least 0 and at most 1, got 1.1"),
        ("erasing", -0.1, "erasing must be at least 0 and at most 1, got -0.1"),
        ("gamma", 0, "gamma must be above 0, got 0"),
        ("clip_gradients", 0, "clip_gradients must be above 0, got 0"),
        ("milestones", (60, 60), r"milestones must be epochs from 1 that grow, got \[60, 60\]"),
        ("milestones", (0, 60), r"milestones must be epochs from 1 that grow, got \[0, 60\]"),
        ("warmup", 241, "warmup must end within the 240 epochs, got 241"),
        ("loss", "strff", "there is no loss 'strff', the nearest is 'strf'"),
        ("optimizer", "adamm", "there is no optimizer 'adamm', the nearest is 'adam'"),
        ("schedule", "step", "there is no schedule 'step', the nearest is 'steps'"),
        ("precision", "f16", "there is no precision 'f16', the nearest is 'fp16'"),
        ("batches", "group", "there is no batches 'group', the nearest is 'groups'"),
        ("sampling", "stride", "there is no sampling 'stride', the nearest is 'strided'"),
        ("interpolation", "cubic", "there is no interpolation 'cubic', the nearest is 'bicubic'"),
        ("lr_factors", {"head": 0}, "the factor of head in lr_factors must be above 0, got 0"),
        ("per_frame", ("flips",), "there is no per_frame 'flips', the nearest is 'flip'"),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{field: value})


def test_a_batch_of_one_identity_has_no_negatives():
    with pytest.raises(ValueError, match="identities must be at least 2"):
        Recipe(identities=1, tracklets=4, batch=4)


def test_a_compiled_network_takes_no_clips_of_unequal_lengths():
    with pytest.raises(ValueError, match="compile is true, but sampling 'strided_ragged' makes clips of unequal"):
        Recipe(sampling="strided_ragged", compile=True)
    assert Recipe(sampling="strided_ragged").ragged and not Recipe(compile=True).ragged


def test_names_known_elsewhere_are_checked_by_who_knows_them():
    recipe = Recipe()
    recipe.check_names({"model": ["strf_p3dc_resnet50"], "protocol": ["ap3d", "mars"]})
    with pytest.raises(ValueError, match="there is no protocol 'ap3d', the nearest is 'ap3'"):
        recipe.check_names({"protocol": ["mars", "ap3"]})


@pytest.mark.parametrize("device", ["cuda:99", "cdua", "gpu"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=f"device '{device}' is not available, wanted one of cpu"):
        Recipe(device=device).check_device()


def test_fp16_on_the_cpu_is_refused():
    with pytest.raises(ValueError, match="precision fp16 needs a GPU, wanted fp32 or bf16 on the CPU"):
        Recipe(device="cpu", precision="fp16").check_device()


def test_the_forms_of_batches_are_those_of_the_data():
    for form in get_args(Batches):
        assert identity_batches([0, 0, 1, 1], identities=2, tracklets=2, form=form, seed=0, epoch=0)


@given(
    lr=st.floats(1e-9, 1),
    milestones=st.lists(st.integers(1, 400), unique=True).map(lambda epochs: tuple(sorted(epochs))),
    data=st.one_of(st.none(), st.text(st.characters(codec="ascii", exclude_characters="\0/."), min_size=1).map(Path)),
    per_frame=st.lists(st.sampled_from(["flip", "crop", "erasing"]), unique=True).map(tuple),
)
def test_json_and_back(lr, milestones, data, per_frame):
    tuned = {"frozen": ("backbone.conv1",), "lr_factors": {"head": 10.0}}
    recipe = Recipe(lr=lr, milestones=milestones, data=data, per_frame=per_frame, **tuned)
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


def test_an_unknown_field_names_the_nearest():
    with pytest.raises(ValueError, match="there is no field of a recipe 'epoch', the nearest is 'epochs'"):
        Recipe.from_json({"epoch": 3})


def test_what_may_change_when_a_run_goes_on():
    recipe = Recipe()
    changed = {"lr": 1e-3, "seed": 1, "start_from": Path("x"), "batches": "distinct", "milestones": (1,)}
    for name, value in changed.items():
        (line,) = recipe.differences(replace(recipe, **{name: value}))
        assert line.startswith(f"{name} was ") and " and is " in line
    free = replace(
        recipe, data=Path("x"), device="cpu", workers=9, evaluate_every=1, save_every=7, keep=3, epochs=300
    )
    assert recipe.differences(replace(free, protocol="mars", tensorboard=True)) == []
    cosine = replace(recipe, schedule="cosine")
    assert cosine.differences(replace(cosine, epochs=300)) == ["epochs was 240 and is 300"]
    assert set(CHANGEABLE) < {field.name for field in fields(Recipe)}


def test_every_field_is_explained():
    for field in fields(Recipe):
        assert f"\n        {field.name}: " in Recipe.__doc__, field.name


def test_reading_it_loads_no_torch():
    probe = "import sys; from strfnet.training.recipe import Recipe; Recipe(); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
