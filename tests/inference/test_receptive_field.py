"""The temporal receptive field of each layer, as declared and as measured by changing one frame."""

import pytest
import torch
from strategies import normal, wake

import strfnet
from strfnet.inference.receptive_field import receptive_field

FRAMES = 14
CONVOLUTIONS = [
    getattr(strfnet, name) for name in ("I3D", "P3DA", "P3DB", "P3DC", "AP3DI", "AP3DA", "AP3DB", "AP3DC")
]


def conv():
    return torch.nn.Conv2d(4, 4, 3, padding=1)


def strf(**arguments):
    return strfnet.STRF(4, reduction=1, **arguments)


def awake(layer):
    return wake(layer.double()).eval()


def changed(layer):
    """For each frame given, the frames of the answer that change with it."""
    clip = normal(1, 4, FRAMES, 5, 4)
    with torch.no_grad():
        answer = layer(clip)
        others = []
        for frame in range(FRAMES):
            other = clip.clone()
            other[:, :, frame] += normal(1, 4, 5, 4, seed=1)
            others.append((layer(other) != answer).amax(dim=(0, 1, 3, 4)).nonzero().flatten().tolist())
    return others


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_temporal_convolutions_see_one_neighbour_on_each_side(kind):
    check_receptive_field(awake(kind(conv())), past=1, future=1)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize(("kernel", "dilation", "reach"), [(1, 1, 0), (5, 1, 2), (3, 2, 2)])
def test_convolutions_of_other_kernels_see_as_far_as_their_taps(kind, kernel, dilation, reach):
    layer = kind(conv(), time_kernel=kernel, time_dilation=dilation)
    check_receptive_field(awake(layer), past=reach, future=reach)


def test_a_convolution_without_time_sees_its_frame():
    check_receptive_field(awake(strfnet.C2D(conv())), past=0, future=0)


@pytest.mark.parametrize(
    ("arguments", "past", "future"),
    [
        ({"units": ["static"], "mask": None}, 2, 2),
        ({"units": ["static"], "mask": None, "window": 1}, 1, 1),
        ({"units": ["static"], "mask": "time", "window": 5}, 3, 3),
        ({"units": ["static"], "mask": None, "window": None, "split": False}, 1, 1),
        ({"units": ["dynamic"], "mask": None}, 1, 2),
        ({"units": ["dynamic"], "mask": "joint", "time_padding": "zeros"}, 1, 2),
        ({"units": ["dynamic"], "mask": None, "dynamic": "remainder"}, 2, 2),
        ({"units": ["dynamic"], "mask": None, "window": None}, 1, 2),
        ({"units": ["coarse"], "mask": None}, 0, 0),
        ({"units": ["coarse", "fine"], "mask": "joint"}, 0, 0),
        ({"units": ["fine"], "mask": "time"}, 1, 1),
        ({"mask": "joint"}, 2, 2),
        ({"mask": "time", "time_padding": "zeros"}, 2, 2),
    ],
)
def test_strf_sees_its_components_and_its_taps(arguments, past, future):
    check_receptive_field(awake(strf(**arguments)), past=past, future=future)


def check_receptive_field(layer, *, past, future):
    extent = receptive_field(layer, "here")
    assert (extent.past, extent.future, extent.group, extent.merged) == (past, future, 1, False)
    for frame, frames in enumerate(changed(layer)):
        if past + future <= frame < FRAMES - past - future:  # near the ends the padding repeats what changes
            assert (min(frames), max(frames)) == (frame - future, frame + past)
        assert frame - future <= min(frames) and max(frames) <= frame + past


@pytest.mark.parametrize("window", [1, 2, 3])
def test_non_local_windows_are_groups_from_the_first_frame(window):
    layer = awake(strfnet.NonLocalBlock(4, window=window))
    for frame, frames in enumerate(changed(layer)):
        group = frame // window
        assert frames == [at for at in range(FRAMES) if at // window == group]
    extent = receptive_field(layer, "here")
    assert (extent.past, extent.future, extent.group, extent.merged) == (0, 0, window, False)


@pytest.mark.parametrize("factor", [2, 3])
def test_merged_groups_become_a_frame_each(factor):
    layer = strfnet.TemporalReduction(factor)
    assert all(frames == [frame // factor] for frame, frames in enumerate(changed(layer)))
    extent = receptive_field(layer, "here")
    assert (extent.past, extent.future, extent.group, extent.merged) == (0, 0, factor, True)


LAYERS = [
    lambda: strfnet.P3DC(conv()),
    lambda: strfnet.AP3DB(conv(), time_kernel=5),
    lambda: strf(units=["dynamic"], mask=None),
    lambda: strf(mask="joint"),
    lambda: strfnet.NonLocalBlock(4, window=3),
    lambda: strfnet.TemporalReduction(3),
]


@pytest.mark.parametrize("make", LAYERS)
def test_final_frames_do_not_change_in_a_longer_clip(make):
    """And the first frame that is needed gives, from there on, the rest of the answer."""
    layer = awake(make())
    extent = receptive_field(layer, "here")
    clip = normal(1, 4, FRAMES, 5, 4)
    with torch.no_grad():
        whole = layer(clip)
        for frames in range(1, FRAMES):
            part = layer(clip[:, :, :frames])
            assert part.shape[2] == extent.total(frames)
            same = (part - whole[:, :, : part.shape[2]]).abs().amax(dim=(0, 1, 3, 4)) < 1e-12
            final = extent.final(frames)
            assert same[:final].all()
            first = extent.first_needed(frames)
            rest = layer(clip[:, :, first:])
            torch.testing.assert_close(rest[:, :, final - extent.total(first) :], whole[:, :, final:])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (strfnet.NonLocalBlock, r"\(NonLocalBlock\) attends over all frames \(window=None\)"),
        (strfnet.STRF, r'\(STRF\) weighs places by their mean over all frames \(mask="product"\)'),
        (lambda c: strfnet.STRF(c, reduction=1, units=["fine"], mask="space"), r'\(mask="space"\)'),
        (lambda c: strfnet.STRF(c, reduction=1, window=None, mask=None), r"averages all frames in its static unit"),
        (
            lambda c: strfnet.STRF(c, reduction=1, units=["dynamic"], dynamic="remainder", window=None, mask=None),
            r"averages all frames in its dynamic unit \(window=None\)",
        ),
    ],
)
def test_layers_that_depend_on_all_frames_are_refused(make, reason):
    layer = awake(make(4))
    with pytest.raises(ValueError, match=f"^layer3.1.after.0 .*{reason}.* Stream\\(network, frames=8\\)"):
        receptive_field(layer, "layer3.1.after.0")
    assert changed(layer)[0][-1] == FRAMES - 1 and changed(layer)[-1][0] == 0


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_strides_in_time_are_refused(kind):
    with pytest.raises(ValueError, match=r"^here \(.*\) returns fewer frames than it is given \(time_stride=2\)"):
        receptive_field(kind(conv(), time_stride=2), "here")


def test_an_unknown_layer_is_refused():
    class Own(strfnet.NonLocalBlock):
        pass

    for layer in (torch.nn.Identity(), Own(4, window=2)):
        with pytest.raises(ValueError, match=rf"^here \({type(layer).__name__}\) is not a layer of strfnet"):
            receptive_field(layer, "here")
