"""Joint training: tracklets of several data sets, whose equal names stay different."""

from dataclasses import replace
from pathlib import Path

import pytest

from strfnet.data.joining import join_training
from strfnet.data.tracklet import DataSet, Tracklet
from strfnet.training import identity_labels


def data_of(name, people):
    def seen(identity, camera):
        return Tracklet((Path(f"{name}_{identity}.jpg"),), identity, camera, {"clothes": "red"})

    train = tuple(seen(identity, camera) for identity, camera in people)
    return DataSet(name, train, (seen(9, 1), seen(9, 2)), (0,), (1,), "MARS", 3)


def test_equal_identities_and_cameras_of_different_sets_stay_different():
    one, other = data_of("MARS", [(1, 1), (2, 1)]), data_of("Duke", [(1, 1), (1, None), ("1", 2)])
    joined = join_training(one, [other])
    assert [(item.identity, item.camera) for item in joined.train] == [
        *(("MARS/1", "MARS/1"), ("MARS/2", "MARS/1"), ("Duke/1", "Duke/1"), ("Duke/1", None), ("Duke/1", "Duke/2"))
    ]
    assert len(set(identity_labels(joined.train))) == 3
    assert [item.frames for item in joined.train] == [item.frames for item in (*one.train, *other.train)]
    assert joined.train[0].details == {"clothes": "red"}
    assert replace(joined, train=()) == replace(one, train=())  # the test is that of the first


def test_sets_of_one_name_or_without_training_are_refused():
    one = data_of("MARS", [(1, 1)])
    with pytest.raises(ValueError, match="two data sets are named 'MARS', wanted different names"):
        join_training(one, [one])
    with pytest.raises(ValueError, match="Duke has no training tracklets"):
        join_training(one, [data_of("Duke", [])])
