"""Embeddings frame by frame against the network on the clip so far."""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import normal, wake
from sweeps import sweep

import strfnet
from strfnet.inference import exact
from strfnet.inference.stream import Stream
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork
from strfnet.models.registry import ARCHITECTURES

EXACT = ["c2d_{}", "i3d_{}", "p3da_{}", "p3db_{}", "p3dc_{}", "ap3d_{}", "{}_fpl", "{}_maxfpl", "ste_nvan_{}"]
SIZE = (64, 16)  # the least that eight stripes take


def network(name, dtype=torch.float64):
    return wake(strfnet.create_model(name, num_classes=None).to(dtype)).eval()


def strf_network(**arguments):
    image = network("c2d_resnet8").backbone
    backbone = strfnet.inflate(strfnet.deflate(image), unit=partial(strfnet.STRF, reduction=4, **arguments))
    return wake(ReIDNetwork(backbone, Head(64, None, pooling="max_mean").double())).eval()


NETWORKS = {form: network(form.format("resnet8")) for form in EXACT}
NETWORKS["strf, mask joint"] = strf_network(mask="joint", window=5)
NETWORKS["strf, mask time"] = strf_network(mask="time", units=["dynamic", "fine"])
NETWORKS["strf, space only"] = strf_network(mask=None, units=["coarse"])


def clips(frames, b=1, seed=0, dtype=torch.float64):
    return normal(b, 3, frames, *SIZE, seed=seed, dtype=dtype)


def batch(net, clip):
    with torch.no_grad():
        return net(clip).embedding


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    groups=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=7),
    b=st.integers(1, 2),
    longest=st.sampled_from([1, 3, 16]),
)
def test_at_any_moment_the_embedding_is_that_of_the_clip_so_far(name, groups, b, longest):
    net = NETWORKS[name]
    clip = clips(sum(k for k, _ in groups), b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "LONGEST_PASS", longest)
        stream, start = Stream(net), 0
        for k, asked in [*groups[:-1], (groups[-1][0], True)]:
            stream.push(clip[:, :, start : start + k])
            start += k
            if asked:
                torch.testing.assert_close(stream.embedding(), batch(net, clip[:, :, :start]), rtol=1e-9, atol=1e-9)
    assert len(stream) == start


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_length_from_one_frame_on(name):
    clip, stream = clips(17), Stream(NETWORKS[name])
    for frames in range(1, 18):
        stream.push(clip[0, :, frames - 1 : frames])
        expected = batch(NETWORKS[name], clip[:, :, :frames])
        torch.testing.assert_close(stream.embedding(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["p3dc_resnet50", "p3db_resnet18"])
def test_deeper_networks_in_single_precision(name):
    net, clip = network(name, torch.float32), clips(9, dtype=torch.float32)
    stream = Stream(net)
    for start, end in ((0, 6), (6, 7), (7, 9)):
        stream.push(clip[:, :, start:end])
        expected = batch(net, clip[:, :, :end])
        assert (stream.embedding() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_one_more_frame_is_computed_once_where_nothing_mixed_yet_and_a_few_times_later():
    net = network("p3dc_resnet8")
    seen = {}
    for path in ("conv1", "layer1.0.conv2", "layer2.0.conv1", "layer2.0.bn2", "layer2.0.conv2", "layer3.0.bn2"):
        module = net.get_submodule(f"backbone.{path}")
        module.register_forward_hook(lambda _module, args, _answer, path=path: seen.update({path: len(args[0])}))
    stream = Stream(net)
    stream.push(clips(9))
    stream.embedding()
    stream.push(clips(1))
    stream.embedding()
    assert seen == {"conv1": 1, "layer1.0.conv2": 1, "layer2.0.conv1": 1, "layer2.0.bn2": 2, "layer3.0.bn2": 3}
    seen.clear()
    stream.embedding()
    assert not seen  # the answer is known


def held(stream):
    state = stream._form.state
    tensors = [*state.waiting, *state.kept.values(), state.final]
    assert all(tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size() for tensor in tensors)
    return sum(tensor.numel() for tensor in tensors)


@pytest.mark.parametrize("asked", [True, False])
def test_memory_does_not_grow(asked):
    stream, frame = Stream(NETWORKS["p3dc_{}"]), clips(1)
    held_after = {}
    for frames in range(1, 100):
        stream.push(frame)
        if asked:
            stream.embedding()
        held_after[frames] = held(stream) if frames > 40 else 0
    assert held_after[51] == held_after[83] == held_after[99]  # waiting frames come in sixteens


def test_the_network_stays_as_it_is_and_lends_its_weights():
    net = strfnet.create_model("p3dc_resnet8", num_classes=3).train()
    net.backbone.layer2.eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    modules = [(path, type(module), module.training) for path, module in net.named_modules()]
    stream = Stream(net)
    stream.push(clips(5, dtype=torch.float32))
    stream.embedding()
    assert [(path, type(module), module.training) for path, module in net.named_modules()] == modules
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    own = {parameter.data_ptr() for parameter in net.parameters()}
    assert {parameter.data_ptr() for parameter in stream._form.exact.backbone.parameters()} <= own


def test_frames_and_answers_are_copies():
    stream, clip = Stream(NETWORKS["i3d_{}"]), clips(3)
    buffer = clip.clone()
    stream.push(buffer)
    buffer.zero_()
    first = stream.embedding()
    expected = batch(NETWORKS["i3d_{}"], clip)
    torch.testing.assert_close(first, expected)
    first.zero_()
    torch.testing.assert_close(stream.embedding(), expected)
    assert not first.is_inference()


@pytest.mark.parametrize("frames", [None, 4])
def test_frames_that_do_not_fit_are_refused_and_nothing_is_lost(frames):
    net, clip = NETWORKS["p3dc_{}"], clips(6)
    stream, untouched = Stream(net, frames=frames), Stream(net, frames=frames)
    for each in (stream, untouched):
        each.push(clip[:, :, :5])
    wrong = {
        "must have 3 channels": clip[:, :2],
        "frames is torch.float32 and the layer torch.float64": clip.float(),
        "frames is on meta": clip.to("meta"),
        "1 tracklets in 64 x 8 pixels, those before of 1 in 64 x 16": clip[..., :8],
        "frames are of 2 tracklets": clip.repeat(2, 1, 1, 1, 1),
        "got 3 axes": clip[0, :, 0],
        "empty along t": clip[:, :, :0],
    }
    for message, other in wrong.items():
        with pytest.raises(ValueError, match=message):
            stream.push(other)
    with pytest.raises(TypeError, match="floating-point"):
        stream.push(clip.to(torch.uint8))
    with pytest.raises(TypeError, match="must be a tensor"):
        stream.push([1.0])
    assert len(stream) == 5
    for each in (stream, untouched):
        each.push(clip[:, :, 5:])
    assert torch.equal(stream.embedding(), untouched.embedding())


def test_a_pass_that_fails_loses_nothing():
    net, failing = network("p3dc_resnet8"), []

    def fail(*_):
        if failing:
            raise RuntimeError("out of memory")

    net.backbone.layer3.register_forward_hook(fail)
    stream, clip = Stream(net), clips(40)
    stream.push(clip[:, :, :10])
    stream.embedding()
    failing.append(True)
    for call in (lambda: stream.push(clip[:, :, 10:]), lambda: stream.push(clip[:, :, 10:12]) or stream.embedding()):
        with pytest.raises(RuntimeError):
            call()
    assert len(stream) == 12
    failing.clear()
    stream.push(clip[:, :, 12:])
    torch.testing.assert_close(stream.embedding(), batch(net, clip), rtol=1e-9, atol=1e-9)


def test_another_tracklet_may_have_another_size():
    net = NETWORKS["ste_nvan_{}"]
    stream = Stream(net)
    with pytest.raises(ValueError, match="no frames so far"):
        stream.embedding()
    stream.push(clips(5))
    stream.embedding()
    stream.reset()
    assert len(stream) == 0
    with pytest.raises(ValueError, match="no frames so far"):
        stream.embedding()
    other = normal(2, 3, 3, 72, 24)
    stream.push(other)
    torch.testing.assert_close(stream.embedding(), batch(net, other))


@pytest.mark.parametrize("name", ["nvan_resnet8", "p3dc_resnet8"])
def test_by_a_clip_the_embedding_is_that_of_the_first_frame_of_each_chunk(name):
    net, calls = network(name), []
    net.backbone.register_forward_hook(lambda *_: calls.append(True))
    clip, stream = clips(13, b=2), Stream(net, frames=4)
    for frames in range(1, 14):
        stream.push(clip[:, :, frames - 1 : frames])
        chunk = (frames + 3) // 4
        chosen = [min(at, frames - 1) for at in (0, chunk, 2 * chunk, 3 * chunk)]
        torch.testing.assert_close(stream.embedding(), batch(net, clip[:, :, chosen]))
    calls.clear()
    stream.push(clip[:, :, :1])  # 14, 15 and 16 frames: the last of 0 4 8 12 is there already
    stream.embedding()
    assert not calls
    with pytest.raises(ValueError, match=r"frames must be at least 1, or None .* got 0"):
        Stream(net, frames=0)


def test_only_a_whole_network_can_be_streamed():
    with pytest.raises(TypeError, match="must be a strfnet ReIDNetwork or a deployed one, got InflatedSequential"):
        Stream(NETWORKS["c2d_{}"].backbone)


PAGE = (Path(__file__).parents[1] / "docs" / "deployment.md").read_text()
TABLE = PAGE.partition("### Which networks")[2].partition("`Stream(")[0]


@pytest.mark.parametrize("form", sweep(ARCHITECTURES, quick=10))
def test_the_page_says_which_networks_are_exact(form):
    rows = [line.split("|")[1:-1] for line in TABLE.splitlines() if line.startswith("| `")]
    listed = {name: cells[1].strip() for cells in rows for name in re.findall(r"`(\S+?)`", cells[0])}
    assert set(listed) == {each.format("*") for each in ARCHITECTURES}
    how = listed[form.format("*")]
    net = strfnet.create_model(form.format("resnet18"), num_classes=None)
    if form in EXACT:
        Stream(net)
        assert how == "exactly"
    else:
        with pytest.raises(ValueError, match=r"exactly; Stream\(network, frames=8\)"):
            Stream(net)
        assert how == "by a clip"
