"""How batches travel: from workers through shared memory, and to the device on which they are changed."""

import os
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from strfnet.data.loader import Draw, TrainingClips, _Copied, load
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation


def clips_of(sizes, interpolation="bilinear"):
    """Clips of 16 x 8 pixels from tracklets of images of these sizes."""
    rng = np.random.default_rng(0)
    frames = [tuple(rng.integers(0, 256, (6, *size, 3), dtype=np.uint8)) for size in sizes]
    tracklets = [Tracklet(images, row) for row, images in enumerate(frames)]
    changes = Augmentation(flip=0.5, crop=0.5, erasing=0.5, per_frame=("erasing",))
    options = {"frames": 4, "size": (16, 8), "interpolation": interpolation, "augmentation": changes}
    return TrainingClips(tracklets, range(len(sizes)), seed=0, **options)


@pytest.mark.parametrize(
    ("sizes", "interpolation", "dtype"),
    [
        ([(16, 8)] * 2, "bilinear", torch.uint8),
        ([(16, 8), (20, 10)], "bilinear", torch.uint8),
        ([(16, 8), (20, 10)], "bicubic", torch.float32),
    ],
    ids=["whole", "resized", "bicubic"],
)
def test_workers_send_bytes_unless_frames_are_resized_bicubically(sizes, interpolation, dtype, monkeypatch):
    clips, seen = clips_of(sizes, interpolation), []
    finish = TrainingClips.finish
    monkeypatch.setattr(
        TrainingClips, "finish", lambda self, pixels, changes: seen.append(pixels) or finish(self, pixels, changes)
    )
    (batch,) = load(clips, [[Draw(0, 0, 0), Draw(0, 1, 1)]], workers=1)
    (pixels,) = seen
    assert pixels.dtype == dtype and pixels.shape == (2, 3, 4, 16, 8) and pixels.is_shared()
    singles = [clips[Draw(0, 0, 0)][0], clips[Draw(0, 1, 1)][0]]
    assert torch.equal(batch.clips, torch.stack(singles)) and batch.clips.dtype == torch.float32


def test_a_gpu_copies_a_batch_on_a_stream_of_its_own_before_it_computes_with_it(monkeypatch):
    events, streams = [], ["compute"]

    class Stream:
        def __init__(self, *_):
            self.name = "copies"

        def wait_stream(self, other):
            events.append(f"{self.name} waits for {other.name}")

    current = Stream()
    current.name = "compute"

    @contextmanager
    def within(stream):
        streams.append(stream.name)
        yield
        streams.pop()

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: current)
    copy = lambda tensor, device, non_blocking=False: (  # noqa: E731
        events.append(f"copy on {streams[-1]}, non_blocking={non_blocking}") or tensor.clone()
    )
    monkeypatch.setattr(torch.Tensor, "to", copy)
    kept = lambda tensor, stream: events.append(f"kept until {stream.name}")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", kept)
    pixels, changes, labels = _Copied(torch.device("cuda"))((torch.ones(2), None, torch.zeros(3)))
    assert torch.equal(pixels, torch.ones(2)) and changes is None and torch.equal(labels, torch.zeros(3))
    copies = ["copy on copies, non_blocking=True"] * 2
    assert events == [*copies, "compute waits for copies", *["kept until compute"] * 2]


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked, so they inherit the fault, on Linux only")
def test_a_worker_that_dies_of_full_shared_memory_says_what_to_do(monkeypatch):
    clips = clips_of([(16, 8)])
    monkeypatch.setattr("strfnet.data.loader.read_pixels", lambda *_, **__: os.kill(os.getpid(), signal.SIGBUS))
    with pytest.raises(OSError, match=r"shared memory \(/dev/shm\) is too small .*--shm-size=8g.*--workers 0"):
        list(load(clips, [[Draw(0, 0, 0)]], workers=1))
