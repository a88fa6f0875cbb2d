"""Image files of strangers: bombs, pipes, devices, phones' second images, and metadata that Pillow warns of."""

import os
import socket
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from strfnet.data import Tracklet
from strfnet.data.frames import read_clip, read_frame
from strfnet.data.loader import Draw, TrainingClips, load
from strfnet.inference import embed


def png_of(width, height):
    """A valid gray PNG of zeros, a thousandth of the size that it is decoded to."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height), 9)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content


@pytest.fixture
def picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize(("width", "height"), [(4097, 4096), (30000, 560), (2**24 + 1, 1)])
def test_an_image_of_more_pixels_than_the_limit_is_not_decoded(tmp_path, width, height):
    path = tmp_path / "large.png"
    path.write_bytes(png_of(width, height))
    with pytest.raises(ValueError, match=f"cannot read the frame {path}: it has {width} x {height} .* max_pixels = "):
        read_frame(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_limit_of_pixels_is_an_option_of_everything_that_reads_frames(tmp_path, picture, name):
    picture.save(tmp_path / name)
    tracklet, pixels = Tracklet((tmp_path / name,), 0), 24 * 16
    readers = (
        lambda most: read_frame(tmp_path / name, max_pixels=most),
        lambda most: read_clip(tracklet.frames, [0], (8, 4), max_pixels=most),
        lambda most: embed(torch.nn.Flatten(), [tracklet], size=(8, 4), max_pixels=most),
        lambda most: TrainingClips([tracklet], [0], seed=0, size=(8, 4), max_pixels=most)[Draw(0, 0, 0)],
    )
    for read in readers:
        read(pixels)
        with pytest.raises(ValueError, match=f"it has 16 x 24 = 384 pixels, .* max_pixels = {pixels - 1}"):
            read(pixels - 1)


@pytest.mark.parametrize("action", ["default", "error"])
def test_a_file_that_is_read_at_once_and_a_larger_one_are_read_alike(tmp_path, picture, monkeypatch, action):
    with_cut_exif(tmp_path / "warned.jpg", picture)
    picture.save(tmp_path / "sound.png")
    (tmp_path / "empty.jpg").touch()
    read, warned = [], []
    for small in (2**20, -1):
        monkeypatch.setattr("strfnet.system.reading.SMALL", small)
        monkeypatch.setattr("strfnet.data.frames._noted", set())
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            read.append([read_frame(tmp_path / name) for name in ("warned.jpg", "sound.png")])
            with pytest.raises(ValueError, match=r"empty\.jpg: cannot identify image file, wanted JPEG or PNG"):
                read_frame(tmp_path / "empty.jpg")
        warned.append([str(one.message) for one in caught])
    assert all(map(torch.equal, *read)) and warned[0] == warned[1] and bool(warned[0]) == (action == "default")


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the names of sockets are short
        server.bind(path.name)


@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are files on POSIX alone")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (pipe, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.mkdir(), "a folder"),
        (unix_socket, "a socket"),
    ],
)
def test_what_is_no_regular_file_is_refused_and_nothing_waits(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=f"cannot read the frame .*a.jpg: it is {kind}, wanted a regular file"):
        read_frame(tmp_path / "a.jpg")


def test_of_a_phones_two_images_the_first_is_read(tmp_path, picture):
    path = tmp_path / "phone.jpg"
    picture.save(path, format="MPO", save_all=True, append_images=[picture.rotate(180)], quality=100, subsampling=0)
    with Image.open(path) as saved:
        assert saved.format == "MPO" and saved.n_frames == 2
    np.testing.assert_allclose(read_frame(path).permute(1, 2, 0) * 255, np.asarray(picture), atol=4)


def with_cut_exif(path, picture):
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, 1, 0) + struct.pack("<HHII", 0x010E, 2, 4000, 60000)
    picture.save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3) + entries)


def with_a_bad_animation(path, picture):
    picture.save(path)
    content, chunk = path.read_bytes(), b"acTL" + struct.pack(">II", 0, 0)
    extra = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(content[:33] + extra + content[33:])


def with_transparent_colours(path, picture):
    picture.quantize(16).save(path, transparency=bytes(range(16)))


@pytest.mark.parametrize(
    ("name", "save"),
    [("a.jpg", with_cut_exif), ("b.png", with_a_bad_animation), ("c.png", with_transparent_colours)],
)
def test_warnings_of_pillow_end_nothing_where_warnings_are_errors(tmp_path, picture, capsys, name, save):
    save(tmp_path / name, picture)
    with warnings.catch_warnings(record=True) as usual:
        warnings.simplefilter("always")
        expected = read_frame(tmp_path / name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert torch.equal(read_frame(tmp_path / name), expected)
    assert capsys.readouterr().err.count(str(tmp_path / name)) == bool(usual)
    assert bool(usual) == (save is not with_transparent_colours)


@pytest.fixture
def warned_of(tmp_path, picture):
    """Two files of which Pillow warns in the same words, and one of which it does not."""
    for name in ("first.jpg", "second.jpg"):
        with_cut_exif(tmp_path / name, picture)
    picture.save(tmp_path / "sound.jpg")
    return [tmp_path / name for name in ("first.jpg", "sound.jpg", "second.jpg")]


def names_in(caught, files):
    """How often each file starts a line."""
    return [sum(str(one.message).startswith(f"{file}: ") for one in caught) for file in files]


@pytest.mark.parametrize(("action", "times"), [("default", 1), ("always", 3), ("ignore", 0)])
def test_a_warning_of_pillow_names_its_file_once_for_each(warned_of, action, times):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter(action)
        before = warnings.showwarning
        for file in 3 * warned_of:
            read_frame(file)
        assert warnings.showwarning is before
        warnings.warn("of another", UserWarning, stacklevel=1)
    lines = len({str(one.message) for one in caught}) - (action != "ignore")
    assert names_in(caught, warned_of) == [times * lines // 2, 0, times * lines // 2] and (lines > 0) == (times > 0)
    if times:
        assert caught.pop().message.args == ("of another",)
        assert all(issubclass(one.category, UserWarning) and "PIL" in one.filename for one in caught)


def test_what_a_process_was_warned_of_before_hides_no_file(warned_of):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        with Image.open(warned_of[0]) as image:
            image.getexif()
        unnamed = len(caught)
        read_frame(warned_of[2])
    assert unnamed and names_in(caught, warned_of) == [0, 0, len(caught) - unnamed] and len(caught) > unnamed


def test_threads_name_their_own_files(tmp_path, picture):
    files = [tmp_path / f"{number}.jpg" for number in range(40)]
    for number, file in enumerate(files):
        with_cut_exif(file, picture) if number % 2 else picture.save(file)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        before = warnings.showwarning
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(read_frame, 5 * files))
        assert warnings.showwarning is before
    each = len(caught) // 20
    assert each and names_in(caught, files) == 20 * [0, each]


def test_warnings_of_workers_are_shown_by_the_run_once_for_each_file(warned_of):
    clips = TrainingClips([Tracklet((file,), 0) for file in warned_of], [0, 0, 0], seed=0, frames=1, size=(8, 4))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for epoch in range(2):
            list(load(clips, [[Draw(epoch, row, row)] for row in range(3)], workers=1))
    first, sound, second = names_in(caught, warned_of)
    assert (first, sound) == (second, 0) and first == len({str(one.message) for one in caught}) / 2 > 0
