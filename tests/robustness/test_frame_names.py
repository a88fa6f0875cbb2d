"""No frame is left out, nothing else becomes a frame or a label, and the order is documented or refused."""

import re

import pytest
from PIL import Image

from strfnet.data import read_data_set, read_folder

ENDINGS = ["jfif", "jpe", "ppm", "pgm", "pbm", "jxl", "heif", "heic", "hif", "tga", "webp", "bmp", "tif", "tiff"]
ENDINGS += ["gif", "avif", "jp2", "psd", "dds", "qoi", "dng", "svg"]
SYSTEMS = ["@eaDir", "#recycle", "#snapshot", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information"]


def write(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 8)).save(path, "JPEG")
    return root


def reads(root, kind):
    if kind == "folder":
        return read_folder(root)
    (root / "list.csv").write_text("path,identity,subset\np/c/t,p,test\n")
    return read_data_set("csv", root / "list.csv").test


@pytest.mark.parametrize("kind", ["folder", "csv"])
@pytest.mark.parametrize("ending", [*ENDINGS, *(ending.upper() for ending in ENDINGS[:4])])
def test_an_image_of_another_kind_is_named(tmp_path, ending, kind):
    write(tmp_path, "p/c/t/1.jpg", f"p/c/t/2.{ending}")
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path}/p/c/t/2.{ending} looks like a frame, but is none of")
    ):
        reads(tmp_path, kind)


@pytest.mark.parametrize("kind", ["folder", "csv"])
@pytest.mark.parametrize("name", ["1.png", "1.JPEG", "1_mask.png", "1-mask.jpg", "2_SEG.png", "1_depth.png"])
def test_a_mask_beside_the_frames_is_named(tmp_path, name, kind):
    write(tmp_path, "p/c/t/1.jpg", "p/c/t/3.jpg", f"p/c/t/{name}")
    with pytest.raises(ValueError, match="wanted the frames alone") as raised:
        reads(tmp_path, kind)
    assert name in str(raised.value)


@pytest.mark.parametrize("place", ["", "p/", "p/c/", "p/c/t/"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_folders_that_systems_add_are_no_labels(tmp_path, name, place):
    write(tmp_path, "p/c/t/1.jpg", f"{place}{name}/x/y/1.jpg")
    (tracklet,) = read_folder(tmp_path)
    assert (tracklet.identity, tracklet.camera, len(tracklet.frames)) == ("p", "c", 1)


@pytest.mark.parametrize(
    "names", [("0.5", "0.25"), ("10.125", "2.5", "3.5"), ("-1", "-2"), ("-1", "0"), ("-0.5", "0.5")]
)
def test_an_ambiguous_order_is_refused(tmp_path, names):
    write(tmp_path, *(f"p/c/t/{name}.jpg" for name in names))
    with pytest.raises(ValueError, match="ambiguous, wanted"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("1", "2", "10"),
        ("0.25", "0.50", "10.00"),
        ("frame1", "frame9", "frame10"),
        ("cam1.9", "cam1.10"),
        ("a-1", "a-2"),
        ("2024-01-02", "2024-01-10"),
    ],
)
def test_the_documented_order_is_kept(tmp_path, names):
    write(tmp_path, *(f"p/c/t/{name}.jpg" for name in reversed(names)))
    (tracklet,) = read_folder(tmp_path)
    assert [frame.stem for frame in tracklet.frames] == list(names)
