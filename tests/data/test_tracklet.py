from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strfnet.data.tracklet import DataSet, Tracklet, natural_order


def test_tracklet_without_frames_is_refused():
    with pytest.raises(ValueError, match="'0007' has no frames"):
        Tracklet((), "0007")


def test_tracklet_is_a_record():
    tracklet = Tracklet((Path("a.jpg"),), 7, 1)
    assert tracklet == Tracklet((Path("a.jpg"),), 7, 1)
    with pytest.raises(FrozenInstanceError):
        tracklet.camera = 2


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 9)), unique_by=lambda pair: pair[0]))
def test_natural_order_is_the_order_of_the_numbers_however_they_are_padded(numbers):
    paths = [Path(f"0065C1T0002F{number:0{width}}.jpg") for number, width in numbers]
    counted = [int(path.stem.partition("F")[2]) for path in sorted(paths, key=natural_order)]
    assert counted == sorted(number for number, _ in numbers)


def test_natural_order_compares_any_two_names():
    names = ["b", "2", "a10", "a9", "", "10", "a", "a9b1", "01", "1"]
    assert [p.name for p in sorted(map(Path, names), key=natural_order)] == [
        "", "01", "1", "2", "10", "a", "a9", "a9b1", "a10", "b",
    ]  # fmt: skip


def test_a_tracklet_says_where_its_frames_are():
    assert Tracklet((Path("a/1.jpg"), Path("a/2.jpg")), 7).where == "a/1.jpg"
    drawn = Tracklet((np.zeros((4, 2, 3), np.uint8),), 7)
    assert drawn.where == "memory, identity 7"
    assert replace(drawn, details={"track": "3"}).where == "track 3"
    assert replace(drawn, camera="hall", details={"track": "3"}).where == "track 3 of camera hall"


def test_a_data_set_asks_only_for_rows_it_has():
    test = tuple(Tracklet((Path(f"{row}.jpg"),), row) for row in range(3))
    assert DataSet("walkers", (), test, query=(0,), gallery=(0, 1, 2)).query == (0,)
    for query, gallery, wrong in [
        ((3,), (0,), "query of walkers holds 3"),
        ((0,), (-1,), "gallery of walkers holds -1"),
    ]:
        with pytest.raises(ValueError, match=f"{wrong}, wanted rows of 3 test tracklets"):
            DataSet("walkers", (), test, query=query, gallery=gallery)
