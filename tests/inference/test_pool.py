"""Embeddings of many live tracks against the network on the frames so far of each."""

from dataclasses import is_dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import wake

import strfnet
from strfnet.data.frames import read_clip
from strfnet.data.sampling import evaluation_sampler
from strfnet.data.tracklet import Tracklet
from strfnet.inference import StreamPool, embed, exact
from strfnet.layers.head import Head
from strfnet.models.network import ReIDNetwork

SIZE = (32, 16)


def network(name, dtype=torch.float64):
    return wake(strfnet.create_model(name, num_classes=None).to(dtype)).eval()


def strf_joint():
    image = strfnet.deflate(network("c2d_resnet8").backbone)
    backbone = strfnet.inflate(image, unit=partial(strfnet.STRF, reduction=4, mask="joint"))
    return wake(ReIDNetwork(backbone, Head(64, None, pooling="max_mean").double())).eval()


EXACT = {name: network(name) for name in ("c2d_resnet8", "p3dc_resnet8", "resnet8_maxfpl")}
EXACT["strf, mask joint"] = strf_joint()
PAIRS = wake(strfnet.create_model("ste_nvan_resnet8", num_classes=None).double()).eval()
TALL = (64, 16)  # the least that eight stripes take
BY_A_CLIP = {"frames": 4}
BY_ALL_CLIPS = {"frames": 4, "sampling": "all_frames"}
FORMS = [{}, BY_A_CLIP, BY_ALL_CLIPS]


def frames(count, seed=0):
    """RGB frames of a track, each of another size."""
    random = np.random.default_rng(seed)
    sides = random.integers(9, 40, (count, 2))
    return [random.integers(0, 256, (*side, 3), dtype=np.uint8) for side in sides]


def expected(net, images, size, clips=None):
    """The embedding by the definition: the mean over clips, weighted by their frames; None: one clip of all."""
    chosen = [list(range(len(images)))] if clips is None else clips(len(images))
    with torch.no_grad():
        vectors = [
            len(indices) * net(read_clip(images, indices, size)[None].double()).embedding for indices in chosen
        ]
    return (sum(vectors) / sum(map(len, chosen)))[0].float()


def definition(options):
    if "frames" not in options:
        return None
    return evaluation_sampler(options.get("sampling", "restricted_first"), frames=options["frames"])


def check(pool, net, pushed, size=SIZE, clips=None):
    wanted = [expected(net, images, size, clips) for images in pushed.values()]
    torch.testing.assert_close(pool.embeddings(pushed), torch.stack(wanted), rtol=1e-5, atol=1e-6)


STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 7), st.booleans()), min_size=1, max_size=7)


def run(net, options, steps, longest_pass, batch, size=SIZE):
    clips, sources = definition(options), {track: frames(60, seed=track) for track in range(4)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "LONGEST_PASS", longest_pass)
        pool, pushed = StreamPool(net, colors="rgb", size=size, batch=batch, **options), {}
        for track, more, requested in [*steps[:-1], (*steps[-1][:2], True)]:
            for _ in range(more):
                images = pushed.setdefault(track, [])
                images.append(sources[track][len(images)])
                pool.push(track, images[-1])
            if requested:
                check(pool, net, pushed, size, clips)
    assert pool.tracks == {track: len(images) for track, images in pushed.items()}


@settings(max_examples=20)
@given(name=st.sampled_from(sorted(EXACT)), steps=STEPS, longest=st.sampled_from([2, 16]), batch=st.integers(2, 4))
def test_at_any_moment_each_embedding_is_that_of_the_frames_so_far(name, steps, longest, batch):
    run(EXACT[name], {}, steps, longest, batch)


@settings(max_examples=8)
@given(steps=STEPS, longest=st.sampled_from([4, 16]))
def test_tracks_at_other_places_within_a_pair_of_frames(steps, longest):
    run(PAIRS, {}, steps, longest, 4, TALL)


@settings(max_examples=12)
@given(options=st.sampled_from([BY_A_CLIP, BY_ALL_CLIPS]), steps=STEPS, batch=st.integers(2, 4))
def test_at_any_moment_each_embedding_is_that_of_the_clips_so_far(options, steps, batch):
    run(EXACT["p3dc_resnet8"], options, steps, 16, batch)


@pytest.mark.parametrize("options", FORMS, ids=str)
@pytest.mark.parametrize("colors", ["rgb", "bgr"])
def test_embeddings_equal_those_of_embed(options, colors):
    net = network("p3dc_resnet8" if not options else "strf_c2d_resnet8", torch.float32)
    pool = StreamPool(net, colors=colors, size=SIZE, interpolation="bicubic", **options)
    tracks = {"a": frames(11), "b": frames(3, seed=1), "c": frames(6, seed=2)}
    for track, images in tracks.items():
        for image in images:
            pool.push(track, image if colors == "rgb" else image[..., ::-1])
    tracklets = [Tracklet(tuple(images), track) for track, images in tracks.items()]
    clips = definition(options) or evaluation_sampler("all_frames", frames=99)
    wanted = embed(net, tracklets, clips=clips, size=SIZE, interpolation="bicubic")
    given_back = pool.embeddings()
    assert given_back.dtype == torch.float32 and given_back.device.type == "cpu"
    assert (given_back - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert torch.equal(pool.embeddings(["c", "a", "c"]), given_back[[2, 0, 2]])


def fill(pool, lengths):
    for track, length in lengths.items():
        for image in frames(length, seed=track):
            pool.push(track, image)


@pytest.mark.parametrize(
    ("options", "lengths", "batches"),
    [
        ({}, {1: 9, 2: 14, 3: 12}, 1),  # past the padding at the start
        ({}, {1: 1, 2: 9, 3: 12}, 2),
        (BY_A_CLIP, {1: 1, 2: 3, 3: 9}, 1),
        (BY_ALL_CLIPS, {1: 1, 2: 3, 3: 9}, 1),  # clips of 1, 3 and 1 frames
        ({"batch": 2}, {1: 9, 2: 14, 3: 12}, 2),
    ],
)
def test_tracks_of_any_lengths_share_a_batch(options, lengths, batches):
    net, calls = network("p3dc_resnet8"), []
    net.backbone.layer3.register_forward_hook(lambda *_: calls.append(True))
    pool = StreamPool(net, colors="rgb", size=SIZE, **options)
    pushed = {track: frames(length, seed=track) for track, length in lengths.items()}
    for track, images in pushed.items():
        for image in images[:-1]:
            pool.push(track, image)
    if len(pool):
        pool.embeddings()
    for track, images in pushed.items():
        pool.push(track, images[-1])
    calls.clear()
    pool.embeddings()
    assert len(calls) == batches
    pool.embeddings()
    assert len(calls) == batches  # no new frames
    check(pool, net, pushed, clips=definition(options))


def test_full_tracks_share_a_pass_and_the_others_still_have_an_embedding():
    net, calls = network("p3dc_resnet8"), []
    net.backbone.layer3.register_forward_hook(lambda *_: calls.append(True))
    for options in ({}, {"frames": 16, "sampling": "all_frames"}):
        pool, pushed = StreamPool(net, colors="rgb", size=SIZE, **options), {}
        for track in (1, 2):
            pushed[track] = frames(16, seed=track)
            fill(pool, {track: 16})
        calls.clear()
        pushed[1].append(frames(1, seed=9)[0])
        pool.push(1, pushed[1][-1])
        assert len(calls) == 1
        check(pool, net, pushed, clips=definition(options))


def test_an_embedding_is_computed_again_after_a_whole_clip():
    net, images = EXACT["p3dc_resnet8"], frames(6)
    pool = StreamPool(net, colors="rgb", size=SIZE, **BY_ALL_CLIPS)
    for count, image in enumerate(images, 1):
        pool.push(1, image)
        if count in (2, 6):
            check(pool, net, {1: images[:count]}, clips=definition(BY_ALL_CLIPS))


def held(value):
    """The bytes of the tensors and frames in a pool's records, none of which is a view that holds more."""
    if isinstance(value, torch.Tensor):
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()
        return value.untyped_storage().nbytes()
    if isinstance(value, np.ndarray):
        return value.nbytes if value.base is None else value.base.nbytes
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = tuple(value.values())
    return sum(map(held, value)) if isinstance(value, tuple) else 0


@pytest.mark.parametrize("options", [{}, {**BY_A_CLIP, "longest": 8}, BY_ALL_CLIPS], ids=str)
def test_memory_does_not_grow_and_dropped_tracks_are_freed(options):
    pool, image = StreamPool(EXACT["p3dc_resnet8"], colors="rgb", size=SIZE, **options), frames(1)[0]
    found = []
    for number in range(129):
        for track in (1, 2, 3):
            pool.push(track, image)
        if number in (32, 64, 128):
            pool.embeddings()
            found.append(held(pool._tracks))
    assert found[0] == found[1] == found[2] > 0
    pool.drop(2)
    assert held(pool._tracks) == found[2] * 2 / 3 and list(pool.tracks) == [1, 3]
    with pytest.raises(ValueError, match="track 2 is not in the pool of 2: it never began, or was dropped"):
        pool.embeddings([2])
    pool.push(2, image)
    assert pool.tracks[2] == 1


def test_a_longer_track_is_thinned():
    net, images = EXACT["p3dc_resnet8"], frames(23)
    pool = StreamPool(net, colors="rgb", size=SIZE, frames=3, longest=5)
    for count, image in enumerate(images, 1):
        pool.push("a", image)
        step = next(step for step in (1, 2, 4, 8) if -(-count // step) <= 5)
        check(pool, net, {"a": images[:count:step]}, clips=evaluation_sampler("restricted_first", frames=3))


def test_a_deployed_network_gives_the_same_embeddings():
    net = network("p3dc_resnet8", torch.float32)
    deployed = strfnet.optimize(net, (2, 3, 4, *SIZE), compiled=False)
    for options in FORMS:
        plain, fast = (StreamPool(each, colors="rgb", size=SIZE, **options) for each in (net, deployed))
        for pool in (plain, fast):
            fill(pool, {1: 3, 2: 7})
        torch.testing.assert_close(fast.embeddings(), plain.embeddings(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_a_failure_loses_nothing(options):
    net, failing = network("p3dc_resnet8"), []

    def fail(*_):
        if failing:
            raise RuntimeError("out of memory")

    net.backbone.layer3.register_forward_hook(fail)
    pool, images = StreamPool(net, colors="rgb", size=SIZE, **options), frames(40)
    for image in images[:16]:
        pool.push(1, image)
    failing.append(True)
    with pytest.raises(RuntimeError):
        pool.embeddings()
        pool.push(1, images[16])
    failing.clear()
    for image in images[16:]:
        pool.push(1, image)
    check(pool, net, {1: images}, clips=definition(options))


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_what_does_not_fit_is_refused_and_nothing_changes(options):
    net = EXACT["p3dc_resnet8"]
    pool, image = StreamPool(net, colors="rgb", size=SIZE, max_tracks=2, **options), frames(1)[0]
    pool.push(np.int64(7), image)
    pool.push(8, image)
    before = pool.embeddings()
    for error, message, track, frame in [
        (TypeError, r"track is '7' \(str\), but those of this pool are int, such as 7", "7", image),
        (TypeError, r"track is 7\.0 \(float\), wanted a whole number or a string", 7.0, image),
        (TypeError, "track is True", True, image),
        (TypeError, "frame of track 7 is an array of float32, wanted a NumPy array of uint8", 7, image.astype("f4")),
        (TypeError, "frame of track 7 is Tensor", 7, torch.from_numpy(image)),
        (ValueError, r"frame of track 7 is \(3, 8, 4\), wanted \(h, w, 3\)", 7, np.zeros((3, 8, 4), np.uint8)),
        (ValueError, r"frame of track 7 is \(0, 4, 3\), wanted .* no empty box", 7, image[:0, :4]),
        (ValueError, "track 9 is new, but the pool has 2 tracks, its max_tracks; drop one", 9, image),
    ]:
        with pytest.raises(error, match=message):
            pool.push(track, frame)
    assert pool.tracks == {7: 1, 8: 1} and torch.equal(pool.embeddings(), before)
    with pytest.raises(ValueError, match="track 1 is not in the pool of 2"):
        pool.drop(1)
    with pytest.raises(TypeError, match="track is 'x'"):
        pool.drop("x")
    with pytest.raises(ValueError, match="tracks are none"):
        pool.embeddings([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": "gbr"}, "colors must be one of rgb, bgr, got 'gbr'"),
        ({"sampling": "dense", "frames": 4}, "sampling must be one of restricted_first, all_frames, got 'dense'"),
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"max_tracks": 0}, "max_tracks must be at least 1, got 0"),
        ({"longest": 0}, "longest must be at least 1, got 0"),
        ({"size": (0, 8)}, "size is"),
        ({"interpolation": "nearest"}, "interpolation must be one of"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StreamPool(EXACT["c2d_resnet8"], **{"colors": "rgb", **arguments})


def test_networks_are_those_of_a_stream():
    with pytest.raises(TypeError, match="must be a strfnet ReIDNetwork or a deployed one"):
        StreamPool(torch.nn.Linear(1, 1), colors="rgb")
    with pytest.raises(ValueError, match=r"attends over all frames .*Stream\(network, frames=8\)"):
        StreamPool(network("nvan_resnet8"), colors="rgb")


def test_frames_are_copied_and_the_network_is_not_modified():
    net = network("p3dc_resnet8").train()
    for options in FORMS:
        pool, images = StreamPool(net, colors="rgb", size=SIZE, **options), frames(3)
        for image in images:
            buffer = image.copy()
            pool.push(1, buffer)
            buffer[:] = 0
        assert net.training and all(module.training for module in net.modules())
        check(pool, net.eval(), {1: images}, clips=definition(options))
        net.train()
