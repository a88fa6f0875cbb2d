import json
import os
import threading
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from strfnet.data.frames import read_clip
from strfnet.data.sampling import restricted_first
from strfnet.data.tracklet import Tracklet
from strfnet.inference.embedding import embed
from strfnet.inference.embedding_file import save_embeddings

pytestmark = pytest.mark.filterwarnings("ignore:The image:DeprecationWarning")
SMALL = {"frames": 4, "size": (16, 8)}


class Answer(NamedTuple):
    embedding: torch.Tensor
    logits: torch.Tensor


class Shared(list):
    """A list that copies of a module share."""

    def __deepcopy__(self, memo):
        return self


class Stub(nn.Module):
    """Order in time counts, and so does the mode."""

    def __init__(self, answer=lambda x: x):
        super().__init__()
        self.linear = nn.Linear(12, 5)
        self.norm = nn.BatchNorm1d(5)
        self.answer = answer
        self.batches = Shared()

    def forward(self, clip):
        assert clip.shape[1:] == (3, 4, 16, 8) and torch.is_inference_mode_enabled() and not self.training
        self.batches.append(len(clip))
        return self.answer(self.norm(self.linear(clip.mean(dim=(3, 4)).flatten(1))))


@pytest.fixture
def tracklets(tmp_path):
    """Five of them, of 1 to 9 frames."""
    rng, found = np.random.default_rng(0), []
    for identity, length in enumerate((3, 9, 1, 5, 4)):
        frames = tuple(tmp_path / f"{identity}_{number}.png" for number in range(length))
        for frame in frames:
            Image.fromarray(rng.integers(0, 256, (20, 10, 3), dtype=np.uint8)).save(frame)
        found.append(Tracklet(frames, f"id{identity}", identity % 2 or None))
    return found


def test_embeddings_are_what_the_network_says_of_each_tracklet_alone(tracklets):
    network = Stub()
    embeddings = embed(network, tracklets, batch=2, **SMALL)
    assert network.batches == [2, 2, 1]
    assert embeddings.shape == (5, 5) and embeddings.dtype == torch.float32
    for tracklet, embedding in zip(tracklets, embeddings, strict=True):
        picks = restricted_first(len(tracklet.frames), 4)
        clip = read_clip(tracklet.frames, picks, (16, 8))
        expected = network.norm.eval()(network.linear(clip.mean(dim=(2, 3)).flatten()[None]))[0]
        torch.testing.assert_close(embedding, expected)


def test_an_answer_may_hold_the_embedding_beside_other_things(tracklets):
    network = Stub()
    expected = embed(network, tracklets, **SMALL)
    network.answer = lambda x: Answer(x, x[:, :2])
    torch.testing.assert_close(embed(network, tracklets, **SMALL), expected)


def test_every_module_comes_back_in_its_own_mode_also_after_an_error(tracklets):
    network = Stub().train()
    network.norm.eval()
    embed(network, tracklets, **SMALL)
    assert (network.training, network.linear.training, network.norm.training) == (True, True, False)
    tracklets[3].frames[2].write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"3_2\.png"):
        embed(network, tracklets, **(SMALL | {"frames": 5}))
    assert (network.training, network.linear.training, network.norm.training) == (True, True, False)
    assert not torch.is_inference_mode_enabled()


def test_embeddings_can_be_trained_on(tracklets):
    layer = nn.Linear(5, 1)
    layer(embed(Stub(), tracklets, **SMALL)).sum().backward()
    assert layer.weight.grad.abs().sum() > 0


def test_clips_come_in_the_type_of_the_network(tracklets):
    network = Stub()
    expected = embed(network, tracklets, **SMALL)
    embeddings = embed(network.double(), tracklets, **SMALL)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected)


@pytest.mark.parametrize("answer", [lambda x: x[0], lambda x: x[1:], lambda x: {"embedding": x}, lambda x: None])
def test_other_answers_are_refused(tracklets, answer):
    with pytest.raises(ValueError, match=r"the network returned .* for 5 clips, wanted \(5, d\)"):
        embed(Stub(answer), tracklets, **SMALL)


def test_an_embedding_that_is_not_finite_is_named(tracklets):
    def spoil(x):
        x[3, 2] = torch.nan
        return x

    with pytest.raises(ValueError, match=r"3_0\.png holds NaN"):
        embed(Stub(spoil), tracklets, **SMALL)


class Plain(Stub):
    """Takes any number of frames; the feature is a mean over them, and the neck is awake."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 5)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.norm.running_mean.normal_()
        self.shapes = Shared()

    def forward(self, clip):
        self.shapes.append((len(clip), clip.shape[2]))
        return self.norm(self.linear(clip.mean(dim=(3, 4)).mT).relu().mean(dim=1))


def pieces_of_two(length):
    return [list(range(start, min(start + 2, length))) for start in range(0, length, 2)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 2, 4, 50])
def test_whole_tracklets_get_the_answer_to_all_their_frames(tracklets, batch, workers):
    network = Plain()
    got = embed(network, tracklets, clips=pieces_of_two, batch=batch, workers=workers, size=(16, 8))
    assert sorted(t for b, t in network.shapes for _ in range(b)) == [1] * 4 + [2] * 9  # 3, 9, 1, 5 and 4 frames
    assert max(b for b, _ in network.shapes) == min(batch, 9)
    network.eval()
    for tracklet, embedding in zip(tracklets, got, strict=True):
        whole = read_clip(tracklet.frames, range(len(tracklet.frames)), (16, 8))
        torch.testing.assert_close(embedding, network(whole[None])[0], rtol=1e-5, atol=1e-6)


def test_clips_of_many_lengths_share_batches_in_the_order_of_tracklets(tracklets):
    network = Plain()
    embed(network, tracklets, clips=pieces_of_two, batch=4, size=(16, 8))
    assert network.shapes == [(4, 2), (4, 1), (4, 2), (1, 2)]


def test_a_part_of_the_tracklets_gives_that_part_of_the_embeddings(tracklets):
    network, settings = Plain(), {"clips": pieces_of_two, "size": (16, 8)}
    whole = embed(network, tracklets, **settings)
    parts = [embed(network, tracklets[rows], **settings) for rows in (slice(0, 2), slice(2, 5))]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_frames_in_memory_are_embedded_as_those_on_disk(tracklets):
    inside = [
        Tracklet(tuple(np.array(Image.open(frame)) for frame in item.frames), item.identity) for item in tracklets
    ]
    network = Plain()
    expected = embed(network, tracklets, size=(16, 8))
    torch.testing.assert_close(embed(network, inside, size=(16, 8)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_clips_of_bytes_and_of_16_bits_share_a_batch_with_zeros_past_their_ends(tmp_path, workers):
    for name, mode in (("bytes", np.uint8), ("sixteen", np.uint16)):
        shape = (16, 8, 3)[: 2 + (mode == np.uint8)]
        pixels = np.random.default_rng(0).integers(0, np.iinfo(mode).max, shape).astype(mode)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    given = [Tracklet((tmp_path / f"{name}.png",) * n, name, 0) for name, n in (("bytes", 3), ("sixteen", 1))]
    seen = []

    class Network(nn.Module):
        def forward(self, clips, lengths):
            seen.append((clips, lengths))
            return clips.new_ones(len(clips), 2)

    embed(Network(), given, clips=lambda n: [list(range(n))], size=(16, 8), ragged=True, workers=workers)
    ((clips, lengths),) = seen
    assert clips.shape == (2, 3, 3, 16, 8) and lengths.tolist() == [3, 1]
    for clip, tracklet in zip(clips, given, strict=True):
        whole = read_clip(tracklet.frames, range(len(tracklet.frames)), (16, 8))
        assert torch.equal(clip[:, : whole.shape[1]], whole) and not clip[:, whole.shape[1] :].any()


def test_frames_are_interpolated_as_asked(tracklets):
    network = Plain()
    bilinear, bicubic = (
        embed(network, tracklets, size=(16, 8), interpolation=name) for name in ("bilinear", "bicubic")
    )
    assert (bilinear - bicubic).abs().max() > 1e-4


@pytest.mark.parametrize("workers", [0, 2])
def test_no_more_than_a_few_batches_are_decoded_ahead(tracklets, monkeypatch, workers):
    decoded, seen = [], []

    def read(frames, indices, size, **_):
        decoded.append(indices)
        return torch.zeros(3, len(indices), *size)

    def forward(clip):
        seen.append(len(clip))
        assert len(decoded) <= sum(seen) + 2 * 3 * bool(workers)
        return torch.ones(len(clip), 2)

    network = nn.Module()
    network.forward = forward
    monkeypatch.setattr("strfnet.inference.embedding.read_pixels", read)
    got = embed(network, tracklets * 8, clips=lambda _: [[0]], batch=3, workers=workers)
    assert len(decoded) == 40 and got.tolist() == [[1.0, 1.0]] * 40


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_frame_is_named_and_threads_end(tracklets, workers):
    before = threading.active_count()
    tracklets[3].frames[2].write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"3_2\.png"):
        embed(Plain(), tracklets, clips=pieces_of_two, batch=1, workers=workers, size=(16, 8))
    assert threading.active_count() == before


def test_a_tracklet_without_clips_is_refused(tracklets):
    with pytest.raises(ValueError, match=r"no clips of the 1 frames of .*2_0\.png"):
        embed(Plain(), tracklets, clips=lambda length: [[0]] * (length - 1), size=(16, 8))


def test_progress_counts_tracklets_whose_clips_are_all_done(tracklets, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    embed(Plain(), tracklets, clips=pieces_of_two, batch=4, progress=True, size=(16, 8))
    told = [line[:6] for line in capsys.readouterr().err.split("\r")]
    assert told == ["", "0 of 5", "2 of 5", "4 of 5", "5 of 5"]


def test_nothing_to_embed_is_refused(tracklets):
    with pytest.raises(ValueError, match="got 0 tracklets"):
        embed(Stub(), [], **SMALL)
    with pytest.raises(ValueError, match="batches of 0"):
        embed(Stub(), tracklets, batch=0, **SMALL)


def test_progress_is_told_on_stderr_only_where_it_is_wanted(tracklets, capsys, monkeypatch):
    embed(Stub(), tracklets, **SMALL)
    assert capsys.readouterr() == ("", "")
    embed(Stub(), tracklets, batch=2, progress=True, **SMALL)
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("5 of 5 tracklets embedded, ") and err.endswith(" frames/s, 0 s left\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    embed(Stub(), tracklets, batch=2, progress=True, **SMALL)
    told = capsys.readouterr().err.split("\r")
    assert [line[:11] for line in told] == ["", "2 of 5 trac", "4 of 5 trac", "5 of 5 trac"]
    assert told[-1].endswith("\n")


def test_a_saved_file_holds_the_vectors_and_whose_they_are(tmp_path, tracklets):
    embeddings = torch.randn(5, 7)
    save_embeddings(tmp_path / "e.safetensors", embeddings.T.contiguous().T, tracklets)
    with safe_open(tmp_path / "e.safetensors", "pt") as file:
        torch.testing.assert_close(file.get_tensor("embeddings"), embeddings, rtol=0, atol=0)
        described = json.loads(file.metadata()["tracklets"])
    assert described[1] == {"identity": "id1", "camera": 1, "frames": 9, "path": str(tmp_path / "1_0.png")}
    assert [entry["camera"] for entry in described] == [None, 1, None, 1, None]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_save_that_fails_keeps_the_file_that_was_there(tmp_path, tracklets, monkeypatch, fault):
    path = tmp_path / "out" / "e.safetensors"
    path.parent.mkdir()
    save_embeddings(path, torch.zeros(5, 2), tracklets)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail) if fault == "fsync" else patched.setattr("pathlib.Path.replace", fail)
        with pytest.raises(OSError, match="no space left"):
            save_embeddings(path, torch.ones(5, 2), tracklets)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    save_embeddings(path, torch.ones(5, 2), tracklets)
    assert path.read_bytes() != before


def test_a_saved_file_is_as_readable_as_any_other(tmp_path, tracklets):
    save_embeddings(tmp_path / "e.safetensors", torch.zeros(5, 2), tracklets)
    (tmp_path / "other").touch()
    assert (tmp_path / "e.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("shape", [(4, 3), (5,), (5, 2, 2)])
def test_embeddings_that_are_not_one_row_per_tracklet_are_not_saved(tmp_path, tracklets, shape):
    with pytest.raises(ValueError, match="one row for each of 5 tracklets"):
        save_embeddings(tmp_path / "e.safetensors", torch.zeros(shape), tracklets)
    assert not (tmp_path / "e.safetensors").exists()
