import pytest
import torch
from hypothesis import given
from strategies import clips
from torch import nn

from strfnet.layers.clip import channels_last, check_clip, flatten_time, in_channels_last, unflatten_time


@given(clip=clips(channels=3))
def test_flattening_puts_frame_after_frame_and_unflattening_reverses_it(clip):
    frames = flatten_time(clip)
    b, t = clip.shape[0], clip.shape[2]
    for i in range(b):
        for j in range(t):
            assert torch.equal(frames[i * t + j], clip[i, :, j])
    assert torch.equal(unflatten_time(frames, t), clip)


def test_a_channels_last_clip_is_flattened_without_a_copy():
    clip = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    frames = flatten_time(clip)
    assert frames.data_ptr() == clip.data_ptr()
    assert frames.is_contiguous(memory_format=torch.channels_last)
    assert unflatten_time(frames, 4).data_ptr() == clip.data_ptr()


@pytest.mark.parametrize(
    ("clip", "error", "words"),
    [
        (torch.zeros(2, 3, 4, 5), ValueError, ["x must be a clip (b, c, t, h, w)", "4 axes"]),
        (torch.zeros(2, 4, 3, 5, 5), ValueError, ["3 channels", "(2, 4, 3, 5, 5)", "looks like (b, t, c, h, w)"]),
        (torch.zeros(2, 4, 5, 5, 3), ValueError, ["3 channels", "looks like (b, t, h, w, c)"]),
        (torch.zeros(2, 4, 5, 5, 5), ValueError, ["3 channels", "(2, 4, 5, 5, 5)"]),
        (torch.zeros(2, 3, 0, 5, 5), ValueError, ["empty along t", "(2, 3, 0, 5, 5)"]),
        (torch.zeros(0, 3, 4, 5, 5), ValueError, ["empty along b"]),
        (torch.zeros(2, 3, 4, 5, 5, dtype=torch.uint8), TypeError, ["torch.uint8", "convert"]),
        (torch.zeros(2, 3, 4, 5, 5, dtype=torch.float64), ValueError, ["float64", "float32"]),
        (torch.zeros(2, 3, 4, 5, 5, device="meta"), ValueError, ["meta", "cpu"]),
        ([[0.0]], TypeError, ["x must be a tensor", "list"]),
    ],
)
def test_what_is_no_clip_is_refused_by_name_value_and_remedy(clip, error, words):
    with pytest.raises(error) as caught:
        check_clip(clip, 3, weight=torch.zeros(1))
    for word in words:
        assert word in str(caught.value)


def test_kernels_are_put_into_channels_last_order_with_their_values():
    network = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv3d(8, 8, 3), nn.Linear(3, 3))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert channels_last(network) is network
    assert network[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert network[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_clip_is_put_into_channels_last_order_with_its_values():
    clip = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(in_channels_last(clip), clip)
    assert in_channels_last(clip).is_contiguous(memory_format=torch.channels_last_3d)
