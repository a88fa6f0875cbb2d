"""Everything that is wrong with a data set is listed, and the listing without it is read and trained on."""

import shutil
from pathlib import Path

import pytest
from data_trees import TREES

from strfnet.cli import main
from strfnet.data import check_data, read_data_set, write_listing
from strfnet.data.synthetic import draw_set, write_mars, write_walkers


@pytest.fixture
def own(tmp_path):
    """Two people to train on and three to test on, in two cameras, with two frames a tracklet."""
    for part, number in (("train", 2), ("test", 3)):
        write_walkers(tmp_path / "own" / part, identities=number, tracklets=2, frames=2, height=16, seed=number)
    return tmp_path / "own"


def spoil(own):
    """One fault of each kind. Returns the text of the finding of each."""
    damaged = own / "train/walker1/camera1/tracklet1/0002.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    empty = own / "train/walker2/camera1/tracklet3"
    empty.mkdir()
    mixed = own / "train/walker2/camera2/tracklet4"
    mixed.mkdir()
    (mixed / "0001.bmp").write_bytes(b"BM")
    (own / "test/walker1/camera2/tracklet2/0001.jpg").unlink()
    one = own / "test/walker1/camera2/tracklet2/0002.jpg"
    shutil.rmtree(own / "test/walker2/camera2/tracklet1")
    (own / "test/walker2/camera2/tracklet2/0001.jpg").write_bytes(b"")  # the last that camera2 saw
    copy, source = own / "test/walker3/camera2/tracklet2/0002.jpg", own / "train/walker2/camera1/tracklet1/0001.jpg"
    shutil.copy(source, copy)
    return {
        "damaged": [f"cannot read the frame {damaged}: ", f"cannot read the frame {own}/test/walker2/camera2/"],
        "unreadable": [f"{empty} holds no .jpeg, .jpg, .png images", f"{mixed / '0001.bmp'} looks like a frame"],
        "one_frame": [f"{one} is the only frame of its tracklet"],
        "one_camera": [
            "identity walker2 in test is seen by camera camera1 alone: 2 tracklets, of which the first is "
        ],
        "duplicate": [f"{copy} is {source}"],
    }


def test_every_fault_is_listed_and_left_out_of_the_listing(own, tmp_path, capsys):
    texts, listing = spoil(own), tmp_path / "good.csv"
    assert main(["check", str(own), "--workers", "2", "--write-listing", str(listing)]) == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    wanted = [f"{kind}: {text}" for kind, some in texts.items() for text in some]
    for text in wanted:
        assert sum(line.startswith(text) for line in lines) == 1, text
    assert len(lines) == len(wanted) + 1 and lines[-1] == f"13 tracklets without a finding are listed in {listing}"
    last = err.splitlines()[-1]
    assert all(f"{len(some)} {kind}" in last for kind, some in texts.items()) and last.startswith("strfnet: error: ")
    assert "19 of 19 tracklets checked" in err
    good = read_data_set("csv", listing)
    left = {frame for item in (*good.train, *good.test) for frame in item.frames}
    assert (
        len(good.train) == 7 and len(good.test) == 6 and {item.camera for item in good.test} == {"camera1", "camera2"}
    )
    assert not any("walker2" in str(frame) for item in good.test for frame in item.frames)
    assert all(frame.resolve().is_file() for frame in left)
    assert main(["check", str(listing), "--format", "csv"]) == 0
    assert capsys.readouterr().out == f"nothing is wrong with {listing}\n"


def test_what_is_allowed_is_neither_listed_nor_left_out(own, tmp_path, capsys):
    shutil.rmtree(own / "train")
    for folder in (own / "test").glob("*/camera2"):
        shutil.rmtree(folder)
    assert main(["check", str(own)]) == 1
    assert capsys.readouterr().out == "one_camera: all 3 identities in test are seen by one camera alone\n"
    assert main(["check", str(own), "--write-listing", str(tmp_path / "x.csv")]) == 1
    assert "no tracklet of folder own is left" in capsys.readouterr().err
    words = ["--allow", "[one_camera,one_frame]", "--write-listing", str(tmp_path / "x.csv")]
    assert main(["check", str(own), *words]) == 0
    assert len(read_data_set("csv", tmp_path / "x.csv").test) == 6


def test_lines_of_a_listing_are_read_one_by_one(own, tmp_path):
    listing = own / "some.csv"
    folders = [folder.relative_to(own) for folder in (own / "test/walker1").glob("*/*")]
    text = "path,identity,camera,subset\n" + "".join(f"{folder},1,{folder.parts[2]},test\n" for folder in folders)
    listing.write_text(f"{text}nothing,1,c,test\n{folders[0]},1,c,tset\n")
    data_set, findings = check_data("csv", listing)
    assert len(data_set.test) == 4 and [finding.kind for finding in findings] == ["unreadable"] * 2
    assert "line 6 of" in findings[0].text and "nothing is missing" in findings[0].text and "tset" in findings[1].text
    with pytest.raises(ValueError, match="line 6 of"):
        read_data_set("csv", listing)


@pytest.mark.parametrize("format", sorted(TREES))
def test_the_listing_of_every_format_is_the_same_data(format, tmp_path):
    root = TREES[format](tmp_path / "data")
    data_set, findings = check_data(format, root, complete=False)
    assert {finding.kind for finding in findings} <= {"one_frame", "one_camera", "duplicate"}
    (tmp_path / "lists").mkdir()
    count = write_listing(tmp_path / "lists" / "all.csv", data_set)
    again = read_data_set("csv", tmp_path / "lists" / "all.csv")
    assert len(again.train) + len(again.test) == count == len(data_set.train) + len(data_set.test)

    def seen(one, rows):
        return sorted([frame.resolve() for frame in one.test[row].frames] for row in rows)

    def known(one):
        return sorted((str(item.frames[0].resolve()), sorted(item.details.items())) for item in one.test)

    assert known(again) == known(data_set)
    assert seen(again, again.query) == seen(data_set, data_set.query)
    assert seen(again, again.gallery) == seen(data_set, data_set.gallery)
    assert [len(item.frames) for item in again.train] == [len(item.frames) for item in data_set.train]


def test_tracks_below_cameras_are_checked_without_identities(tmp_path, capsys):
    root, listing = tmp_path / "own", tmp_path / "tracks.csv"
    for seed, camera in enumerate(("gate", "yard")):
        write_walkers(root / camera, identities=1, cameras=1, tracklets=2, frames=2, height=16, seed=seed)
        for number, track in enumerate(sorted((root / camera).glob("*/*/*"))):
            track.rename(root / camera / str(number))
        shutil.rmtree(root / camera / "walker1")
    words = ["check", str(root), "--layout", "camera/track"]
    assert main([*words, "--write-listing", str(listing)]) == 0
    assert "4 tracklets without a finding" in capsys.readouterr().out
    data = read_data_set("folder", root, layout="camera/track")
    again = read_data_set("csv", listing)
    assert [(one.identity, one.camera, one.details) for one in again.test] == [
        (None, camera, {"track": track}) for camera in ("gate", "yard") for track in "01"
    ]
    frames = [[[frame.resolve() for frame in one.frames] for one in read.test] for read in (data, again)]
    assert frames[0] == frames[1]
    (root / "gate/1/0002.jpg").write_bytes(b"")
    assert main(words) == 1
    assert capsys.readouterr().out.startswith(f"damaged: cannot read the frame {root / 'gate/1/0002.jpg'}")
    assert main([*words, "--format", "csv"]) == 1  # its layout is its own


def test_an_error_of_the_whole_set_is_the_only_finding(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing")]) == 1
    assert capsys.readouterr().out.startswith(f"unreadable: {tmp_path / 'nothing'} is missing")
    write_mars(tmp_path / "mars", draw_set(train=2, test=2, cameras=2, frames=2, height=16))
    shutil.rmtree(tmp_path / "mars" / "info")
    data_set, (finding,) = check_data("mars", tmp_path / "mars", complete=False)
    assert data_set is None and finding.kind == "unreadable" and Path("info").name in finding.text
