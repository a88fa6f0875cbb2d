"""Masks and attention captured from a forward pass, and maps laid over frames."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import clips, normal, wake
from torch.utils._python_dispatch import TorchDispatchMode

import strfnet
from strfnet.layers.ap3d import AppearancePreserving
from strfnet.layers.non_local import NonLocalBlock
from strfnet.layers.strf import STRF
from strfnet.visualization.attention import at_frames, attention_of, lay_over, masks_of, non_local_row, registered_row


def awake(name):
    return wake(strfnet.create_model(name, num_classes=3))


def inputs_of(network, clip, kind):
    """What each module of a kind is called with, copied before anything can write over it."""
    seen = {}
    for path, module in network.named_modules():
        if isinstance(module, kind):
            module.register_forward_pre_hook(lambda _, args, path=path: seen.__setitem__(path, args[0].clone()))
    with torch.no_grad():
        network.eval()(clip)
    return seen


def test_masks_are_those_of_each_unit_for_what_it_is_called_with():
    network, clip = awake("strf_p3dc_resnet8"), normal(2, 3, 4, 32, 16, dtype=torch.float32)
    masks = masks_of(network, clip)
    seen = inputs_of(network, clip, STRF)
    assert list(masks) == list(seen) == [f"backbone.layer{stage}.0.conv2.after.0" for stage in (2, 3)]
    for path, units in masks.items():
        expected = network.get_submodule(path).masks(seen[path])
        assert list(units) == ["static", "dynamic", "coarse", "fine"]
        for unit, mask in units.items():
            torch.testing.assert_close(mask, expected[unit])
            assert mask.shape == (2, 1, *seen[path].shape[2:]) and mask.std() > 0


@pytest.mark.parametrize("read", [masks_of, lambda network, clip: attention_of(network, clip, (0, 0, 0))])
def test_the_network_is_as_it_was(read):
    network = wake(strfnet.splice(awake("strf_c2d_resnet8"), {"backbone.layer1": NonLocalBlock})).train()
    network.backbone.bn1.eval()
    modes = [module.training for module in network.modules()]
    state = {key: value.clone() for key, value in network.state_dict().items()}
    read(network, normal(1, 3, 2, 16, 16, dtype=torch.float32))
    with pytest.raises((ValueError, TypeError)):
        read(network, torch.zeros(1, 4, 2, 16, 16))
    assert modes == [module.training for module in network.modules()]
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())


def test_a_network_without_units_is_refused():
    clip = torch.zeros(1, 3, 2, 16, 16)
    with pytest.raises(ValueError, match="calls no STRF unit, wanted one with units"):
        masks_of(awake("c2d_resnet8"), clip)
    with pytest.raises(ValueError, match="calls no attention block"):
        attention_of(awake("strf_c2d_resnet8"), clip, (0, 0, 0))
    for place in ((2, 0, 0), (0, 16, 0), (0, 0, -1), (0, 0)):
        with pytest.raises(ValueError, match=r"wanted frame, row and column below \(2, 16, 16\)"):
            attention_of(awake("nvan_resnet8"), clip, place)


@given(
    clip=clips(channels=4, min_height=3, max_height=6, max_width=5),
    settings=st.sampled_from(
        [
            *({}, {"subsample": True}, {"pairing": "dot"}, {"window": 2}, {"stripes": 3}),
            *({"stripes": 2, "window": 3}, {"stripes": 2, "pool": "both"}),
            *({"pairing": "dot", "window": 2}, {"window": 2, "subsample": True}),
        ]
    ),
    data=st.data(),
)
def test_a_row_is_that_of_the_whole_matrix(clip, settings, data):
    block = wake(NonLocalBlock(4, **settings).double())
    t, h, w = clip.shape[2:]
    frame, row, column = (data.draw(st.integers(0, size - 1)) for size in (t, h, w))
    found = non_local_row(block, clip, (frame, row, column))

    window, stripes = settings.get("window", t), settings.get("stripes")
    tokens = stripes or h * w
    token = row * stripes // h if stripes else row * w + column
    matrix = block.attention(clip)[:, frame // window, frame % window * tokens + token]
    keys = found[0, 0].numel()
    for other in range(t):
        if other // window != frame // window:
            assert found[:, other].isnan().all()
            continue
        at = other % window * keys
        torch.testing.assert_close(found[:, other].flatten(1), matrix[:, at : at + keys])
    if settings.get("pairing") != "dot":
        torch.testing.assert_close(found.nansum(dim=(1, 2, 3)), torch.ones(len(clip), dtype=clip.dtype))
    assert found.shape[2:] == (
        (stripes, 1) if stripes else (max(h // 2, 1), max(w // 2, 1)) if block.subsample else (h, w)
    )


@given(
    clip=clips(channels=6, max_height=5, max_width=4), time=st.sampled_from([(3, 1), (5, 1), (3, 2)]), data=st.data()
)
def test_a_registered_row_is_that_of_the_whole_attention(clip, time, data):
    kernel, dilation = time
    module = AppearancePreserving(6, inner_channels=3, time_kernel=kernel, time_dilation=dilation)
    wake(module.double())
    steps = [dilation * tap for tap in range(-(kernel // 2), kernel // 2 + 1) if tap]
    t, h, w = clip.shape[2:]
    frame, row, column = (data.draw(st.integers(0, size - 1)) for size in (t, h, w))
    found = registered_row(module, clip, (frame, row, column))
    whole = module.attention(clip)[:, frame, :, row * w + column]
    for other in range(t):
        if other - frame in steps:
            torch.testing.assert_close(found[:, other].flatten(1), whole[:, steps.index(other - frame)])
        else:
            assert found[:, other].isnan().all()


def test_attention_follows_a_pixel_to_every_block_behind_merged_frames_too():
    network, clip = awake("ste_nvan_resnet8"), normal(1, 3, 6, 64, 32, dtype=torch.float32)
    attention = attention_of(network, clip, (5, 40, 31))
    seen = inputs_of(network, clip, NonLocalBlock)
    assert list(attention) == list(seen) and [x.shape[2] for x in seen.values()] == [6, 3]
    for (path, x), frame in zip(seen.items(), (5, 2), strict=True):
        h, w = x.shape[3:]
        expected = non_local_row(network.get_submodule(path), x, (frame, 40 * h // 64, w - 1))
        torch.testing.assert_close(attention[path], expected, equal_nan=True)
    assert list(attention_of(awake("ap3d_nl_resnet8"), clip, (0, 0, 0))) == [
        f"backbone.layer{stage}.0.{what}" for stage in (2, 3) for what in ("conv2.appearance", "after.0")
    ]


class Largest(TorchDispatchMode):
    """The most numbers that one tensor holds."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        answer = function(*args, **(kwargs or {}))
        for tensor in answer if isinstance(answer, tuple | list) else [answer]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return answer


def test_the_matrix_is_never_formed():
    block, clip = NonLocalBlock(2), normal(1, 2, 8, 16, 8, dtype=torch.float32)
    with Largest() as largest:
        non_local_row(block, clip, (3, 2, 1))
    projected = 3 * clip.numel() // 2  # query, key and value in one
    assert largest.numbers <= projected < (8 * 16 * 8) ** 2 / 100


def test_maps_come_to_the_size_of_the_frames():
    maps = torch.tensor([1.0, 2.0])[:, None, None].expand(2, 3, 2)
    assert at_frames(maps, (5, 9, 8))[:, 4, 4].tolist() == [1, 1, 1, 2, 2]
    stripes = torch.arange(3.0)[None, :, None]
    assert at_frames(stripes, (1, 7, 4))[0, :, 2].tolist() == [0, 0, 0, 1, 1, 2, 2]  # row r: r * 3 // 7
    spot = torch.zeros(1, 4, 4)
    spot[0, 1, 2] = 1
    large = at_frames(spot, (1, 16, 16))[0]
    assert large.argmax() // 16 in (5, 6) and large.argmax() % 16 in (9, 10)
    lost = torch.stack([torch.full((2, 2), torch.nan), torch.ones(2, 2)])
    assert at_frames(lost, (2, 4, 4)).isnan().flatten(1).float().mean(dim=1).tolist() == [1, 0]


def test_colours_are_laid_over_grey_frames():
    frames, shares = np.zeros((2, 2, 1, 3)), np.array([[[0.0], [1.0]], [[np.nan], [0.5]]])
    frames[:, :, :, 1] = 1  # green
    laid = lay_over(frames, shares, lambda values: np.stack([values, 0 * values, 1 - values], axis=-1), opacity=0.75)
    grey = 0.587
    np.testing.assert_allclose(laid[0, 0, 0], [grey / 4, grey / 4, grey / 4 + 0.75])
    np.testing.assert_allclose(laid[0, 1, 0], [grey / 4 + 0.75, grey / 4, grey / 4])
    np.testing.assert_allclose(laid[1, 0, 0], 3 * [grey / 2])
    np.testing.assert_allclose(laid[1, 1, 0], [grey / 4 + 0.375, grey / 4, grey / 4 + 0.375])
    with pytest.raises(ValueError, match=r"frames are \(2, 2, 1, 3\) and shares \(2, 1, 1\)"):
        lay_over(frames, shares[:, :1], lambda values: values)
