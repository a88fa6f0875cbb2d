"""One training set of several data sets."""

from collections.abc import Sequence
from dataclasses import replace

from strfnet.data.tracklet import DataSet, Tracklet


def join_training(data_set: DataSet, others: Sequence[DataSet]) -> DataSet:
    """Returns a data set that trains on several and tests as the first does.

    The name of its data set stands before each training identity and camera, as in "MARS/2", so that equal numbers of
    different data sets stay different people and cameras.

    Args:
        data_set: the first; its test tracklets, queries, gallery and protocols are kept as they are.
        others: the others, of which only the training tracklets are used.

    Raises: ValueError if two have the same name, or one has no training tracklets.
    """
    parts = [data_set, *others]
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two data sets are named {twice!r}, wanted different names, which keep identities apart")
    empty = next((part.name for part in parts if not part.train), None)
    if empty is not None:
        raise ValueError(f"{empty} has no training tracklets, wanted some of every data set that is joined")
    return replace(data_set, train=tuple(_named(part.name, item) for part in parts for item in part.train))


def _named(name: str, tracklet: Tracklet) -> Tracklet:
    camera = None if tracklet.camera is None else f"{name}/{tracklet.camera}"
    return replace(tracklet, identity=f"{name}/{tracklet.identity}", camera=camera)
