"""Boxes from the files of trackers: each format, and what is refused because it has two readings."""

import json
import re

import pytest

from strfnet.data.tracks import Box, read_tracks


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def refused(paths, *said, **options):
    with pytest.raises(ValueError, match="(?s)" + ".*".join(map(re.escape, map(str, said)))):
        read_tracks(paths, **options)


WANTED = [Box(0, "2", 10, 20, 40, 80), Box(1, "2", 12, 20, 42, 80), Box(1, "10", 5, 6, 12, 14)]


def test_mot_text_counts_frames_from_1_and_sorts_tracks_as_numbers(tmp_path):
    lines = ["2,10,5,6,7,8,0.5,-1,-1,-1", "1,2,10,20,30,60,0.9,-1,-1,-1", "", "2,2,12,20,30,60,1,-1,-1,-1"]
    assert read_tracks(write(tmp_path / "a.txt", *lines)) == WANTED
    assert read_tracks(write(tmp_path / "b.txt", *(line.replace(",", " ") for line in lines))) == WANTED


def test_mot_ground_truth_gives_pedestrians_that_count(tmp_path):
    rows = ["1,1,1,2,3,4,1,1,1", "1,2,1,2,3,4,0,1,1", "1,3,1,2,3,4,1,7,1"]
    assert [box.track for box in read_tracks(write(tmp_path / "gt.txt", *rows))] == ["1"]


def test_ultralytics_gives_fractions_and_people_alone(tmp_path):
    write(tmp_path / "labels/v_1.txt", "0 0.5 0.5 0.2 0.4 0.91 7", "2 0.5 0.5 0.2 0.4 0.8 8")
    write(tmp_path / "labels/v_12.txt", "0 0.25 0.5 0.1 0.4 7")
    first, second = read_tracks(tmp_path / "labels")
    assert (first.frame, first.track, second.frame) == (0, "7", 11) and first.relative
    assert first.in_pixels(100, 200) == (40, 60, 60, 140)
    assert first.in_pixels(100, 200, padding=0.5) == (30, 20, 70, 180)


def test_json_lines_and_csv_name_their_columns(tmp_path):
    rows = [
        {
            "frame": box.frame,
            "track_id": int(box.track),
            "x1": box.left,
            "y1": box.top,
            "x2": box.right,
            "y2": box.bottom,
        }
        for box in WANTED
    ]
    assert read_tracks(write(tmp_path / "a.jsonl", *map(json.dumps, rows))) == WANTED
    sizes = [f"{n},{b.frame},{b.track}.0,{b.left},{b.top},{b.right - b.left},{b.bottom - b.top},0.9"
             for n, b in enumerate(WANTED)]  # fmt: skip
    pandas = write(tmp_path / "b.csv", ",frame,track,left,top,width,height,score", *sizes)
    assert read_tracks(pandas) == WANTED
    assert read_tracks(pandas, first_frame=0) == WANTED


def test_tracks_of_several_files_are_named_after_them(tmp_path):
    files = [write(tmp_path / f"{name}.txt", "1,1,1,2,3,4,0.9,-1,-1,-1") for name in "ab"]
    assert [box.track for box in read_tracks(files)] == ["a-1", "b-1"]


def test_two_readings_are_refused_with_both(tmp_path):
    mot = write(tmp_path / "a.txt", "0,1,1,2,3,4,0.9,-1,-1,-1")
    refused(mot, "line 1", "frame 0", "count from 1", "first_frame 0")
    assert read_tracks(mot, first_frame=0)[0].frame == 0
    late = write(tmp_path / "a.jsonl", '{"frame": 3, "track": 1, "left": 1, "top": 2, "width": 3, "height": 4}')
    refused(late, "count from 0", "from 1", "first_frame")
    assert [read_tracks(late, first_frame=n)[0].frame for n in (0, 1)] == [3, 2]
    unit = write(tmp_path / "a.csv", "frame,track,left,top,right,bottom", "0,1,0.1,0.2,0.5,1.0")
    refused(unit, "fractions", "pixels", "units")
    assert read_tracks(unit, units="relative")[0].in_pixels(100, 100) == (10, 20, 50, 100)
    refused(write(tmp_path / "b.csv", "frame,track,x,y,w,h", "0,1,1,2,3,4"), "corner or the centre", "left, top")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,-1,1,2,3,4,0.9,-1,-1,-1", "detections without tracks"),
        ("1,1,1,2,0,4,0.9,-1,-1,-1", "without width or height"),
        ("1,1,1,2", "4 columns"),
        ("1.5,1,1,2,3,4,1", "whole number"),
        ("1,1,nan,2,3,4,1", "'nan', wanted a number"),
        ("1,1,1,2,3,4,1\n1,1,1,2,3,4,1", "line 2 of"),
        ("", "holds no boxes"),
    ],
)
def test_lines_that_are_no_tracks_are_named(tmp_path, line, said):
    refused(write(tmp_path / "a.txt", *(["1,9,1,2,3,4,1", line] if line else [""])), said)


def test_names_that_are_no_folders_and_files_that_are_missing_are_named(tmp_path):
    head = "frame,track,left,top,width,height"
    refused(write(tmp_path / "a.csv", head, "0,../up,1,2,3,4"), "line 2", "'../up'", "plain name")
    refused(write(tmp_path / "b.csv", "frame,trak,left,top,width,height", "0,1,1,2,3,4"), "nearest to track: trak")
    refused(tmp_path / "none.txt", "none.txt is missing")
    refused(write(tmp_path / "c.jsonl", "{"), "line 1", "not JSON")
    refused([tmp_path / "a.csv", tmp_path / "x/a.csv"], "different names")
    refused(tmp_path, "no result of ultralytics")
