from dataclasses import replace

import numpy as np
import pytest
from scipy.io import loadmat

from strfnet.data.frames import read_frame
from strfnet.data.readers.mars import read_mars
from strfnet.data.synthetic import draw_gait_set, draw_set, write_mars
from strfnet.data.tracklet import DataSet, Tracklet

SMALL = {"train": 3, "test": 2, "cameras": 2, "tracklets": 2, "distractors": 3, "junk": 1, "frames": 3}


@pytest.fixture(scope="module")
def drawn():
    return draw_set(**SMALL, seed=4)


def labels(tracklets):
    return [(tracklet.identity, tracklet.camera) for tracklet in tracklets]


def pixels(tracklets):
    return np.array([np.stack(tracklet.frames) for tracklet in tracklets])


def test_a_set_has_junk_distractors_and_walkers_in_the_places_of_mars(drawn):
    both = [1, 1, 2, 2]
    assert labels(drawn.train) == [(who, camera) for who in (1, 2, 3) for camera in both]
    nobody = [(-1, 1), (0, 1), (0, 2), (0, 1)]
    assert labels(drawn.test) == nobody + [(who, camera) for who in (4, 5) for camera in both]
    assert drawn.query == (4, 6, 8, 10) and drawn.gallery == tuple(range(12))
    assert pixels(drawn.test).shape == (12, 3, 64, 32, 3)


def test_a_set_is_a_pure_function_in_which_no_tracklet_is_shown_twice(drawn):
    clips = pixels((*drawn.train, *drawn.test))
    again, other = draw_set(**SMALL, seed=4), draw_set(**SMALL, seed=5)
    np.testing.assert_array_equal(clips, pixels((*again.train, *again.test)))
    assert (abs(clips - pixels((*other.train, *other.test)).astype(float)).mean(axis=(1, 2, 3, 4)) > 5).all()
    assert len({clip.tobytes() for clip in clips}) == len(clips)


def test_cameras_see_a_walker_at_different_times(drawn):
    one, other = (np.diff(clip.astype(float), axis=0).ravel() for clip in pixels(drawn.train[:4:2]))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.5  # the same steps and noise would be 1, but for the colours


def test_more_cameras_or_tracklets_do_not_change_those_that_were_there(drawn):
    larger = draw_set(**SMALL | {"cameras": 3, "tracklets": 3}, seed=4)
    np.testing.assert_array_equal(larger.train[3].frames, drawn.train[2].frames)  # camera 2, first tracklet


def test_a_set_written_in_the_layout_of_mars_is_read_back_by_its_reader(tmp_path, drawn):
    write_mars(tmp_path / "walkers", drawn)
    read = read_mars(tmp_path / "walkers", complete=False)
    assert [path.name for path in tmp_path.iterdir()] == ["walkers"]
    assert (labels(read.train), labels(read.test)) == (labels(drawn.train), labels(drawn.test))
    assert (read.query, read.gallery) == (drawn.query, drawn.gallery)
    for one, other in zip((*read.train, *read.test), (*drawn.train, *drawn.test), strict=True):
        assert len(one.frames) == len(other.frames)
        for path, frame in zip(one.frames, other.frames, strict=True):
            decoded = read_frame(path).permute(1, 2, 0).numpy() * 255
            assert abs(decoded - frame).mean() < 9  # JPEG thins out colour; other frames are farther
    names = [path.name for path in read.test[7].frames]
    assert names == ["0004C2T0002F001.jpg", "0004C2T0002F002.jpg", "0004C2T0002F003.jpg"]
    assert read.test[0].frames[0].parts[-3:] == ("bbox_test", "00-1", "00-1C1T0001F001.jpg")


def test_tables_are_of_the_types_and_shapes_of_mars(tmp_path, drawn):
    write_mars(tmp_path / "walkers", drawn)
    info = tmp_path / "walkers" / "info"
    test, query = (
        loadmat(info / f"{file}.mat")[name]
        for file, name in (("tracks_test_info", "track_test_info"), ("query_IDX", "query_IDX"))
    )
    assert (test.dtype, test.shape, query.dtype, query.shape) == (np.int32, (12, 4), np.uint16, (1, 4))
    assert test[:2].tolist() == [[1, 3, -1, 1], [4, 6, 0, 1]] and query.tolist() == [[5, 7, 9, 11]]
    assert len((info / "test_name.txt").read_text().splitlines()) == test[-1, 1] == 36


def test_rows_in_any_order_and_tracklets_of_any_length_are_put_in_that_of_mars(tmp_path):
    frames = tuple(np.full((8, 4, 3), value, dtype=np.uint8) for value in range(0, 250, 50))
    train = (Tracklet(frames[:2], 9, 1), Tracklet(frames[:1], 3, 2))
    test = (
        Tracklet(frames[:3], 8, 1),
        Tracklet(frames[3:], -1, 2),
        Tracklet(frames[:1], 7, 6),
        Tracklet(frames, 8, 2),
    )
    write_mars(tmp_path / "set", DataSet("own", train, test, query=(3, 2), gallery=(0, 1)))
    read = read_mars(tmp_path / "set", complete=False)
    assert labels(read.train) == [(3, 2), (9, 1)]
    assert labels(read.test) == [(-1, 2), (7, 6), (8, 1), (8, 2)]
    assert [len(tracklet.frames) for tracklet in read.test] == [2, 1, 3, 5]
    assert labels(read.test[row] for row in read.query) == [(8, 2), (7, 6)]
    assert read_frame(read.test[0].frames[1]).mul(255).mean().round() == 200


def test_a_set_is_not_written_over_anything_and_leaves_no_half(tmp_path, drawn):
    (tmp_path / "note.txt").touch()
    with pytest.raises(ValueError, match="exists already"):
        write_mars(tmp_path, drawn)
    broken = replace(drawn.test[-1], frames=(np.zeros((4, 4, 9), np.uint8),))
    with pytest.raises(Exception, match=r"."):
        write_mars(tmp_path / "new", replace(drawn, test=(*drawn.test[:-1], broken)))
    assert not (tmp_path / "new").exists()
    write_mars(tmp_path / "new", drawn)  # what was left of the broken attempt is no obstacle
    assert len(read_mars(tmp_path / "new", complete=False).test) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"identity": "anna"}, "identity of a tracklet is 'anna', wanted an integer from -1 to 9999"),
        ({"identity": 10_000}, "identity of a tracklet is 10000"),
        ({"camera": None}, "camera of a tracklet is None, wanted an integer from 1 to 9"),
        ({"camera": 0}, "camera of a tracklet is 0"),
    ],
)
def test_what_the_layout_cannot_say_is_refused(tmp_path, drawn, change, said):
    with pytest.raises(ValueError, match=said):
        write_mars(tmp_path / "set", replace(drawn, train=(replace(drawn.train[0], **change),)))
    with pytest.raises(ValueError, match="are files, wanted arrays in memory"):
        write_mars(tmp_path / "set", replace(drawn, train=(replace(drawn.train[0], frames=(tmp_path / "a.jpg",)),)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"train": 0}, {"test": 0}, {"cameras": 1}, {"tracklets": 0}, {"junk": -1}])
def test_sets_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValueError, match=f"got .*{next(iter(wrong))}={next(iter(wrong.values()))}.* wanted at least"):
        draw_set(**SMALL | wrong)


def test_a_gait_set_is_a_pure_function_whose_queries_are_of_camera_1():
    data = draw_gait_set(train=2, test=1, cameras=2, tracklets=4)
    assert labels(data.train) == [(who, camera) for who in (1, 2, 3, 4) for camera in (1, 2) for _ in range(4)]
    assert labels(data.test) == [(1001, 1), (1001, 2), (1002, 1), (1002, 2)]
    assert (data.query, data.gallery) == ((0, 2), (1, 3))
    again, other = (draw_gait_set(train=2, test=1, cameras=2, tracklets=4, seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(pixels(data.test), pixels(again.test))
    assert abs(pixels(data.test)[0].astype(float) - pixels(other.test)[0]).mean() > 5


@pytest.mark.parametrize("wrong", [{"train": 1}, {"test": 0}, {"cameras": 1}, {"tracklets": 3}])
def test_gait_sets_that_are_too_small_are_refused(wrong):
    with pytest.raises(ValueError, match=f"got .*{next(iter(wrong))}={next(iter(wrong.values()))}.* wanted at least"):
        draw_gait_set(**wrong)
