import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import clips, normal, wake
from torch.utils._python_dispatch import TorchDispatchMode

from strfnet import FFM, STRF

UNITS = ("static", "dynamic", "coarse", "fine")
PLACES = (128, 128, 256, 256, 256)  # channels of conv2 in the five blocks of a ResNet-50


def squeezed(strf, clip):
    """The narrow feature that all units share, frame by frame; the norm as it stands in evaluation."""
    norm, frames = strf.norm, []
    for frame in clip.unbind(2):
        z = torch.einsum("oi,bihw->bohw", strf.squeeze.weight[:, :, 0, 0], frame).movedim(1, -1)
        z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        frames.append(z.movedim(-1, 1).clamp(min=0))
    return torch.stack(frames, dim=2)


def expanded(strf, factors):
    return torch.einsum("oi,bithw->bothw", strf.expand.weight[:, :, 0, 0], factors)


@given(
    clip=clips(channels=4, max_batch=2),
    units=st.lists(st.sampled_from(UNITS), min_size=1, unique=True),
    residual=st.booleans(),
)
@settings(max_examples=30)
def test_the_factors_of_the_squeezed_feature_are_expanded_and_added(clip, units, residual):
    strf = wake(STRF(4, reduction=2, units=units, residual=residual).double()).eval()
    z = squeezed(strf, clip)
    assert z.shape[1] == 2 and list(strf.units) == units
    factors = [strf.units[unit](z) for unit in units]
    added = sum(expanded(strf, factor) for factor in factors)
    torch.testing.assert_close(strf(clip), clip + added if residual else added)
    masks = strf.masks(clip)
    assert list(masks) == units
    for unit, mask in masks.items():
        assert mask.shape == (len(clip), 1, *clip.shape[2:]) and mask.min() > 0 and mask.max() < 1
        torch.testing.assert_close(mask, strf.units[unit].mask(z))


@given(
    clip=clips(channels=6, dtype=torch.float32),
    training=st.booleans(),
    mask=st.sampled_from(["product", "time", "space", "joint", None]),
    window=st.sampled_from([1, 3, None]),
    grid=st.sampled_from([1, 2, 3, (4, 1)]),
)
@settings(max_examples=40)
def test_a_new_unit_is_the_identity_for_any_size_and_in_training_too(clip, training, mask, window, grid):
    b, _, t, h, w = clip.shape
    if training and b * t * h * w == 1:
        clip = clip.expand(2, -1, -1, -1, -1)  # a norm in training needs two pixels
    strf = STRF(6, reduction=3, mask=mask, window=window, grid=grid).train(training)
    assert torch.equal(strf(clip), clip)
    strf.residual = False
    assert not strf(clip).any()
    wake(strf)
    assert strf(clip).shape == clip.shape


@given(
    clip=clips(channels=4, max_batch=2, dtype=torch.float32),
    dynamic=st.sampled_from(["difference", "remainder"]),
    mask=st.sampled_from(["product", "time", "space", "joint", None]),
    window=st.sampled_from([1, 3, 5, None]),
)
@settings(max_examples=40)
def test_equal_frames_give_equal_frames(clip, dynamic, mask, window):
    still = clip[:, :, :1].expand_as(clip)
    strf = wake(STRF(4, reduction=2, dynamic=dynamic, mask=mask, window=window)).eval()
    answer = strf(still)
    torch.testing.assert_close(answer, answer[:, :, :1].expand_as(answer), rtol=1e-6, atol=1e-6)


def test_padding_with_zeros_shows_at_the_ends_of_equal_frames():
    still = normal(1, 4, 1, 3, 3).expand(-1, -1, 5, -1, -1)
    answer = wake(STRF(4, reduction=2, time_padding="zeros").double()).eval()(still)
    ends, middle = (answer[:, :, [0, 4]] - answer[:, :, 2:3]).abs().amax(dim=(0, 1, 3, 4)), answer[:, :, 1:4]
    assert ends.min() > 1e-3
    torch.testing.assert_close(middle, middle[:, :, :1].expand_as(middle))


@given(clip=clips(channels=4, max_batch=2))
@settings(max_examples=20)
def test_a_reversed_clip_gives_the_reversed_answer_once_all_taps_are_flipped(clip):
    strf = wake(STRF(4, reduction=2, units=("static", "coarse", "fine")).double()).eval()
    expected = strf(clip).flip(2)
    taps = [strf.units["static"].conv, *(unit.attention.over_time for unit in strf.units.values())]
    for conv in taps:
        conv.weight.data = conv.weight.flip(2).detach()
    torch.testing.assert_close(strf(clip.flip(2)), expected)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, 51_368),
        ({"mask": None}, 50_304),
        ({"mask": "space"}, 50_580),
        ({"mask": "time"}, 51_092),
        ({"mask": "joint"}, 50_580),
        ({"units": ("static", "dynamic")}, 34_708),
        ({"units": ("coarse", "fine")}, 45_460),
        ({"reduction": 8}, 145_704),
        ({"reduction": 32}, 20_328),
        ({"split": False}, 51_368),
        ({"dynamic": "remainder", "window": None, "grid": 4, "time_padding": "zeros"}, 51_368),
    ],
)
def test_five_places_cost_the_parameters_of_the_published_budget(options, parameters):
    strfs = [STRF(channels, **options) for channels in PLACES]
    assert sum(p.numel() for strf in strfs for p in strf.parameters()) == parameters


@pytest.mark.parametrize(
    "options",
    [
        {"window": None},
        {"window": 1},
        {"grid": 3},
        {"grid": (1, 2)},
        {"dynamic": "remainder"},
        {"split": False},
        {"mask": None},
        {"mask": "time"},
        {"mask": "space"},
        {"mask": "joint"},
        {"time_padding": "zeros"},
        {"residual": False},
        *({"units": tuple(unit for unit in UNITS if unit != left)} for left in UNITS),
    ],
    ids=str,
)
def test_every_switch_reaches_the_units_and_changes_the_answer(options):
    plain, switched = STRF(4, reduction=2).double(), STRF(4, reduction=2, **options).double()
    state, clip = wake(plain).state_dict(), normal(2, 4, 5, 6, 5)
    wake(switched, seed=1).load_state_dict(state, strict=False)
    answer = switched.eval()(clip)
    assert not torch.allclose(answer, plain.eval()(clip), atol=1e-4)
    assert not switched.residual or not torch.allclose(answer, clip, atol=1e-4)
    z = squeezed(plain, clip).detach()
    for name, unit in switched.units.items():
        direct = FFM(2, name, **{key: value for key, value in options.items() if key not in ("units", "residual")})
        direct.double().load_state_dict(unit.state_dict())
        torch.testing.assert_close(unit(z), direct(z))


@given(seed=st.integers(0, 99), sick=st.integers(0, 2))
@settings(max_examples=20)
def test_clips_of_a_batch_do_not_see_each_other_and_a_nan_stays_in_its_own(seed, sick):
    strf, clip = wake(STRF(4, reduction=2).double()).eval(), normal(3, 4, 4, 5, 3, seed=seed)
    whole = strf(clip)
    torch.testing.assert_close(strf(clip[[2, 0, 1]]), whole[[2, 0, 1]])
    for i in range(3):
        torch.testing.assert_close(strf(clip[i : i + 1])[0], whole[i])
    clip[sick, 1, -1, 0, 0] = float("nan")
    others = [i for i in range(3) if i != sick]
    answer = strf(clip)
    torch.testing.assert_close(answer[others], whole[others])
    assert answer[sick].isnan().any()


def test_at_the_first_step_only_the_expansion_learns_and_the_rest_from_the_second_on():
    strf, clip = STRF(4, reduction=2).double(), normal(2, 4, 4, 4, 4)
    strf(clip).square().sum().backward()
    learning = {name for name, p in strf.named_parameters() if p.grad is not None and p.grad.any()}
    assert learning == {"expand.weight"}
    wake(strf).zero_grad()
    strf(clip).square().sum().backward()
    assert all(p.grad.any() for p in strf.parameters())


def test_a_narrow_feature_is_squeezed_to_one_channel_at_least():
    assert STRF(8).squeeze.weight.shape == (1, 8, 1, 1) and STRF(64).squeeze.weight.shape == (4, 64, 1, 1)


@pytest.mark.parametrize("units", ["static", (), ("static", "static")])
def test_units_must_be_a_list_of_different_names(units):
    with pytest.raises(ValueError, match=r"units must be some of .*, each once, got "):
        STRF(16, units=units)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_answer_order_and_clip_are_the_same(order, mode):
    unit = wake(STRF(32)).double().eval()
    for kernels in (torch.contiguous_format, torch.channels_last):
        unit.to(memory_format=kernels)
        clip = normal(2, 32, 3, 6, 4).contiguous(memory_format=order)
        kept, expected = clip.clone(), unit(clip).detach()
        with mode():
            answer = unit(clip)
        assert torch.equal(clip, kept)
        torch.testing.assert_close(answer, expected, rtol=1e-12, atol=1e-12)
        assert answer.stride() == expected.stride()


def test_under_autocast_the_sum_keeps_the_type_of_the_clip():
    unit = wake(STRF(32)).eval().to(memory_format=torch.channels_last)
    clip = normal(1, 32, 3, 6, 4).float().contiguous(memory_format=torch.channels_last_3d)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert unit(clip).dtype == torch.float32


class Kernels(TorchDispatchMode):
    """Counts the operators that compute, each about one kernel on a GPU."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += not operator.is_view
        return operator(*args, **(kwargs or {}))


def test_a_unit_is_few_kernels_and_indexes_nothing():
    unit, clip = STRF(32).eval(), normal(2, 4, 6, 4, 32, dtype=torch.float32).permute(0, 4, 1, 2, 3)
    with torch.inference_mode(), Kernels() as kernels:
        unit(clip)
    assert kernels.count <= 64
