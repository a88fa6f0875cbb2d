"""MARS: tracklets of 1261 pedestrians in six cameras, made by a tracker; and G2A-VReID, in the same layout."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from strfnet.data.readers.directory import names_in
from strfnet.data.readers.published import check_counts, checked, data_root, read_lines, read_matlab
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet

_SOURCE = "of MARS; it is in folder info of the authors' evaluation code, which is a download of its own"
_PUBLISHED = {
    "training tracklets": 8298,
    "training identities": 625,
    "training frames": 509914,
    "test tracklets": 12180,
    "test identities": 634,
    "test frames": 681089,
    "junk tracklets": 870,
    "distractor tracklets": 3248,
    "queries": 1980,
    "query identities": 626,
}


def read_mars(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read MARS from the folder with ``bbox_train``, ``bbox_test`` and ``info``, or from the one above it.

    The frames of a tracklet are lines ``first`` to ``last`` of ``info/train_name.txt`` or ``test_name.txt``,
    according to ``info/tracks_train_info.mat`` and ``tracks_test_info.mat``, which also have identities and cameras;
    ``info/query_IDX.mat`` has the row numbers of the queries. The gallery is the whole test: queries, distractors
    (identity 0) and junk (identity -1, folder ``00-1``), which rankings ignore.

    Checked: the rows of a table cover all lines in order; the names of a row have its identity and camera; all files
    exist; queries are neither junk nor distractors. Files that no line names are ignored.

    Args:
        root: the folder.
        complete: whether to require the published counts.

    Raises: ValueError naming the file of what is missing or wrong; ImportError without scipy.
    Source: Zheng et al., MARS: A Video Benchmark for Large-Scale Person Re-identification, ECCV 2016; the
    evaluation code's tables.
    """
    base = data_root(root, holds="bbox_train", inside="MARS")
    return checked(_read(base, "MARS"), base, complete=complete, published=_PUBLISHED)


def read_g2a_vreid(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read G2A-VReID, ground to aerial, in the layout of MARS (see `read_mars`).

    Each identity has one tracklet from the ground and one from the air. The gallery is the test without the queries.

    Args:
        root: the folder with ``bbox_train``, ``bbox_test`` and ``info``, or the one above it.
        complete: whether to require the published counts, which are those of the first version.

    Raises: ValueError naming the file of what is missing or wrong; ImportError without scipy.
    Source: Zhang et al., Cross-Platform Video Person ReID, ECCV 2024; the layout as public code reads it.
    """
    base = data_root(root, holds="bbox_train", inside="G2A-VReID")
    data = _read(base, "G2A-VReID")
    data = replace(data, gallery=tuple(row for row in data.gallery if row not in set(data.query)))
    if complete:
        tracklets = (*data.train, *data.test)
        found = {"tracklets": len(tracklets), "identities": len({item.identity for item in tracklets})}
        check_counts(data.name, base, found=found, published={"tracklets": 5576, "identities": 2788})
    return data if complete else data.named_after(base)


def _read(base: Path, name: str) -> DataSet:
    train, test = _tracklets(base, "train"), _tracklets(base, "test")
    stray = next((tracklet for tracklet in train if tracklet.identity in (JUNK, DISTRACTOR)), None)
    if stray is not None:
        raise ValueError(f"{stray.where} is of identity {stray.identity}, wanted none of it in the training")
    query = _queries(base / "info" / "query_IDX.mat", test)
    return DataSet(name, train, test, query, tuple(range(len(test))))


def _tracklets(base: Path, part: str) -> tuple[Tracklet, ...]:
    listing, table_file = base / "info" / f"{part}_name.txt", base / "info" / f"tracks_{part}_info.mat"
    names = [line.strip() for line in read_lines(listing, f"the frames' names, one in a line, {_SOURCE}")]
    twice = len(names) - len(set(names))
    if twice:
        raise ValueError(f"{listing} names {twice} frames more than once, wanted each once")
    table = read_matlab(table_file, f"track_{part}_info", f"the table of tracklets {_SOURCE}")
    _check_table(table, table_file, len(names), listing)
    unread: dict[str, set[str]] = {}  # names by folder; those that are read are freed, since a million take 70 MiB
    tracklets = []
    for number, (first, last, identity, camera) in enumerate(table.tolist(), start=1):
        folder = "00-1" if identity == JUNK else f"{identity:04d}"
        place = base / f"bbox_{part}" / folder
        if folder not in unread:
            unread[folder] = names_in(place)
        left, frames = unread[folder], []
        for line, name in enumerate(names[first - 1 : last], start=first):
            if not name.startswith(f"{folder}C{camera}T"):
                row = f"row {number} of {table_file} gives identity {identity} and camera {camera}"
                raise ValueError(f"line {line} of {listing} is {name!r}, but {row}")
            if name not in left:
                raise ValueError(f"{place / name} is missing, but line {line} of {listing} names it")
            left.remove(name)
            frames.append(place / name)
        unread[folder] = left or set()  # a set that was emptied keeps its table
        tracklets.append(Tracklet(tuple(frames), identity, camera))
    return tuple(tracklets)


def _check_table(table: NDArray[np.int64], path: Path, lines: int, listing: Path) -> None:
    if table.shape[1] != 4:
        raise ValueError(f"{path} has {table.shape[1]} columns, wanted first, last, identity and camera")
    first, last = table[:, 0], table[:, 1]
    follows = np.concatenate([[1], last[:-1] + 1])
    wrong = np.flatnonzero((first != follows) | (last < first))
    if wrong.size:
        row = int(wrong[0])
        wanted = f"from {follows[row]}, where the row before ended, to that or more"
        raise ValueError(f"row {row + 1} of {path} runs from {first[row]} to {last[row]}, wanted {wanted}")
    if last[-1] != lines:
        raise ValueError(f"{listing} has {lines} lines, wanted {last[-1]}, where {path} ends")


def _queries(path: Path, test: tuple[Tracklet, ...]) -> tuple[int, ...]:
    rows = (read_matlab(path, "query_IDX", f"the numbers of the queries {_SOURCE}").ravel() - 1).tolist()
    if len(set(rows)) < len(rows):
        raise ValueError(f"{path} numbers a query twice, wanted each once")
    for row in rows:
        if not 0 <= row < len(test):
            raise ValueError(f"{path} numbers a query {row + 1}, wanted 1 to {len(test)}")
        if test[row].identity in (JUNK, DISTRACTOR):
            raise ValueError(f"query {row + 1} of {path} is of identity {test[row].identity}, wanted a person")
    return tuple(rows)
