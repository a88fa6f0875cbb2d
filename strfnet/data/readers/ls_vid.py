"""LS-VID: tracklets of 3772 pedestrians under fifteen cameras, indoors and outdoors."""

from bisect import bisect_left
from pathlib import Path

from strfnet.data.readers.directory import frames_among, names_in
from strfnet.data.readers.published import checked, data_root, read_lines, read_matlab
from strfnet.data.tracklet import DataSet, Tracklet, natural_order

_PUBLISHED = {"training identities": 842, "test identities": 2730}


def read_ls_vid(root: str | Path, *, complete: bool = True) -> DataSet:
    """Read LS-VID from the folder with ``list_sequence`` and the frames, or from the one above it.

    A line of ``list_sequence/list_seq_train.txt`` or ``list_seq_test.txt`` is one tracklet: a path below the
    root, a space, the identity. Its frames are all files whose paths start with that path. Their names have four
    fields separated by underscores; the third is the camera. ``test/data/info_test.mat`` has the line numbers of the
    queries in the test list, as one row or column, or in the first column of a table. The gallery is the whole test
    list, as for MARS. The validation list is not read.

    Checked: every tracklet has frames of one camera, no frame is in two tracklets, and the queries are in the list.

    Args:
        root: the folder.
        complete: whether to require the published numbers of identities.

    Raises: ValueError naming the path of what is missing or wrong; ImportError without h5py.
    Source: Li et al., Global-Local Temporal Representations for Video Person Re-Identification, ICCV 2019; the
    layout as the code of BiCnet-TKS reads it.
    """
    base = data_root(root, holds="list_sequence", inside="LS-VID")
    train, test = _tracklets(base, "train"), _tracklets(base, "test")
    file = base / "test" / "data" / "info_test.mat"
    table = read_matlab(file, "query", "the numbers of the queries, which come with LS-VID")
    query = (table.ravel() if 1 in table.shape else table[:, 0]).tolist()  # a row, or the first column
    query = [number - 1 for number in query]
    wrong = next((row for row in query if not 0 <= row < len(test)), None)
    if wrong is not None or len(set(query)) < len(query):
        found = "one twice" if wrong is None else wrong + 1
        raise ValueError(f"{file} numbers queries, {found} among them, wanted each once, from 1 to {len(test)}")
    data = DataSet("LS-VID", train, test, tuple(query), tuple(range(len(test))))
    return checked(data, base, complete=complete, published=_PUBLISHED)


def _tracklets(base: Path, part: str) -> tuple[Tracklet, ...]:
    listing = base / "list_sequence" / f"list_seq_{part}.txt"
    folders: dict[Path, _Folder] = {}
    tracklets = []
    for line, text in enumerate(read_lines(listing, "the list of tracklets that comes with LS-VID"), start=1):
        prefix, _, identity = text.strip().rpartition(" ")
        if not prefix or prefix.endswith("/") or not identity.isdecimal():
            wanted = "the start of files' paths and an identity's number"
            raise ValueError(f"line {line} of {listing} is {text!r}, wanted {wanted}")
        start = base / prefix
        if start.parent not in folders:
            folders[start.parent] = _Folder(start.parent)
        frames, earlier = folders[start.parent].assign(start.name, line)
        if not frames:
            raise ValueError(f"no file starts with {start}, wanted frames as line {line} of {listing} names them")
        if earlier:
            raise ValueError(f"frames that start with {start} are in lines {earlier} and {line} of {listing}")
        tracklets.append(Tracklet(frames, int(identity), _camera(frames)))
    return tuple(tracklets)


class _Folder:
    """The sorted files of a folder, in which names with a common prefix are consecutive."""

    def __init__(self, folder: Path) -> None:
        self.names = sorted(names_in(folder))
        self.files = [folder / name for name in self.names]
        self.lines = [0] * len(self.names)  # of the list, that each file belongs to; 0 for none

    def assign(self, start: str, line: int) -> tuple[tuple[Path, ...], int]:
        """Assign the frames with a prefix to a line. Returns them, and an earlier line of one of them, or 0."""
        first = last = bisect_left(self.names, start)
        while last < len(self.names) and self.names[last].startswith(start):
            last += 1
        before = max(self.lines[first:last], default=0)
        self.lines[first:last] = [line] * (last - first)
        return frames_among(sorted(self.files[first:last], key=natural_order)), before


def _camera(frames: tuple[Path, ...]) -> int:
    cameras = set()
    for frame in frames:
        fields = frame.stem.split("_")
        if len(fields) != 4 or not fields[2].isdecimal():
            raise ValueError(f"{frame} has no name of four fields separated by underscores, the third the camera")
        cameras.add(int(fields[2]))
    if len(cameras) > 1:
        raise ValueError(f"{frames[0]} and the files with its prefix are of cameras {sorted(cameras)}, wanted one")
    return cameras.pop()
