import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import clips, normal, wake

from strfnet import FFM

UNITS = ("static", "dynamic", "coarse", "fine")
every_unit = pytest.mark.parametrize("unit", UNITS)
grids = st.integers(1, 4) | st.tuples(st.integers(1, 4), st.integers(1, 4))
options = st.fixed_dictionaries(
    {
        "window": st.none() | st.sampled_from([1, 3, 5, 7]),
        "grid": grids,
        "dynamic": st.sampled_from(["difference", "remainder"]),
        "split": st.sampled_from([True, True, False]),
        "mask": st.sampled_from(["product", "time", "space", "joint", None]),
        "time_padding": st.sampled_from(["replicate", "zeros"]),
    }
)


def static(z, window):
    t, reach = z.shape[2], None if window is None else window // 2
    frames = []
    for i in range(t):
        near = [z[:, :, j] for j in range(t) if reach is None or abs(j - i) <= reach]
        frames.append(sum(near) / len(near))
    return torch.stack(frames, dim=2)


def cells(h, w, grid):
    """The rows and columns of every cell, row by row."""
    rows, columns = grid if isinstance(grid, tuple) else (grid, grid)
    for top in range(0, h, rows):
        yield [(range(top, min(top + rows, h)), range(left, min(left + columns, w))) for left in range(0, w, columns)]


def coarse(z, grid):
    rows = []
    for line in cells(*z.shape[3:], grid):
        means = []
        for inside_rows, inside_columns in line:
            pixels = [z[..., row, column] for row in inside_rows for column in inside_columns]
            means.append(sum(pixels) / len(pixels))
        rows.append(torch.stack(means, dim=-1))
    return torch.stack(rows, dim=3)


def repeated(means, h, w, grid):
    answer = means.new_empty(*means.shape[:3], h, w)
    for i, line in enumerate(cells(h, w, grid)):
        for j, (rows, columns) in enumerate(line):
            for row in rows:
                for column in columns:
                    answer[..., row, column] = means[..., i, j]
    return answer


def component(unit, z, window=3, grid=2, dynamic="difference", split=True, **_):
    if not split:
        return z
    if unit == "static":
        return static(z, window)
    if unit == "dynamic" and dynamic == "remainder":
        return z - static(z, window)
    if unit == "dynamic":
        t = z.shape[2]
        return torch.stack([z[:, :, min(i + 1, t - 1)] - z[:, :, i] for i in range(t)], dim=2)
    means = coarse(z, grid)
    return means if unit == "coarse" else z - repeated(means, *z.shape[3:], grid)


def convolved(weight, b, time_padding):
    """Three taps over time or 3 x 3 over space, tap by tap."""
    answer, (t, h, w) = torch.zeros_like(b), b.shape[2:]
    if weight.shape[2:] == (3, 1):
        for i in range(t):
            for tap in range(3):
                near = i + tap - 1
                if time_padding == "replicate":
                    near = min(max(near, 0), t - 1)
                if 0 <= near < t:
                    answer[:, :, i] += torch.einsum("oi,bihw->bohw", weight[:, :, tap, 0], b[:, :, near])
        return answer
    for row in range(h):
        for column in range(w):
            for i in range(3):
                for j in range(3):
                    y, x = row + i - 1, column + j - 1
                    if 0 <= y < h and 0 <= x < w:
                        answer[..., row, column] += torch.einsum("oi,bit->bot", weight[:, :, i, j], b[..., y, x])
    return answer


def restated(ffm, unit, z, chosen):
    b = component(unit, z, **chosen)
    answer = convolved(ffm.conv.weight.detach(), b, chosen.get("time_padding", "replicate")).clamp(min=0)
    if ffm.attention is not None:
        answer = answer * ffm.attention.mask(b)
    return repeated(answer, *z.shape[3:], chosen.get("grid", 2)) if b.shape != z.shape else answer


@every_unit
@given(clip=clips(channels=2, max_batch=2, max_frames=6, max_height=6, max_width=5), chosen=options)
@settings(max_examples=30)
def test_every_factor_is_its_component_convolved_and_weighed_by_the_mask_of_the_component(unit, clip, chosen):
    ffm = wake(FFM(2, unit, **chosen).double())
    torch.testing.assert_close(ffm.component(clip), component(unit, clip, **chosen))
    answer = ffm(clip)
    assert answer.shape == clip.shape and (answer >= 0).all()
    torch.testing.assert_close(answer, restated(ffm, unit, clip, chosen))
    if ffm.attention is None:
        with pytest.raises(ValueError, match="built with mask=None and has no mask"):
            ffm.mask(clip)
        return
    mask, of_component = ffm.mask(clip), ffm.attention.mask(component(unit, clip, **chosen))
    wide = (
        of_component
        if of_component.shape[3:] == clip.shape[3:]
        else repeated(of_component, *clip.shape[3:], chosen["grid"])
    )
    assert mask.shape == (len(clip), 1, *clip.shape[2:]) and mask.min() > 0 and mask.max() < 1
    torch.testing.assert_close(mask, wide)


@every_unit
@given(clip=clips(channels=2, max_batch=2, max_height=7))
@settings(max_examples=15)
def test_the_defaults_are_a_window_of_three_cells_of_two_and_the_difference(unit, clip):
    ffm = wake(FFM(2, unit).double())
    torch.testing.assert_close(ffm.component(clip), component(unit, clip))
    torch.testing.assert_close(ffm(clip), restated(ffm, unit, clip, {}))


@given(clip=clips(channels=2), window=st.none() | st.sampled_from([1, 3, 5]))
@settings(max_examples=25)
def test_what_is_static_and_what_remains_add_up_to_the_feature(clip, window):
    still, rest = FFM(2, window=window).double(), FFM(2, "dynamic", window=window, dynamic="remainder").double()
    torch.testing.assert_close(still.component(clip) + rest.component(clip), clip)


@given(clip=clips(channels=2), grid=grids)
@settings(max_examples=25)
def test_the_coarse_component_repeated_and_the_fine_one_add_up_to_the_feature(clip, grid):
    means, fine = (
        FFM(2, "coarse", grid=grid).double().component(clip),
        FFM(2, "fine", grid=grid).double().component(clip),
    )
    torch.testing.assert_close(repeated(means, *clip.shape[3:], grid) + fine, clip)


@given(clip=clips(channels=2))
@settings(max_examples=25)
def test_the_first_frame_and_the_differences_up_to_one_give_the_next(clip):
    differences = FFM(2, "dynamic").double().component(clip)
    torch.testing.assert_close(clip[:, :, :1] + differences.cumsum(dim=2)[:, :, :-1], clip[:, :, 1:])
    assert not differences[:, :, -1].any()


@given(clip=clips(channels=2, dtype=torch.float32), mask=st.sampled_from(["product", None]))
@settings(max_examples=25)
def test_a_clip_that_does_not_change_has_a_dynamic_factor_of_exactly_zero_and_equal_static_frames(clip, mask):
    clip = clip[:, :, :1].expand_as(clip)
    assert not wake(FFM(2, "dynamic", mask=mask))(clip).any()
    answer = wake(FFM(2, "static", mask=mask))(clip)
    torch.testing.assert_close(answer, answer[:, :, :1].expand_as(answer), rtol=0, atol=1e-6)


@given(clip=clips(channels=2, dtype=torch.float32))
@settings(max_examples=25)
def test_a_clip_that_is_constant_in_every_cell_has_a_fine_factor_of_exactly_zero(clip):
    clip = clip.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4)
    odd = clip[..., : clip.shape[3] - 1, : clip.shape[4] - 1]
    for one in (clip, odd):
        assert not wake(FFM(2, "fine"))(one).any()


@pytest.mark.parametrize("unit", ["static", "coarse", "fine"])
@given(clip=clips(channels=2), time_padding=st.sampled_from(["replicate", "zeros"]))
@settings(max_examples=15)
def test_a_reversed_clip_gives_the_reversed_factor_once_its_taps_are_flipped(unit, clip, time_padding):
    ffm = wake(FFM(2, unit, time_padding=time_padding).double())
    expected = ffm(clip).flip(2)
    ffm.attention.over_time.weight.data = ffm.attention.over_time.weight.flip(2).detach()
    if unit == "static":
        ffm.conv.weight.data = ffm.conv.weight.flip(2).detach()
    torch.testing.assert_close(ffm(clip.flip(2)), expected)


@every_unit
def test_clips_of_a_batch_do_not_see_each_other(unit):
    ffm, clip = wake(FFM(2, unit).double()), normal(3, 2, 4, 5, 3)
    whole = ffm(clip)
    torch.testing.assert_close(ffm(clip[[2, 0, 1]]), whole[[2, 0, 1]])
    torch.testing.assert_close(ffm(clip[1:2]), whole[1:2])


@every_unit
def test_leaving_the_component_out_changes_the_answer_and_no_parameter_count(unit):
    split, whole, clip = FFM(2, unit).double(), FFM(2, unit, split=False).double(), normal(1, 2, 4, 4, 4)
    wake(split), wake(whole)
    assert torch.equal(whole.component(clip), clip) and not torch.allclose(split(clip), whole(clip))
    assert [p.shape for p in split.parameters()] == [p.shape for p in whole.parameters()]
