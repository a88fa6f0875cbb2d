"""Reading a data set by the name of its format."""

from pathlib import Path
from typing import Literal, get_args

from strfnet.data.readers.ag_vpreid import read_ag_vpreid
from strfnet.data.readers.ccvid import read_ccvid
from strfnet.data.readers.csv import read_listing
from strfnet.data.readers.duke import read_duke
from strfnet.data.readers.folder import Layout, read_folder_data_set
from strfnet.data.readers.ilids import read_ilids
from strfnet.data.readers.ls_vid import read_ls_vid
from strfnet.data.readers.mars import read_g2a_vreid, read_mars
from strfnet.data.readers.prid import read_prid
from strfnet.data.tracklet import DataSet
from strfnet.system.names import check_name

_PUBLISHED = {
    "mars": read_mars,
    "duke": read_duke,
    "ls_vid": read_ls_vid,
    "ccvid": read_ccvid,
    "ag_vpreid": read_ag_vpreid,
    "g2a_vreid": read_g2a_vreid,
}
_SPLIT = {"ilids": read_ilids, "prid": read_prid}
Format = Literal["mars", "duke", "ls_vid", "ilids", "prid", "ccvid", "ag_vpreid", "g2a_vreid", "folder", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)


def read_data_set(
    format: str,
    root: str | Path,
    *,
    split: int = 0,
    complete: bool = True,
    layout: Layout = "identity/camera/track",
) -> DataSet:
    """Read the tracklets of a data set on disk. Files are found and checked; no image is decoded.

    Args:
        format: one of ``FORMATS``: "mars", "duke", "ls_vid", "ilids", "prid", "ccvid", "ag_vpreid", "g2a_vreid",
            "folder", "csv".
        root: the folder of the data set; for "csv" the listing.
        split: index of one of the 10 splits of "ilids" and "prid"; 0 for the others.
        complete: whether to require the published counts of a published data set. False reads a part of it, or other
            data in its layout.
        layout: of the folders of "folder"; "camera/track" for tracklets without identities.

    Raises: ValueError for an unknown format (with the nearest one), split or layout, or naming the path of what is
    missing or wrong; ImportError naming what to install.
    """
    check_name("format", format, FORMATS)
    if format == "folder" and not split:
        return read_folder_data_set(root, layout=layout)
    if layout != "identity/camera/track":
        raise ValueError(f"layout is {layout!r}, but {format} has its own: wanted it with format folder alone")
    if format in _SPLIT:
        return _SPLIT[format](root, split=split, complete=complete)
    if split:
        raise ValueError(f"split is {split}, but {format} has one split: wanted 0")
    return _PUBLISHED[format](root, complete=complete) if format in _PUBLISHED else read_listing(root)
