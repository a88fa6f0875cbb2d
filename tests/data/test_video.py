"""Tracklets from video: pixels, times, what is left out, and crops that go on after a kill."""

import csv
import json
import os
import re
import resource
import traceback

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open

from strfnet.cli import main
from strfnet.data.crops import Cropping, crop_video, read_video
from strfnet.data.frames import read_frame
from strfnet.data.readers.csv import read_listing
from strfnet.data.tracks import Box
from strfnet.data.video import Video
from strfnet.inference import load_embeddings

HEIGHT, WIDTH, FRAMES = 48, 64, 12
COLORS = {"1": (220, 30, 30), "2": (20, 30, 220)}


def box(track, frame, relative=False):
    left = 4 + 2 * frame if track == "1" else 40 - 2 * frame
    edges = (left, 8, left + 12, 40)
    return Box(frame, track, *(np.divide(edges, (WIDTH, HEIGHT) * 2).tolist() if relative else edges), relative)


BOXES = [box(track, frame) for track in COLORS for frame in range(FRAMES) if (track, frame) != ("2", 0)]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """A lossless video of two coloured boxes that cross; each wears the number of the frame as a shade of green."""
    path = tmp_path_factory.mktemp("video") / "v.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
            for track, (red, _, blue) in COLORS.items():
                left, top, right, bottom = box(track, number).in_pixels(WIDTH, HEIGHT)
                picture[top:bottom, left:right] = (red, 10 * number, blue)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def test_frames_come_once_in_order_as_rgb_with_their_times(video):
    read = list(Video(video).read(lambda number: number != 3))
    assert [number for number, _, _ in read] == list(range(FRAMES))
    assert [time for _, time, _ in read] == pytest.approx([0.1 * n for n in range(FRAMES)])
    assert read[3][2] is None and read[0][2].shape == (HEIGHT, WIDTH, 3)
    assert tuple(read[5][2][20, 4 + 10 + 1]) == (220, 50, 30)


def test_tracklets_in_memory_are_the_boxes_of_their_frames(video):
    one, two = read_video(video, BOXES, camera="c7")
    assert (one.identity, one.camera, len(one.frames), len(two.frames)) == (None, "c7", 12, 11)
    assert all(frame.shape == (32, 12, 3) for frame in one.frames)
    assert [frame[0, 0, 1] for frame in two.frames] == [10 * number for number in range(1, 12)]
    assert two.details == {
        "track": "2", "first_frame": "1", "last_frame": "11", "first_time": "0.100", "last_time": "1.100",
    }  # fmt: skip
    relative = read_video(video, [box(b.track, b.frame, relative=True) for b in BOXES], camera="c7")
    assert all(np.array_equal(a, b) for a, b in zip(one.frames, relative[0].frames, strict=True))


def test_only_the_frames_of_the_clips_are_kept_in_memory(video):
    (one, _) = read_video(video, BOXES, clips=lambda length: [[0, length // 2]])
    assert [frame.size > 0 for frame in one.frames] == [at in (0, 6) for at in range(12)]


def test_crops_are_files_with_a_listing_and_equal_those_in_memory(video, tmp_path):
    folders = crop_video(video, BOXES, tmp_path / "out", camera="c7", quality=100)
    (one, _) = read_video(video, BOXES)
    assert [str(folder.relative_to(tmp_path / "out")) for folder in folders] == ["c7/1", "c7/2"]
    files = sorted(folders[0].iterdir())
    assert [file.name for file in files] == [f"{number:06d}.jpg" for number in range(12)]
    difference = read_frame(files[4]) - read_frame(one.frames[4])
    assert difference.abs().max() < 4 / 255  # JPEG
    rows = list(csv.DictReader((tmp_path / "out/tracklets.csv").open()))
    assert rows[1] == {
        "path": "c7/2", "identity": "", "camera": "c7", "subset": "test", "track": "2",
        "first_frame": "1", "last_frame": "11", "first_time": "0.100", "last_time": "1.100",
    }  # fmt: skip
    crop_video(video, BOXES, tmp_path / "out", camera="c8")
    assert [row["camera"] for row in csv.DictReader((tmp_path / "out/tracklets.csv").open())] == [
        "c7",
        "c7",
        "c8",
        "c8",
    ]


def test_the_listing_of_crops_is_read_and_a_name_makes_a_query(video, tmp_path):
    crop_video(video, BOXES, tmp_path / "out", camera="c7")
    crop_video(video, BOXES, tmp_path / "out", camera="c8")
    listing = tmp_path / "out/tracklets.csv"
    data = read_listing(listing)
    assert [(t.identity, t.camera, len(t.frames)) for t in data.test] == [
        (None, "c7", 12), (None, "c7", 11), (None, "c8", 12), (None, "c8", 11),
    ]  # fmt: skip
    assert data.query == () and data.test[1].details["first_time"] == "0.100"
    listing.write_text(listing.read_text().replace("/1,,", "/1,ann,"))
    assert read_listing(listing).query == (0, 2)
    listing.write_text(listing.read_text().replace(",test,", ",train,"))
    with pytest.raises(ValueError, match="has an empty identity"):
        read_listing(listing)


def test_what_was_filled_into_the_listing_is_kept(video, tmp_path):
    crop_video(video, BOXES, tmp_path / "out", camera="c7")
    listing = tmp_path / "out/tracklets.csv"
    head, *lines = listing.read_text().replace("/1,,", "/1,ann,").splitlines()
    filled = "".join(f"{line}\n" for line in (f"{head},clothes", f"{lines[0]},red", f"{lines[1]},"))
    listing.write_text(filled, encoding="utf-8-sig")  # as spreadsheets write it
    crop_video(video, BOXES, tmp_path / "out", camera="c7")
    assert listing.read_text() == filled
    crop_video(video, BOXES, tmp_path / "out", camera="c8")
    assert [(t.identity, t.details.get("clothes")) for t in read_listing(listing).test] == [
        ("ann", "red"), (None, None), (None, None), (None, None),
    ]  # fmt: skip


def test_an_interrupted_crop_goes_on_with_what_is_missing(video, tmp_path, monkeypatch):
    crop_video(video, BOXES, tmp_path / "whole", camera="c")
    replace, count = os.replace, iter(range(100))

    def killed(self, target):
        if next(count) == 7:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            crop_video(video, BOXES, tmp_path / "cut", camera="c")
    done = {file: file.stat().st_mtime_ns for file in (tmp_path / "cut").rglob("*.jpg")}
    assert 0 < len(done) < len(BOXES)
    crop_video(video, BOXES, tmp_path / "cut", camera="c")
    assert all(file.stat().st_mtime_ns == written for file, written in done.items())
    names = [
        {
            str(path.relative_to(root)): path.read_bytes()
            for path in root.rglob("*")
            if path.suffix in (".jpg", ".csv")
        }
        for root in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert names[0] == names[1] and not list(tmp_path.rglob("*.part"))


def test_a_crop_that_finds_no_room_is_named_with_its_bytes(video, tmp_path):
    [folder, _] = crop_video(video, BOXES, tmp_path, camera="yard")
    lost = folder / "000003.jpg"
    size = lost.stat().st_size
    lost.unlink()
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    words = f"^cannot write {lost}, which needs {size} bytes: File too large$"
    try:
        with pytest.raises(OSError, match=words) as caught:
            crop_video(video, BOXES, tmp_path, camera="yard")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__context__.__traceback__)]
    views = [value for frame in frames for value in frame.f_locals.values() if isinstance(value, memoryview)]
    assert all(type(view.obj) is bytes for view in views)  # Python 3.12.1 crashes when it frees a view of a BytesIO


def test_small_boxes_short_tracks_and_frames_between_are_left_out_by_option(video):
    boxes = [*BOXES, Box(3, "small", 0, 0, 6, 6), Box(3, "short", 0, 0, 20, 30), Box(3, "far", 900, 0, 950, 40)]
    kept = read_video(video, boxes, cropping=Cropping(min_length=2, step=5))
    assert [(item.details["track"], len(item.frames)) for item in kept] == [("1", 3), ("2", 3)]
    assert kept[0].details["last_frame"] == "10"
    with pytest.raises(ValueError, match="no track of 26 boxes is left"):
        read_video(video, boxes, cropping=Cropping(min_height=47))
    wide = read_video(video, BOXES, cropping=Cropping(padding=0.5))[0].frames[0]
    assert wide.shape == (48, 22, 3)  # cut at the left and above


@pytest.mark.parametrize("field", ["padding", "min_height", "min_width", "min_length", "step"])
def test_settings_out_of_range_are_named(field):
    with pytest.raises(ValueError, match=f"{field} is -1"):
        Cropping(**{field: -1})


def test_what_does_not_belong_together_is_refused_and_nothing_is_lost(video, tmp_path):
    def refused(said, *, path=video, boxes=BOXES, camera="c", **options):
        with pytest.raises(ValueError, match=re.escape(said)):
            crop_video(path, boxes, tmp_path / "out", camera=camera, **options)

    crop_video(video, BOXES, tmp_path / "out", camera="c")
    refused("another cropping", cropping=Cropping(step=2))
    refused("another boxes", boxes=BOXES[:-1])
    refused("another quality", quality=50)
    assert len(list((tmp_path / "out/c").rglob("*.jpg"))) == len(BOXES)
    refused("plain name", camera="../c")
    refused("has 12 frames", boxes=[*BOXES, Box(40, "1", 4, 8, 20, 40)], camera="late")
    (tmp_path / "out/mine").mkdir()
    (tmp_path / "out/mine/letter.txt").touch()
    refused("holds other files", camera="mine")
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    refused("cannot read", path=text)
    refused("missing", path=tmp_path / "none.mp4")


def test_a_stored_rotation_is_applied(video, monkeypatch):
    upright = next(Video(video).read(lambda _: True))[2]

    class Turned:
        rotation, time = 90, 0.0

        def to_ndarray(self, format):
            return np.rot90(upright, -1)

    monkeypatch.setattr(Video, "_decoded", lambda self: iter([Turned()]))
    turned = Video(video)
    assert (turned.width, turned.height) == (WIDTH, HEIGHT)
    assert np.array_equal(next(turned.read(lambda _: True))[2], upright)
    assert torch.from_numpy(next(Video(video).read(lambda _: True))[2]).is_contiguous()


def test_the_commands_crop_and_embed_a_video(video, tmp_path, capsys):
    tracks = tmp_path / "mot.txt"
    tracks.write_text(
        "".join(
            f"{b.frame + 1},{b.track},{b.left},{b.top},{b.right - b.left},{b.bottom - b.top},1,-1,-1,-1\n"
            for b in BOXES
        )
    )
    source = ["--video", str(video), "--tracks", str(tracks), "--camera", "c7"]
    assert main(["crop", *source, "--out", str(tmp_path / "out"), "--quality", "100"]) == 0
    said = capsys.readouterr()
    assert "2 of 2 tracks" in said.out and "23 boxes of 2 tracks in 12 frames" in said.err
    network = ["--model", "walkers", "--device", "cpu"]
    assert main(["embed", *source, *network, "--out", str(tmp_path / "video.safetensors")]) == 0
    crops = ["--data", str(tmp_path / "out/tracklets.csv"), "--format", "csv"]
    tracks = ["--data", str(tmp_path / "out"), "--layout", "camera/track"]
    for words, name in ((crops, "crops"), (tracks, "tracks")):
        assert main(["embed", *words, *network, "--out", str(tmp_path / f"{name}.safetensors")]) == 0
        said = capsys.readouterr().err
        assert "test: 0 identities, 1 cameras, 2 tracklets, 23 frames, 2 tracklets without identity" in said
    of_video, of_crops, of_tracks = (
        load_embeddings(tmp_path / f"{n}.safetensors") for n in ("video", "crops", "tracks")
    )
    assert torch.cosine_similarity(of_video.vectors, of_crops.vectors).min() > 0.999  # JPEG
    assert torch.equal(of_tracks.vectors, of_crops.vectors)
    for mine, other, by_folder in zip(of_video.tracklets, of_crops.tracklets, of_tracks.tracklets, strict=True):
        labels = ("identity", "camera", "frames", "details")
        assert [mine[name] for name in labels] == [other[name] for name in labels]
        assert (by_folder["camera"], by_folder["identity"]) == ("c7", None)
        assert by_folder["details"] == {"track": mine["details"]["track"]}
    for folder in ("out", "out/c7"):  # their tracks are no people
        assert main(["embed", "--data", str(tmp_path / folder), *network, "--out", str(tmp_path / "e")]) == 1
        assert "holds tracks that strfnet crop wrote" in capsys.readouterr().err
    with safe_open(tmp_path / "video.safetensors", "pt") as file:
        first, second = json.loads(file.metadata()["tracklets"])
    assert first["path"] == "track 1 of camera c7" and second["details"]["first_time"] == "0.100"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--video", "v.mp4"], "tracks are None, wanted both"),
        (["--data", "d", "--video", "v.mp4", "--tracks", "t.txt"], "wanted one of the two"),
        (["--data", "d", "--camera", "c"], "wanted both or neither"),
        (["--video", "v", "--tracks", "t", "--subset", "test"], "subset is test, but a video has none"),
        (["--video", "v.mp4", "--tracks", "t.txt", "--step", "0"], "step is 0, wanted at least 1"),
    ],
)
def test_a_video_without_tracks_is_a_wrong_call(words, said, capsys):
    assert main(["embed", "--model", "walkers", "--out", "e.safetensors", *words]) == 2
    assert said in capsys.readouterr().err
