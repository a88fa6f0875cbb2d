"""What is wrong with a data set on disk, found before anything is computed from it."""

import csv
import glob
import io
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from strfnet.data.choices import Kind
from strfnet.data.frames import read_frame
from strfnet.data.readers.directory import collecting, entries, frames_among
from strfnet.data.readers.folder import first_queries
from strfnet.data.readers.formats import read_data_set
from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet
from strfnet.system.files import write_atomically
from strfnet.system.names import check_utf8
from strfnet.system.progress import ProgressLine


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set.

    Args:
        kind: one of

            - "unreadable": a folder or a line that the reader refuses, such as an empty folder
            - "damaged": a file that cannot be decoded
            - "one_frame": a tracklet of one frame
            - "one_camera": an identity that is seen by one camera alone
            - "duplicate": a tracklet with frames that are, byte for byte, those of an earlier one
        text: what is wrong, with the path.
        rows: the tracklets to leave out, as rows of ``(*data_set.train, *data_set.test)``.
    """

    kind: Kind
    text: str
    rows: tuple[int, ...] = ()


def check_data(
    format: str,
    root: str | Path,
    *,
    allow: Collection[Kind] = (),
    workers: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> tuple[DataSet | None, list[Finding]]:
    """Reads a data set and decodes all of its frames, in threads.

    Args:
        format: as for `read_data_set`.
        root: as for `read_data_set`.
        allow: kinds that are no findings for these data.
        workers: threads; None for one for each processor.
        progress: whether to write the progress to stderr.
        settings: further arguments of `read_data_set`.

    Returns: the data set without what its reader refuses, and the findings. The folders of format "folder" and the
    lines of "csv" are read one by one; of another format the first error is the only finding, and the data set None.
    The cameras of an identity are those of its tracklets without another finding.
    """
    with collecting() as errors:
        try:
            data_set = read_data_set(format, root, **settings)
        except ValueError as error:
            return None, [Finding("unreadable", str(one)) for one in (*errors, error)]
    tracklets = (*data_set.train, *data_set.test)
    found = [Finding("unreadable", str(error)) for error in errors]
    found += _of_frames(tracklets, _decoded(tracklets, workers, progress))
    found += [
        Finding("one_frame", f"{tracklet.where} is the only frame of its tracklet", (row,))
        for row, tracklet in enumerate(tracklets)
        if len(tracklet.frames) == 1
    ]
    found = [finding for finding in found if finding.kind not in allow]
    left_out = {row for finding in found for row in finding.rows}
    good = {row: tracklet for row, tracklet in enumerate(tracklets) if row not in left_out}
    if "one_camera" not in allow:
        start = len(data_set.train)
        found += _of_cameras("train", {row: one for row, one in good.items() if row < start})
        found += _of_cameras("test", {row: one for row, one in good.items() if row >= start})
    return data_set, found


def write_listing(path: Path, data_set: DataSet, *, without: Collection[int] = ()) -> int:
    """Writes a listing of a data set, which the format "csv" reads.

    Args:
        path: the CSV file. Its paths are relative to its folder where the frames are below it, else absolute.
        data_set: the data set.
        without: rows of ``(*data_set.train, *data_set.test)`` that are left out.

    Returns: the number of tracklets.
    Raises: ValueError if no tracklet is left, if a name is no UTF-8, or if neither a folder nor a pattern of names
    holds a tracklet's frames alone.
    """
    test = data_set.test
    derived = data_set.query == first_queries(test) and data_set.gallery == tuple(range(len(test)))
    parts = {"test": data_set.gallery} if derived else {"query": data_set.query, "gallery": data_set.gallery}
    lines = [(row, "train", tracklet) for row, tracklet in enumerate(data_set.train)]
    lines += [(len(data_set.train) + row, part, test[row]) for part, rows in parts.items() for row in rows]
    kept = [(part, tracklet) for row, part, tracklet in lines if row not in {*without}]
    if not kept:
        raise ValueError(f"no tracklet of {data_set.name} is left for {path}")
    details = dict.fromkeys(key for _, tracklet in kept for key in tracklet.details)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "identity", "camera", "subset", *details])
    for part, one in kept:
        special: dict[object, str] = {None: "", JUNK: "junk", DISTRACTOR: "distractor"}
        identity = special.get(one.identity, one.identity)
        camera = "" if one.camera is None else one.camera
        values = [one.details.get(key, "") for key in details]
        writer.writerow([_place(one, path.parent), identity, camera, part, *values])
    for line in text.getvalue().splitlines():
        check_utf8(line, path)
    write_atomically(path, text.getvalue().encode())
    return len({id(tracklet) for _, tracklet in kept})


def _place(tracklet: Tracklet, base: Path) -> str:
    """The folder of a tracklet, or a pattern of names for one of several in a folder."""
    frames = [frame for frame in tracklet.frames if isinstance(frame, Path)]
    folder, names = frames[0].parent, [frame.name for frame in frames]
    siblings = [frame.name for frame in frames_among(entries(folder)[0])]
    place = str(folder.resolve())
    if folder.resolve().is_relative_to(base.resolve()):
        place = str(folder.resolve().relative_to(base.resolve()))
    if siblings == names:
        return place
    prefix = os.path.commonprefix(names)  # noqa: RUF071, it is one of characters
    if [name for name in siblings if name.startswith(prefix)] != names:
        raise ValueError(f"no folder and no pattern holds the frames of {tracklet.where} alone: it cannot be listed")
    return os.path.join(glob.escape(place), f"{glob.escape(prefix)}*")


def _decoded(
    tracklets: Sequence[Tracklet], workers: int | None, progress: bool
) -> Iterator[tuple[dict[bytes, str], list[str]]]:
    """Of each tracklet the paths of its frames by digest, and the errors of those that cannot be decoded."""
    executor = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        with ProgressLine(len(tracklets), "tracklets checked", "frames", shown=progress) as line:
            for tracklet, found in zip(tracklets, executor.map(_decode, tracklets), strict=True):
                line.advance(1, len(tracklet.frames))
                yield found
    finally:
        executor.shutdown(cancel_futures=True)


def _decode(tracklet: Tracklet) -> tuple[dict[bytes, str], list[str]]:
    digests, errors = {}, []
    for frame in tracklet.frames:
        try:
            read_frame(frame)
            content = frame.read_bytes() if isinstance(frame, Path) else frame.tobytes()
            digests[blake2b(content, digest_size=16).digest()] = str(frame) if isinstance(frame, Path) else "memory"
        except (ValueError, OSError) as error:
            errors.append(str(error))
    return digests, errors


def _of_frames(
    tracklets: Sequence[Tracklet], decoded: Iterable[tuple[dict[bytes, str], list[str]]]
) -> Iterator[Finding]:
    """Damaged files, and tracklets with frames of earlier ones."""
    seen: dict[bytes, tuple[int, str]] = {}
    for row, (digests, errors) in enumerate(decoded):
        yield from (Finding("damaged", error, (row,)) for error in errors)
        shared = defaultdict(list)
        for digest, path in digests.items():
            first, before = seen.setdefault(digest, (row, path))
            if first != row:
                shared[first].append(f"{path} is {before}")
        for pairs in shared.values():
            more = f", and so on: {len(pairs)} of {len(tracklets[row].frames)} frames" if len(pairs) > 1 else ""
            yield Finding("duplicate", f"{pairs[0]}{more}", (row,))


def _of_cameras(part: str, tracklets: Mapping[int, Tracklet]) -> Iterator[Finding]:
    """Identities that one camera alone has seen; one finding if these are all. Tracklets are by row."""
    rows, cameras = defaultdict(list), defaultdict(set)
    for row, tracklet in tracklets.items():
        if tracklet.camera is not None and tracklet.identity not in (None, JUNK, DISTRACTOR):
            rows[tracklet.identity].append(row)
            cameras[tracklet.identity].add(tracklet.camera)
    alone = [identity for identity, seen in cameras.items() if len(seen) == 1]
    if len(alone) == len(cameras) > 1:
        every = tuple(row for identity in alone for row in rows[identity])
        yield Finding("one_camera", f"all {len(alone)} identities in {part} are seen by one camera alone", every)
        return
    for identity in alone:
        first = tracklets[rows[identity][0]]
        text = f"identity {identity} in {part} is seen by camera {first.camera} alone"
        count = f"{len(rows[identity])} tracklets, of which the first is {first.where}"
        yield Finding("one_camera", f"{text}: {count}", tuple(rows[identity]))
