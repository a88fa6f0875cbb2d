"""CSV files are separated by commas; of another separator, its name is in the error, and nothing is lost."""

import numpy as np
import pytest

from strfnet.data import crop_video, read_listing, read_tracks
from strfnet.data.crops import LISTING
from strfnet.data.tracks import Box

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def table(separator, *rows):
    return "".join(separator.join(row.split()) + "\n" for row in rows)


@pytest.mark.parametrize("sign", SEPARATORS)
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_a_listing_names_the_separator(tmp_path, sign, start):
    file = tmp_path / "list.csv"
    file.write_text(start + table(sign, "path identity subset", "day1 7 train"), encoding="utf-8")
    with pytest.raises(
        ValueError, match=f"line . of {file} separates its columns by {SEPARATORS[sign]}, wanted commas"
    ):
        read_listing(file)


@pytest.mark.parametrize("sign", SEPARATORS)
def test_tracks_name_the_separator(tmp_path, sign):
    file = tmp_path / "tracks.csv"
    file.write_text(table(sign, "frame track left top width height", "0 1 2 3 4 5"))
    with pytest.raises(
        ValueError, match=f"line 1 of {file} separates its columns by {SEPARATORS[sign]}, wanted commas"
    ):
        read_tracks(file)


def test_a_quoted_name_of_a_column_may_hold_a_semicolon(tmp_path):
    (tmp_path / "tracks.csv").write_text('frame,track,left,top,width,height,"a;b"\n0,1,2,3,4,5,6\n')
    assert len(read_tracks(tmp_path / "tracks.csv")) == 1


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("path;identity;camera;subset\nyard/1;Ann;yard;query\n", "separates its columns by semicolons"),
        ("name,person\nyard/1,Ann\n", "has columns name, person, wanted path and camera"),
    ],
)
def test_a_listing_that_a_spreadsheet_has_saved_anew_is_kept(tmp_path, content, reason):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    boxes = [Box(frame, "1", 4, 4, 36, 44) for frame in range(2)]
    file = tmp_path / "out" / LISTING
    file.parent.mkdir()
    file.write_text(content)
    with pytest.raises(ValueError, match=f"line 1 of {file} {reason}"):
        crop_video(tmp_path / "v.mkv", boxes, tmp_path / "out", camera="yard")
    assert file.read_text() == content and not list(tmp_path.rglob("*.jpg"))
