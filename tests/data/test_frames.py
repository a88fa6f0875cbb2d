import re
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from strfnet.data.frames import IMAGENET_MEAN, IMAGENET_STD, read_clip, read_frame, read_pixels


@pytest.fixture
def picture():
    """Smooth enough for JPEG, with no symmetry, and no two sizes alike."""
    y, x = np.mgrid[0:48, 0:32]
    return Image.fromarray(np.stack([4 * y, 6 * x, 200 - 2 * y - 3 * x], axis=-1).astype(np.uint8))


def as_image(frame):
    assert frame.dtype == torch.float32 and frame.min() >= 0 and frame.max() <= 1
    return (frame * 255).permute(1, 2, 0).numpy()


def png(path, pixels):
    """A 16-bit PNG, which Pillow cannot write in colour."""
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.JPEG"])
def test_colour_is_read_as_it_was_written(tmp_path, picture, name):
    picture.save(tmp_path / name, quality=100, subsampling=0)
    np.testing.assert_allclose(as_image(read_frame(tmp_path / name)), np.asarray(picture), atol=3)


@pytest.mark.parametrize("mode", ["L", "1", "LA", "P"])
def test_grey_bits_and_palettes_become_colour(tmp_path, picture, mode):
    converted = picture.convert(mode)
    converted.save(tmp_path / "a.png")
    np.testing.assert_allclose(as_image(read_frame(tmp_path / "a.png")), np.asarray(converted.convert("RGB")))


def test_grey_jpeg_has_three_equal_channels(tmp_path, picture):
    picture.convert("L").save(tmp_path / "a.jpg", quality=100)
    image = as_image(read_frame(tmp_path / "a.jpg"))
    np.testing.assert_allclose(image[..., 1], np.asarray(picture.convert("L")), atol=2)
    assert (image == image[..., :1]).all()


def test_cmyk_jpeg_becomes_the_colours_it_shows(tmp_path, picture):
    cmyk = picture.convert("CMYK")
    cmyk.save(tmp_path / "a.jpg", quality=100, subsampling=0)
    np.testing.assert_allclose(as_image(read_frame(tmp_path / "a.jpg")), np.asarray(cmyk.convert("RGB")), atol=4)


def test_transparency_is_ignored(tmp_path, picture):
    picture.putalpha(Image.fromarray((np.arange(48 * 32).reshape(48, 32) % 256).astype(np.uint8)))
    picture.save(tmp_path / "a.png")
    np.testing.assert_allclose(as_image(read_frame(tmp_path / "a.png")), np.asarray(picture)[..., :3])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_scaled(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 65536, (6, 4, channels)).astype(np.uint16)
    png(tmp_path / "a.png", pixels)
    colour = pixels[..., :3] if channels > 2 else np.repeat(pixels[..., :1], 3, axis=-1)
    within = 1e-3 if channels == 1 else 1.0  # Pillow keeps 8 bits of all but plain grey
    np.testing.assert_allclose(as_image(read_frame(tmp_path / "a.png")), colour / 257.0, atol=within)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tmp_path, picture, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / name, exif=exif, quality=100, subsampling=0)
    with Image.open(tmp_path / name) as saved:
        upright = np.asarray(ImageOps.exif_transpose(saved).convert("RGB"))
    np.testing.assert_allclose(as_image(read_frame(tmp_path / name)), upright, atol=2)


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_file_cut_anywhere_is_refused_by_path(tmp_path, picture, name):
    picture.save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in range(0, len(content) - 16, 37):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(ValueError, match=re.escape(str(tmp_path / name))):
            read_frame(tmp_path / name)


def test_a_png_with_one_wrong_bit_is_refused_or_shows_the_same_picture(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    content, refused = (tmp_path / "a.png").read_bytes(), 0
    for at in range(0, len(content), 7):
        damaged = bytearray(content)
        damaged[at] ^= 1 << at % 8
        (tmp_path / "a.png").write_bytes(damaged)
        try:
            np.testing.assert_array_equal(as_image(read_frame(tmp_path / "a.png")), np.asarray(picture))
        except ValueError as error:
            assert "cannot read the frame" in str(error)
            refused += 1
    assert refused > 0.8 * len(range(0, len(content), 7))


def test_a_picture_too_large_to_be_one_is_refused(tmp_path, picture, monkeypatch):
    picture.save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 // 2 - 1)
    with pytest.raises(ValueError, match=r"cannot read the frame .*decompression bomb"):
        read_frame(tmp_path / "a.png")


def test_what_is_no_still_image_is_refused_by_path(tmp_path, picture):
    (tmp_path / "text.jpg").write_text("not an image\n" * 9)
    picture.save(tmp_path / "moving.png", save_all=True, append_images=[picture.rotate(90)])
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in (
        ("text.jpg", "cannot identify image file"),
        ("moving.png", "animation"),
        ("missing.jpg", "No such file"),
        ("folder.jpg", "it is a folder"),
    ):
        with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / name))}: .*{reason}"):
            read_frame(tmp_path / name)


@pytest.fixture
def frames(tmp_path):
    """Eight noisy frames of 20 x 10 pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (8, 20, 10, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tuple(tmp_path / f"{number}.png" for number in range(8)), pixels


def test_clip_holds_the_named_frames_in_order_normalised(frames):
    paths, pixels = frames
    clip = read_clip(paths, [5, 0, 7, 7], (20, 10))
    assert clip.shape == (3, 4, 20, 10) and clip.dtype == torch.float32
    for t, index in enumerate([5, 0, 7, 7]):
        for c in range(3):
            expected = (pixels[index, :, :, c] / 255 - IMAGENET_MEAN[c]) / IMAGENET_STD[c]
            np.testing.assert_allclose(clip[c, t].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(7, 3), (40, 30), (20, 4)])
def test_clip_is_resized_bilinear_and_antialiased_as_pillow_does(frames, size):
    paths, pixels = frames
    clip = read_clip(paths, [2], size)
    resized = Image.fromarray(pixels[2]).resize(size[::-1], Image.Resampling.BILINEAR)
    expected = (np.asarray(resized) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(clip[:, 0].permute(1, 2, 0).numpy(), expected, atol=0.02)  # Pillow rounds to 8 bits


@pytest.mark.parametrize("size", [(48, 20), (12, 8), (60, 50)])
def test_bilinear_pixels_are_bytes_as_pillow_rounds_them(frames, size):
    paths, pixels = frames
    clip = read_pixels(paths, [3, 1], size)
    assert clip.dtype == torch.uint8 and clip.is_contiguous()
    for t, index in enumerate([3, 1]):
        resized = np.asarray(Image.fromarray(pixels[index]).resize(size[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_allclose(clip[:, t].permute(1, 2, 0).numpy().astype(int), resized.astype(int), atol=1)


def test_frames_of_bytes_and_of_16_bits_share_a_clip(tmp_path, frames):
    grey = np.full((20, 10, 1), 30000, np.uint16)
    png(tmp_path / "grey.png", grey)
    clip = read_pixels((*frames[0], tmp_path / "grey.png"), [8, 2], (20, 10))
    assert clip.dtype == torch.float32
    np.testing.assert_allclose(clip[:, 0].numpy(), 30000 / 65535, atol=1e-6)
    np.testing.assert_allclose(clip[:, 1].permute(1, 2, 0).numpy(), frames[1][2] / 255, atol=1e-6)


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_far_larger_than_the_clip_is_decoded_at_a_fraction_of_its_size(tmp_path, orientation, monkeypatch):
    """Which changes less than JPEG itself; and never a file of less than four times the size."""
    y, x = np.mgrid[0:640, 0:320]
    pixels = np.stack([y * 0.4, x * 0.8, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95, exif=exif)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")))
    decoded = []
    draft = JpegImageFile.draft
    monkeypatch.setattr(JpegImageFile, "draft", lambda self, *args: (draft(self, *args), decoded.append(self.size)))
    for size, side in (((160, 80), 320), ((161, 80), 640), ((160, 81), 640), ((80, 40), 160), ((8, 4), 80)):
        wanted = size if orientation == 1 else size[::-1]
        clip = read_pixels([tmp_path / "a.jpg"], [0], wanted)
        expected = np.asarray(Image.fromarray(shown).resize(wanted[::-1], Image.Resampling.BILINEAR))
        apart = np.abs(clip[:, 0].permute(1, 2, 0).numpy().astype(float) - expected)
        assert max(decoded.pop()) == side and apart.mean() < 0.5 and apart.max() <= 3, size


def test_each_file_is_decoded_once(frames, monkeypatch):
    from strfnet.data import frames as room

    read = []
    monkeypatch.setattr(room, "_read", lambda path, *_: read.append(path) or torch.zeros(3, 4, 4))
    assert read_clip(frames[0], [1, 1, 2, 1], (4, 4)).shape == (3, 4, 4, 4)
    assert sorted(read) == [frames[0][1], frames[0][2]]


@pytest.mark.parametrize("indices", [[], [8], [0, -1]])
def test_indices_outside_the_tracklet_are_refused(frames, indices):
    with pytest.raises(ValueError, match=f"indices are {re.escape(str(indices))}, wanted one or more from 0 to 7"):
        read_clip(frames[0], indices, (4, 4))


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (4,), (3, 4, 4)])
def test_sizes_without_pixels_are_refused(frames, size):
    with pytest.raises(ValueError, match="size is"):
        read_clip(frames[0], [0], size)


def test_a_frame_in_memory_is_read_as_one_on_disk(tmp_path, picture):
    picture.save(tmp_path / "a.png")
    pixels = np.asarray(picture).copy()
    assert torch.equal(read_frame(pixels), read_frame(tmp_path / "a.png"))
    pixels.setflags(write=False)
    assert torch.equal(read_frame(pixels[:, ::-1]), read_frame(pixels).flip(2))
    assert torch.equal(read_clip([pixels], [0, 0], (32, 16)), read_clip([tmp_path / "a.png"], [0, 0], (32, 16)))
    for wrong in (pixels.astype(np.float32), pixels[..., :2], pixels[..., 0]):
        with pytest.raises(ValueError, match=r"in memory is \w+ \(.*\), wanted uint8 \(h, w, 3\)"):
            read_frame(wrong)


def test_bicubic_agrees_with_pillow_and_its_overshoot_is_cut_off(frames):
    paths, pixels = frames
    channels = [Image.fromarray(channel.astype(np.float32)) for channel in np.moveaxis(pixels[2], -1, 0)]
    resized = np.stack([channel.resize((30, 40), Image.Resampling.BICUBIC) for channel in channels], axis=-1)
    assert resized.min() < 0 and resized.max() > 255
    expected = (resized.clip(0, 255) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    clip = read_clip(paths, [2], (40, 30), interpolation="bicubic")
    np.testing.assert_allclose(clip[:, 0].permute(1, 2, 0).numpy(), expected, atol=1e-4)


def test_other_interpolations_are_refused(frames):
    with pytest.raises(ValueError, match="interpolation must be one of bilinear, bicubic, got 'nearest'"):
        read_clip(frames[0], [2], (4, 4), interpolation="nearest")
