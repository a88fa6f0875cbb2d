import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import assert_golden, clips, golden, normal, wake
from torch import nn

from strfnet import AP3DA, AP3DB, AP3DC, AP3DI, AppearancePreserving

KINDS = {"AP3DI": AP3DI, "AP3DA": AP3DA, "AP3DB": AP3DB, "AP3DC": AP3DC}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def looks(module, clip, b, t, step):
    """How much each pixel of a frame looks like each of its neighbour, (h w, h w): rows of weights."""
    frame, neighbour = clip[b, :, t].flatten(1), neighbour_of(clip, b, t, step).flatten(1)
    weight = module.semantic.weight
    rows = []
    for p in range(frame.shape[1]):
        mine, cosines = weight @ frame[:, p], []
        for q in range(neighbour.shape[1]):
            other = weight @ neighbour[:, q]
            length = mine.norm() * other.norm()
            cosines.append(mine @ other / length if length > 0 else mine.new_zeros(()))
        powers = torch.stack(cosines).mul(module.temperature).exp()
        rows.append(powers / powers.sum())
    return torch.stack(rows)


def neighbour_of(clip, b, t, step):
    inside = 0 <= t + step < clip.shape[2]
    return clip[b, :, t + step] if inside else torch.zeros_like(clip[b, :, t])


def registered(module, clip, b, t, step):
    """The neighbour of a frame, pixel by pixel what looks like the frame's own, dimmed by the gate."""
    frame, neighbour = clip[b, :, t], neighbour_of(clip, b, t, step)
    pixels = []
    for p, weights in enumerate(looks(module, clip, b, t, step)):
        seen = sum(weight * pixel for weight, pixel in zip(weights, neighbour.flatten(1).T, strict=True))
        if module.gate is not None:
            mine, its = frame.flatten(1)[:, p], seen
            if module.detach_gate:
                mine, its = mine.detach(), its.detach()
            both = (module.frame_map.weight @ mine) * (module.neighbour_map.weight @ its)
            seen = seen / (1 + (-(module.gate.weight[0] @ both)).exp())
        pixels.append(seen)
    return torch.stack(pixels, dim=1).view_as(frame)


def triples(module, clip):
    """Per frame the earlier ones registered, itself, the later ones registered; (b, c, t, taps, h, w)."""
    b, _, t = clip.shape[:3]
    half = module.time_kernel // 2
    steps = [module.time_dilation * tap for tap in range(-half, half + 1)]
    rows = [
        [
            torch.stack([registered(module, clip, i, j, n) if n else clip[i, :, j] for n in steps], dim=1)
            for j in range(t)
        ]
        for i in range(b)
    ]
    return torch.stack([torch.stack(row, dim=1) for row in rows])


@pytest.mark.parametrize("case", ["att", "noatt", "temp1"])
@pytest.mark.parametrize(("vectors", "frames"), [("inflation", 3), ("inflation_time", 5)])
def test_registration_agrees_with_the_published_one(case, vectors, frames):
    numbers = golden(vectors)
    options = {"temperature": 1 if case == "temp1" else 4, "gate": case != "noatt", "time_kernel": frames}
    module = AppearancePreserving(32, **options).double()
    names = {"semantic": "semantic_mapping", "frame_map": "x_mapping", "neighbour_map": "n_mapping"}
    names["gate"] = "contrastive_att_net.0"
    for name, child in module.named_children():
        child.weight.data = numbers[f"apm.{case}.{names[name]}.weight"].flatten(1)
    assert len(list(module.children())) == (1 if case == "noatt" else 4)
    assert_golden(module(numbers["apm.x"]), numbers[f"apm.{case}.out"])


@given(
    clip=clips(channels=3, max_batch=2, max_frames=3, max_height=3, max_width=2),
    temperature=st.sampled_from([0.5, 4.0, 9.0]),
    gate=st.booleans(),
)
@settings(max_examples=20)
def test_every_pixel_finds_its_like_in_both_neighbours_and_zeros_beyond_the_ends(clip, temperature, gate):
    module = AppearancePreserving(3, inner_channels=2, temperature=temperature, gate=gate).double()
    wake(module)
    answer = module(clip).unflatten(2, (-1, 3))
    torch.testing.assert_close(answer, triples(module, clip))
    assert torch.equal(answer[:, :, :, 1], clip)
    assert not answer[:, :, 0, 0].any() and not answer[:, :, -1, 2].any()


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (5, 1), (3, 2), (5, 2)])
def test_further_neighbours_are_registered_in_their_order(kernel, dilation):
    module = wake(AppearancePreserving(3, inner_channels=2, time_kernel=kernel, time_dilation=dilation).double())
    for t in (1, 4):
        clip = normal(1, 3, t, 2, 2)
        torch.testing.assert_close(module(clip).unflatten(2, (-1, kernel)), triples(module, clip))
        assert module.attention(clip).shape == (1, t, kernel - 1, 4, 4) if kernel > 1 else True


@given(clip=clips(channels=3, max_batch=2, max_frames=3, max_height=2, max_width=2))
@settings(max_examples=15)
def test_attention_shows_the_weights_of_forward_and_its_rows_sum_to_one(clip):
    module = wake(AppearancePreserving(3, inner_channels=2, gate=False).double())
    b, _, t, h, w = clip.shape
    attention = module.attention(clip)
    assert attention.shape == (b, t, 2, h * w, h * w)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones_like(attention[..., 0]))
    for side, step in enumerate((-1, 1)):
        for i, j in ((0, 0), (b - 1, t - 1)):
            torch.testing.assert_close(attention[i, j, side], looks(module, clip, i, j, step))
            gathered = neighbour_of(clip, i, j, step).flatten(1) @ attention[i, j, side].T
            torch.testing.assert_close(module(clip)[i, :, 3 * j + 1 + step].flatten(1), gathered)


@pytest.mark.parametrize("detach_gate", [True, False, None])
def test_gradients_stop_before_the_gate_by_default(detach_gate):
    options = {} if detach_gate is None else {"detach_gate": detach_gate}
    module = wake(AppearancePreserving(3, inner_channels=2, **options).double())
    assert module.detach_gate is (detach_gate is not False)
    clip, cotangent = normal(1, 3, 3, 2, 2), normal(1, 3, 9, 2, 2, seed=1)
    leaves = [clip.requires_grad_(), *module.parameters()]
    grads = torch.autograd.grad((module(clip) * cotangent).sum(), leaves)
    expected = torch.autograd.grad((triples(module, clip).flatten(2, 3) * cotangent).sum(), leaves)
    for grad, wanted in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, wanted)
        assert grad.abs().max() > 1e-3


def test_pixels_without_any_feature_give_numbers_in_half_precision_too():
    clip = torch.zeros(1, 4, 2, 2, 2, dtype=torch.float16)
    clip[:, :, 1, 0] = 1
    module = AppearancePreserving(4).half()
    assert module(clip).isfinite().all() and module.attention(clip).isfinite().all()


def test_a_narrow_clip_is_mapped_to_one_feature_at_least():
    assert AppearancePreserving(8).semantic.weight.shape == (1, 8)
    assert AppearancePreserving(64).semantic.weight.shape == (4, 64)
    with pytest.raises(ValueError, match="inner_channels must be at least 1, got 0"):
        AppearancePreserving(8, inner_channels=0)


@st.composite
def convolutions(draw):
    """A 2-D convolution that reads a middle pixel, so that every kind takes it."""
    kernel, dilation = draw(st.sampled_from([(1, 1), (3, 1), (3, 3)])), draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 2]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return nn.Conv2d(
        2 * groups,
        2 * groups * draw(st.integers(1, 2)),
        kernel,
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        padding=tuple(dilation * (k - 1) // 2 for k in kernel),
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "replicate"])),
        dtype=torch.float64,
    )


def conv2d(conv, clip, weight, bias=None):
    """``conv`` with another kernel, on every frame."""
    rearranged = clip.transpose(1, 2).flatten(0, 1)
    return conv._conv_forward(rearranged, weight, bias).unflatten(0, (len(clip), -1)).transpose(1, 2)


def mixed(layer, taps, rows=1, columns=1):
    """The taps over the frames registered to each frame, group by group."""
    answer = []
    weights = layer.temporal.weight.chunk(layer.groups)
    for weight, part in zip(weights, taps.chunk(layer.groups, dim=1), strict=True):
        answer.append(torch.einsum("oik,bitkhw->bothw", weight[..., 0], part[..., ::rows, ::columns]))
    return torch.cat(answer, dim=1)


@every_kind
@given(
    conv=convolutions(),
    t=st.integers(1, 3),
    gate=st.booleans(),
    temperature=st.sampled_from([1.0, 4.0]),
    time=st.sampled_from([(3, 1, 1), (5, 1, 1), (3, 2, 1), (3, 2, 2)]),
)
@settings(max_examples=10, deadline=None)
def test_new_it_is_the_convolution_per_frame_and_awake_the_sum_over_triples(kind, conv, t, gate, temperature, time):
    options = dict(zip(("time_kernel", "time_stride", "time_dilation"), time, strict=True))
    layer = kind(conv, gate=gate, temperature=temperature, **options)
    clip, every = normal(1, conv.in_channels, t, 3, 3, seed=t), slice(None, None, layer.time_stride)
    torch.testing.assert_close(layer(clip), conv2d(conv, clip, conv.weight, conv.bias)[:, :, every])
    wake(layer)
    y = None if kind is AP3DI else conv2d(conv, clip, layer.weight, layer.bias)
    seen = clip if kind in (AP3DI, AP3DB) else y
    taps = triples(layer.appearance, seen)
    if kind is AP3DI:
        slices = [conv2d(conv, taps[:, :, :, tap], layer.weight[:, :, tap]) for tap in range(layer.time_kernel)]
        expected = sum(slices) + (0 if conv.bias is None else layer.bias[:, None, None, None])
    else:
        rows, columns = conv.stride if kind is AP3DB else (1, 1)
        expected = mixed(layer, taps, rows, columns) + (0 if kind is AP3DA else y)
    torch.testing.assert_close(layer(clip), expected[:, :, every])


@every_kind
def test_the_appearance_module_has_the_dtype_and_mode_of_the_convolution_and_goes_with_the_image_one(kind):
    conv = nn.Conv2d(4, 4, 3, padding=1).to(torch.bfloat16).eval()
    layer = kind(conv)
    assert {p.dtype for p in layer.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in layer.modules())
    assert layer(normal(1, 4, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    wake(layer.appearance)
    back = layer.image_conv()
    assert type(back) is nn.Conv2d and torch.equal(back.weight, conv.weight) and torch.equal(back.bias, conv.bias)
    assert list(back.state_dict()) == ["weight", "bias"]


@every_kind
def test_options_reach_the_appearance_module(kind):
    layer = kind(nn.Conv2d(4, 4, 1), temperature=2.5, gate=False)
    assert layer.appearance.temperature == 2.5 and layer.appearance.gate is None
    assert kind(nn.Conv2d(4, 4, 1)).appearance.temperature == 4.0 and kind(nn.Conv2d(4, 4, 1)).appearance.gate
