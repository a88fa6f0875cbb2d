import copy

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import assert_golden, clips, golden, normal, wake
from torch.utils._python_dispatch import TorchDispatchMode

from strfnet import NonLocalBlock, profile

NAMES = {"theta": "query", "phi": "key", "g": "value", "W": "out", "W.0": "out", "W.1": "norm"}
FULL = ("soft", "dot", "soft_sub", "dot_sub", "soft_nobn", "dot_nobn_sub")


@st.composite
def blocks(draw, *, channels=3, height=9):
    """A block of any options, awake, in evaluation."""
    stripes = draw(st.none() | st.integers(1, height))
    block = NonLocalBlock(
        channels,
        inner_channels=draw(st.integers(1, 3)),
        pairing=draw(st.sampled_from(["softmax", "dot"])),
        stripes=stripes,
        pool=draw(st.sampled_from(["mean", "max", "both"])),
        window=draw(st.none() | st.integers(1, 6)),
        subsample=stripes is None and draw(st.booleans()),
        norm=draw(st.booleans()),
    )
    return wake(block.double(), draw(st.integers(0, 99))).eval()


def linear(layer, vector):
    return layer.weight @ vector + layer.bias


def normed(block, vector):
    if block.norm is None:
        return vector
    norm = block.norm
    return (vector - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def stripe_of(row, h, stripes):
    return row * stripes // h


def tokens_of(block, frame):
    """The vectors of a frame (c, h, w), by the key they have: a pixel's (row, column) or a stripe's number."""
    _, h, w = frame.shape
    if block.stripes is None:
        return {(row, column): frame[:, row, column] for row in range(h) for column in range(w)}
    tokens = {}
    for stripe in range(block.stripes):
        pixels = [frame[:, r, c] for r in range(h) if stripe_of(r, h, block.stripes) == stripe for c in range(w)]
        mean, most = sum(pixels) / len(pixels), torch.stack(pixels).max(dim=0).values
        tokens[stripe] = {"mean": mean, "max": most, "both": torch.cat([mean, most])}[block.pool]
    return tokens


def pooled(projected, h, w):
    """The largest of 2 x 2 pixels of what was projected, odd ones left out; a single row or column stays."""
    rows, columns = min(h, 2), min(w, 2)
    cells = {}
    for row in range(h // rows):
        for column in range(w // columns):
            inside = [(row * rows + i, column * columns + j) for i in range(rows) for j in range(columns)]
            cells[row, column] = torch.stack([projected[pixel] for pixel in inside]).max(dim=0).values
    return cells


def windows_of(block, t):
    step = block.window or t
    return [range(start, min(start + step, t)) for start in range(0, t, step)]


def pairs_of(block, frames):
    """For the frames (c, h, w) of one window: weights of key on query, and the value of each key."""
    h, w = frames[0].shape[1:]
    queries, keys, values = [], [], []
    for frame in frames:
        tokens = tokens_of(block, frame)
        key = {place: linear(block.key, token) for place, token in tokens.items()}
        value = {place: linear(block.value, token) for place, token in tokens.items()}
        if block.subsample:
            key, value = pooled(key, h, w), pooled(value, h, w)
        queries += [linear(block.query, token) for token in tokens.values()]
        keys += key.values()
        values += value.values()
    weights = torch.stack([torch.stack([query @ key for key in keys]) for query in queries])
    if block.pairing == "dot":
        return weights / len(queries), values
    powers = (weights - weights.max()).exp()
    return powers / powers.sum(dim=1, keepdim=True), values


def restated(block, clip):
    answer = clip.clone()
    b, _, t, h, _ = clip.shape
    for i in range(b):
        for window in windows_of(block, t):
            frames = [clip[i, :, j] for j in window]
            weights, values = pairs_of(block, frames)
            places = [
                (j, place) for j, frame in zip(window, frames, strict=True) for place in tokens_of(block, frame)
            ]
            for (j, place), row in zip(places, weights, strict=True):
                gathered = sum(weight * value for weight, value in zip(row, values, strict=True))
                added = normed(block, linear(block.out, gathered))
                if block.stripes is None:
                    answer[i, :, j, place[0], place[1]] += added
                else:
                    rows = [r for r in range(h) if stripe_of(r, h, block.stripes) == place]
                    answer[i, :, j, rows] += added[:, None, None]
    return answer


def published(case, numbers, **options):
    """A block of 16 channels with the parameters of a published case."""
    block = NonLocalBlock(16, norm="nobn" not in case, subsample="sub" in case, **options).double()
    for key, value in numbers.items():
        name, _, kind = key.removeprefix(f"{case}.").rpartition(".")
        if key.startswith(f"{case}.") and name.removesuffix(".0") in NAMES:
            getattr(getattr(block, NAMES[name if name in NAMES else name.removesuffix(".0")]), kind).data = (
                value.flatten(1) if kind == "weight" and value.ndim > 1 else value.clone()
            )
    return block.eval()


def assert_gradients(block, x, cotangent, numbers, prefix):
    """Those of x and of every parameter; what is published is of their sum with ``cotangent``."""
    x.requires_grad_()
    (block(x) * cotangent).sum().backward()
    assert_golden(x.grad, numbers[f"{prefix}.grad_x"])
    compared = set()
    for key, value in numbers.items():
        if key.startswith(f"{prefix}.grad."):
            name, _, kind = key.removeprefix(f"{prefix}.grad.").rpartition(".")
            name = NAMES[name if name in NAMES else name.removesuffix(".0")]
            assert_golden(getattr(getattr(block, name), kind).grad.flatten(), value.flatten())
            compared.add(f"{name}.{kind}")
    assert compared == {name for name, _ in block.named_parameters()}


@pytest.mark.parametrize("case", FULL)
def test_pixels_agree_with_the_published_block(case):
    numbers = golden("nonlocal_full")
    block = published(case, numbers, pairing="dot" if case.startswith("dot") else "softmax")
    assert_golden(block(numbers["x"]), numbers[f"{case}.out"])
    if f"{case}.cotangent" in numbers:
        assert_gradients(block, numbers["x"], numbers[f"{case}.cotangent"], numbers, case)


def test_pixels_agree_with_the_published_block_in_training():
    numbers = golden("nonlocal_full")
    block = published("soft", numbers).train()
    assert_golden(block(numbers["x"]), numbers["soft_train.out"])
    assert_golden(block.norm.running_mean, numbers["soft_train.running_mean_after"])
    assert_golden(block.norm.running_var, numbers["soft_train.running_var_after"])


@pytest.mark.parametrize("case", ["sub", "full", "sub_nobn"])
def test_odd_sizes_agree_with_the_published_block(case):
    numbers = golden("inflation")
    block = published(f"nonlocal3d.{case}", numbers)
    assert_golden(block(numbers["nonlocal3d.x"]), numbers[f"nonlocal3d.{case}.out"])


@pytest.mark.parametrize("stripes", [4, 8, 16])
@pytest.mark.parametrize("pairing", ["softmax", "dot"])
@pytest.mark.parametrize("pool", ["mean", "max", "both"])
def test_stripes_agree_with_the_published_block(pool, pairing, stripes):
    numbers = golden("nonlocal_stripe")
    case = {"both": "meanmax"}.get(pool, pool)
    block = published(case, numbers, pairing=pairing, pool=pool, stripes=stripes)
    delta = numbers[f"{case}.{pairing.removesuffix('max')}.s{stripes}.delta"]
    added = block(numbers["x"]) - numbers["x"]
    assert_golden(added, delta.repeat_interleave(16 // stripes, dim=3)[..., None].expand_as(added))


def test_stripes_agree_with_the_published_gradients_and_in_training():
    numbers = golden("nonlocal_stripe")
    block = published("mean", numbers, stripes=16)
    assert_golden(block(numbers["x"]), numbers["mean.soft.s16.out"])
    assert_gradients(block, numbers["x"], numbers["mean.soft.s16.cotangent"], numbers, "mean.soft.s16")
    block = published("mean", numbers, stripes=16).train()
    assert_golden((block(numbers["x"]) - numbers["x"])[..., 3], numbers["train.mean.soft.s16.delta"])
    assert_golden(block.norm.running_mean, numbers["train.mean.soft.s16.running_mean_after"])
    assert_golden(block.norm.running_var, numbers["train.mean.soft.s16.running_var_after"])


@given(block=blocks(), clip=clips(channels=3, max_batch=2, max_frames=5, max_height=5, max_width=3))
@settings(max_examples=60)
def test_every_token_gathers_from_the_tokens_of_its_window(block, clip):
    assume(block.stripes is None or block.stripes <= clip.shape[3])
    torch.testing.assert_close(block(clip), restated(block, clip))


@given(block=blocks(), clip=clips(channels=3, max_batch=2, max_frames=5, max_height=4, max_width=3))
@settings(max_examples=50)
def test_attention_is_the_matrix_of_each_window_with_zeros_for_frames_that_do_not_exist(block, clip):
    assume(block.stripes is None or block.stripes <= clip.shape[3])
    b, _, t, h, w = clip.shape
    attention, windows = block.attention(clip), windows_of(block, t)
    queries = h * w if block.stripes is None else block.stripes
    keys = max(h // 2, 1) * max(w // 2, 1) if block.subsample else queries
    frames = block.window or t
    assert attention.shape == (b, len(windows), frames * queries, frames * keys)
    for number, window in enumerate(windows):
        matrix = attention[-1, number]
        expected = torch.zeros_like(matrix)
        weights, _ = pairs_of(block, [clip[-1, :, j] for j in window])
        expected[: len(weights), : weights.shape[1]] = weights
        torch.testing.assert_close(matrix, expected)
        if block.pairing == "softmax":
            exists = torch.arange(len(matrix)) < len(weights)
            torch.testing.assert_close(matrix.sum(dim=1), exists.double())


@given(block=blocks(channels=2, height=4), clip=clips(channels=2, max_frames=4, max_height=4), training=st.booleans())
@settings(max_examples=30)
def test_a_new_block_is_the_identity(block, clip, training):
    assume(block.stripes is None or block.stripes <= clip.shape[3])
    assume(clip[:, 0].numel() > clip.shape[4] * clip.shape[3])  # a norm in training needs two tokens
    options = {"stripes": block.stripes, "pool": block.pool, "window": block.window, "subsample": block.subsample}
    for norm in (True, False):
        new = NonLocalBlock(2, pairing=block.pairing, norm=norm, **options).double().train(training)
        assert torch.equal(new(clip), clip)
        wake(new)
        assert not torch.allclose(new(clip), clip)


@given(block=blocks(), seed=st.integers(0, 99), sick=st.integers(0, 2))
@settings(max_examples=30)
def test_clips_of_a_batch_do_not_see_each_other_and_a_nan_stays_in_its_own(block, seed, sick):
    clip = normal(3, 3, 4, 9, 3, seed=seed)
    whole = block(clip)
    for i in range(3):
        torch.testing.assert_close(block(clip[i : i + 1])[0], whole[i])
    torch.testing.assert_close(block(clip[[2, 0, 1]]), whole[[2, 0, 1]])
    clip[sick, 1, -1, 0, 0] = float("nan")
    answer = block(clip)
    others = [i for i in range(3) if i != sick]
    torch.testing.assert_close(answer[others], whole[others])
    assert answer[sick].isnan().any()


@pytest.mark.parametrize("stripes", [None, 2])
def test_the_norm_of_evaluation_is_that_of_training(stripes):
    block, clip = wake(NonLocalBlock(4, stripes=stripes, window=2).double()), normal(2, 4, 3, 4, 3)
    seen = []
    block.norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    trained = block.train()(clip)
    assert seen[0].shape == (2 * 3 * (stripes or 12), 4)  # a stripe counts once, whatever its pixels
    block.norm.running_mean = seen[0].mean(dim=0).detach()
    block.norm.running_var = seen[0].var(dim=0, correction=0).detach()
    torch.testing.assert_close(block.eval()(clip), trained)
    state = {key: value.clone() for key, value in block.state_dict().items()}
    fixed = block(clip)
    block.train().norm.eval()  # a frozen norm in a block that is trained
    torch.testing.assert_close(block(clip), fixed)
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())
    block.norm.running_mean += 1
    block.eval().norm.train()  # and one that learns its statistics in a block that is not
    torch.testing.assert_close(block(clip), trained)
    torch.testing.assert_close(block.norm.running_mean, state["norm.running_mean"] + 0.9)


def test_a_norm_that_keeps_no_statistics_uses_those_of_the_batch_in_evaluation_too():
    block, clip = wake(NonLocalBlock(2).double()), normal(2, 2, 2, 3, 3)
    block.norm.track_running_stats, block.norm.running_mean, block.norm.running_var = False, None, None
    trained = block.train()(clip)
    torch.testing.assert_close(block.eval()(clip), trained)


class Largest(TorchDispatchMode):
    """The size of the largest tensor that anything gave while this was on."""

    numbers = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        answer = operator(*args, **(kwargs or {}))
        for one in answer if isinstance(answer, tuple | list) else [answer]:
            if isinstance(one, torch.Tensor):
                self.numbers = max(self.numbers, one.numel())
        return answer


@pytest.mark.parametrize("pairing", ["softmax", "dot"])
@pytest.mark.parametrize("window", [None, 6])
def test_the_matrix_of_all_pairs_is_never_held(pairing, window):
    block, clip = NonLocalBlock(4, pairing=pairing, window=window), normal(1, 4, 8, 12, 4, dtype=torch.float32)
    with Largest() as largest:
        block(clip.requires_grad_()).sum().backward()
    assert largest.numbers < 4 * clip.numel() < (8 * 12 * 4) ** 2


def test_the_cost_of_dot_pairs_is_linear_in_the_number_of_tokens():
    b, n, c, d = 2, 3 * 4 * 5, 8, 3
    projections, products = 4 * n * c * d, 2 * n * d * d
    counted = profile(NonLocalBlock(c, inner_channels=d, pairing="dot"), (b, c, 3, 4, 5)).macs
    assert counted == b * (projections + products)


@pytest.mark.parametrize("pairing", ["softmax", "dot"])
def test_gradients_are_those_of_the_sum_written_token_by_token(pairing):
    block = wake(NonLocalBlock(4, pairing=pairing).double()).eval()
    clip, cotangent = normal(2, 4, 2, 3, 2).requires_grad_(), normal(2, 4, 2, 3, 2, seed=1)
    wanted = [clip, *block.parameters()]
    gradients = torch.autograd.grad(block(clip), wanted, cotangent)
    expected = torch.autograd.grad(restated(block, clip), wanted, cotangent)
    for gradient, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("stripes", [None, 2])
@pytest.mark.parametrize("pairing", ["softmax", "dot"])
def test_what_is_put_around_or_in_the_place_of_a_sub_module_acts(pairing, stripes):
    block, clip = wake(NonLocalBlock(4, pairing=pairing, stripes=stripes).double()).eval(), normal(2, 4, 3, 2, 2)
    plain = block(clip)
    for name in ("query", "key", "value", "out", "norm"):
        handle = block.get_submodule(name).register_forward_hook(lambda module, args, output: 2 * output)
        with torch.no_grad():
            hooked = block(clip)
        handle.remove()
        doubled = copy.deepcopy(block)
        with torch.no_grad():
            for parameter in doubled.get_submodule(name).parameters():
                parameter.mul_(2)
        expected = doubled(clip)
        if name == "out":  # the norm of evaluation is affine
            assert not torch.allclose(hooked, plain)
        torch.testing.assert_close(hooked, expected)


def test_options_that_make_no_sense_together_are_refused():
    with pytest.raises(ValueError, match="subsample pools pixels and stripes has none left"):
        NonLocalBlock(4, stripes=2, subsample=True)
    with pytest.raises(ValueError, match=r"5 stripes need as many rows at least, but x has a height of 4"):
        NonLocalBlock(4, stripes=5)(torch.zeros(1, 4, 2, 4, 3))
    assert NonLocalBlock(1).query.weight.shape == (1, 1) and NonLocalBlock(6).query.weight.shape == (3, 6)
    assert NonLocalBlock(6, stripes=2, pool="both").key.weight.shape == (3, 12)
