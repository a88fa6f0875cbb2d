import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from strfnet.data.frames import read_clip
from strfnet.data.identities import identity_batches
from strfnet.data.loader import ClipBatch, Draw, TrainingClips, draws, load
from strfnet.data.sampling import evenly
from strfnet.data.tracklet import Tracklet
from strfnet.data.transforms import Augmentation

EVERYTHING = Augmentation(flip=0.5, crop=0.5, erasing=0.5, per_frame=("erasing",))


@pytest.fixture(scope="module")
def tracklets(tmp_path_factory):
    """Twelve tracklets of 3 to 14 JPEG files, of four identities."""
    root, rng = tmp_path_factory.mktemp("tracklets"), np.random.default_rng(0)
    made = []
    for number in range(12):
        frames = []
        for frame in range(number + 3):
            colours = rng.integers(0, 256, (6, 4, 3)).astype(np.uint8)
            frames.append(root / f"{number:02}_{frame:02}.jpg")
            Image.fromarray(colours).resize((16, 24), Image.Resampling.BICUBIC).save(frames[-1])
        made.append(Tracklet(tuple(frames), number // 3))
    return made


def clips_of(tracklets, seed=0, **options):
    options = {"frames": 4, "size": (16, 8), "augmentation": EVERYTHING} | options
    return TrainingClips(tracklets, [tracklet.identity for tracklet in tracklets], seed=seed, **options)


def plan_of(tracklets, epoch=0, **ranks):
    labels = [tracklet.identity for tracklet in tracklets]
    batches = identity_batches(labels, identities=2, tracklets=3, form="every_identity", seed=0, epoch=epoch)
    return draws(batches + batches, epoch, **ranks)


def assert_equal(batches, others):
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        for one, two in zip(batch, other, strict=True):
            assert one is two is None or torch.equal(one, two)


@pytest.fixture(scope="module")
def epoch(tracklets):
    """One epoch, loaded in this process."""
    return list(load(clips_of(tracklets), plan_of(tracklets)))


def test_turns_count_the_places_of_an_epoch_over_all_batches():
    assert draws([[7, 5], [5, 3, 1]], 4) == [
        [Draw(4, 0, 7), Draw(4, 1, 5)],
        [Draw(4, 2, 5), Draw(4, 3, 3), Draw(4, 4, 1)],
    ]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_share_every_batch_between_them(ranks):
    batches = [list(range(start, start + size)) for start, size in ((0, 8), (8, 5), (13, 4))]
    whole = draws(batches, 2)
    shares = [draws(batches, 2, rank=rank, world_size=ranks) for rank in range(ranks)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [turn for part in parts for turn in part] == batch
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shares_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="rank is 2, wanted at least 0 and less than the world size 2"):
        draws([[1, 2]], 0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="less than the world size 0"):
        draws([[1, 2]], 0, rank=0, world_size=0)
    with pytest.raises(ValueError, match="a batch has 1 rows for 2 processes"):
        draws([[1, 2, 3], [4]], 0, rank=0, world_size=2)


def test_a_clip_is_what_its_frames_say(tracklets):
    clips = clips_of(tracklets, sampling="evenly", augmentation=None)
    (batch,) = load(clips, [[Draw(0, 0, 11), Draw(0, 1, 2)]])
    assert isinstance(batch, ClipBatch)
    assert batch.clips.shape == (2, 3, 4, 16, 8) and batch.clips.dtype == torch.float32
    for clip, row in zip(batch.clips, (11, 2), strict=True):
        frames = tracklets[row].frames
        assert torch.equal(clip, read_clip(frames, evenly(len(frames), 4), (16, 8)))
    assert batch.labels.tolist() == [3, 0] and batch.rows.tolist() == [11, 2]
    assert batch.labels.dtype == batch.rows.dtype == torch.int64


def test_settings_reach_the_frames(tracklets):
    clips = clips_of(tracklets, sampling="strided", stride=2, frames=3, interpolation="bicubic", augmentation=None)
    frames = tracklets[3].frames  # six of them leave one start alone
    seen = [clips[Draw(0, position, 3)][0] for position in range(4)]
    starts = [read_clip(frames, [start, start + 2, start + 4], (16, 8), interpolation="bicubic") for start in (0, 1)]
    assert all(any(torch.equal(clip, start) for start in starts) for clip in seen)
    mirror = clips_of(tracklets, sampling="evenly", augmentation=Augmentation(flip=1))[Draw(0, 0, 5)][0]
    assert torch.equal(mirror.flip(-1), read_clip(tracklets[5].frames, evenly(8, 4), (16, 8)))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tracklets, epoch, workers):
    assert_equal(list(load(clips_of(tracklets), plan_of(tracklets), workers=workers)), epoch)
    assert not multiprocessing.active_children()


def test_threads_change_nothing(tracklets, epoch):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_equal(list(load(clips_of(tracklets), plan_of(tracklets))), epoch)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_joined_are_one_process(tracklets, epoch, ranks):
    shares = [
        load(clips_of(tracklets), plan_of(tracklets, rank=rank, world_size=ranks), workers=rank % 2)
        for rank in range(ranks)
    ]
    joined = [
        ClipBatch(*(torch.cat(part) for part in list(zip(*parts, strict=True))[:3]))
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(joined, epoch)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_ragged_clips_are_padded_and_carry_the_lengths_of_their_tracklets(tracklets, workers, interpolation):
    clips = clips_of(tracklets, frames=8, sampling="strided_ragged", stride=1, interpolation=interpolation)
    plan = [[Draw(0, at, row) for at, row in enumerate(rows)] for rows in ([0, 11, 3], [6, 7], [2, 2], [5, 4])]
    batches = list(load(clips, plan, workers=workers))
    lengths = [None if batch.lengths is None else batch.lengths.tolist() for batch in batches]
    assert lengths == [[3, 8, 6], None, [5, 5], [8, 7]]
    for batch, turns in zip(batches, plan, strict=True):
        assert batch.clips.shape[1:] == (3, 8, 16, 8)
        for clip, turn in zip(batch.clips, turns, strict=True):
            exists = min(8, len(tracklets[turn.row].frames))
            assert torch.equal(clip[:, :exists], clips[turn][0]) and not clip[:, exists:].any()


def test_all_frames_of_a_short_tracklet_are_read_once_and_in_order(tracklets):
    options = {"frames": 30, "sampling": "strided_ragged", "augmentation": None}
    for row, item in enumerate(tracklets):
        clip, _, _ = clips_of(tracklets, **options)[Draw(0, 0, row)]
        assert torch.equal(clip, read_clip(item.frames, range(len(item.frames)), (16, 8)))


@pytest.mark.parametrize("ranks", [2, 3])
def test_shares_of_ragged_batches_have_one_shape(tracklets, ranks):
    clips = clips_of(tracklets, frames=8, sampling="strided_ragged")
    whole = list(load(clips, plan_of(tracklets)))
    shares = [load(clips, plan_of(tracklets, rank=rank, world_size=ranks)) for rank in range(ranks)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.clips for part in parts]), batch.clips)
        found = [torch.full(part.labels.shape, 8) if part.lengths is None else part.lengths for part in parts]
        assert torch.equal(torch.cat(found), torch.full((6,), 8) if batch.lengths is None else batch.lengths)


@pytest.mark.parametrize("done", [1, 3])
def test_an_epoch_goes_on_where_it_was_left(tracklets, epoch, done):
    assert_equal(list(load(clips_of(tracklets), plan_of(tracklets)[done:], workers=1)), epoch[done:])


def test_every_number_that_a_clip_depends_on_changes_it(tracklets):
    clips, draw = clips_of(tracklets), Draw(1, 2, 11)
    clip = clips[draw][0]
    assert torch.equal(clip, clips[draw][0]) and torch.equal(clip, clips_of(tracklets)[draw][0])
    others = [clips_of(tracklets, seed=1)[draw], clips[Draw(2, 2, 11)], clips[Draw(1, 3, 11)], clips[Draw(1, 2, 10)]]
    assert not any(torch.equal(clip, other) for other, _, _ in others)


@pytest.mark.parametrize("workers", [0, 1])
def test_generators_of_the_process_neither_matter_nor_change(tracklets, epoch, workers):
    torch.manual_seed(17)
    np.random.seed(17)
    random.seed(17)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    assert_equal(list(load(clips_of(tracklets), plan_of(tracklets), workers=workers)), epoch)
    assert torch.equal(before[0], torch.get_rng_state()) and before[2] == random.getstate()
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])


class Heavy(np.ndarray):
    """An image that must not be sent to another process."""

    def __reduce__(self):
        raise pickle.PicklingError("an image in memory was copied to a worker")


def test_frames_in_memory_are_not_copied_to_workers():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 16, 8, 3)).astype(np.uint8)
    clips = clips_of([Tracklet(tuple(frame.view(Heavy) for frame in pixels), 0)], sampling="evenly")
    plan = [[Draw(0, 0, 0)], [Draw(0, 1, 0), Draw(0, 2, 0)]]
    shared = nullcontext() if sys.platform == "linux" else pytest.raises(pickle.PicklingError)
    with shared:
        assert_equal(list(load(clips, plan, workers=1)), list(load(clips, plan)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_bad_frame_is_named_in_one_line_and_ends_the_workers(tracklets, tmp_path, workers, fault):
    good = tracklets[8].frames
    bad = tmp_path / "00 bad.jpg"
    if fault == "truncated":
        bad.write_bytes(good[0].read_bytes()[:-40])
    clips = clips_of([*tracklets, Tracklet((bad, bad, bad, bad), 2)])
    plan = plan_of(tracklets)
    batches = iter(load(clips, [*plan[:2], [Draw(0, 99, 0), Draw(0, 100, 12)], *plan[2:]], workers=workers))
    next(batches), next(batches)
    with pytest.raises(ValueError) as caught:
        next(batches)
    assert str(caught.value).startswith(f"cannot read the frame {bad}: ") and "\n" not in str(caught.value)
    del batches, caught
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_workers(tracklets):
    for _ in load(clips_of(tracklets), plan_of(tracklets), workers=2):
        assert len(multiprocessing.active_children()) == 2
        break
    assert not multiprocessing.active_children()


def test_a_loader_has_its_length_and_can_be_read_again(tracklets, epoch):
    loader = load(clips_of(tracklets), plan_of(tracklets), workers=1)
    assert len(loader) == len(epoch) == 4
    assert_equal(list(loader), epoch)
    assert_equal(list(loader), epoch)
    assert list(load(clips_of(tracklets), [])) == []


MAIN = """
import os, signal, sys, time
import numpy as np
from strfnet.data import loader
from strfnet.data.loader import Draw, TrainingClips, load
from strfnet.data.tracklet import Tracklet

frames = tuple(np.zeros((16, 8, 3), np.uint8) for _ in range(4))
clips = TrainingClips([Tracklet(frames, 0)], [0], seed=0, frames=2, size=(16, 8))
start = loader.start_worker
loader.start_worker = lambda number: (time.sleep(number), start(number))  # the second is slow
batches = iter(load(clips, [[Draw(0, at, 0)] for at in range(40)], workers=2))
next(batches)
if sys.argv[1] == "finishing":  # handlers that the workers have not inherited
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
print("started", flush=True)
sys.stdin.readline()
print(1 + sum(1 for _ in batches), "batches", flush=True)
"""


@pytest.fixture
def main():
    """Runs MAIN in a group of processes of its own, until its workers are at work."""
    running = []

    def start(mode):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        # A suite that was started in the background ignores Ctrl-C, and so would this process.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        options = {"env": environment, "text": True, "start_new_session": True, "preexec_fn": heed}
        process = subprocess.Popen([sys.executable, "-c", MAIN, mode], **options, **pipes)
        running.append(process)
        assert process.stdout.readline() == "started\n"
        workers = psutil.Process(process.pid).children(recursive=True)
        assert len(workers) == 2
        return process, workers

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_ctrl_c_leaves_no_process_behind(main):
    process, workers = main("plainly")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode != 0 and errors.count("KeyboardInterrupt") == 1  # no worker's traceback
    assert psutil.wait_procs(workers, timeout=20)[1] == []


def test_workers_stay_while_the_main_process_finishes(main):
    process, workers = main("finishing")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTERM):
        os.killpg(process.pid, number)
    output, errors = process.communicate("go on\n")
    assert (process.returncode, output, errors) == (0, "40 batches\n", "")
    assert psutil.wait_procs(workers, timeout=20)[1] == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": [0]}, r"labels are int64 \(1,\), wanted \(2,\) of whole numbers from 0"),
        ({"labels": [0.0, 1.0]}, "labels are float64"),
        ({"labels": [0, -1]}, "labels are int64"),
        ({"tracklets": [], "labels": []}, "labels are float64"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 0.5}, "seed is 0.5"),
        ({"frames": 0}, "clips of 0 frames"),
        ({"sampling": "random"}, "sampling must be one of .*evenly, got 'random'"),
        ({"sampling": "strided", "stride": 0}, "stride of 0"),
        ({"size": (0, 8)}, r"size is \(0, 8\)"),
        ({"interpolation": "nearest"}, "interpolation must be one of bilinear, bicubic, got 'nearest'"),
    ],
)
def test_settings_are_refused_before_any_frame_is_read(wrong, message):
    nowhere = Tracklet((Path("nowhere.jpg"),), 0)
    arguments = {"tracklets": [nowhere] * 2, "labels": [0, 1], "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        TrainingClips(arguments.pop("tracklets"), arguments.pop("labels"), **arguments)


@pytest.mark.parametrize("row", [-1, 12])
def test_rows_that_do_not_exist_are_refused(tracklets, row):
    with pytest.raises(ValueError, match=f"row is {row}, wanted one of 12 tracklets"):
        clips_of(tracklets)[Draw(0, 0, row)]


def test_fewer_workers_than_none_are_refused(tracklets):
    with pytest.raises(ValueError, match="workers is -1"):
        load(clips_of(tracklets), [], workers=-1)
