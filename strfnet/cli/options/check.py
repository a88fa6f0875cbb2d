"""The arguments of `strfnet check`."""

from dataclasses import dataclass, field
from pathlib import Path

from strfnet.cli.options.groups import check_positive
from strfnet.data.choices import Kind
from strfnet.data.readers.folder import Layout
from strfnet.data.readers.formats import Format


@dataclass(frozen=True, kw_only=True)
class Check:
    """Decode every frame of a data set and list what is wrong; the exit code is 1 if something is.

    Args:
        data: Folder of the data set, or its CSV file.
        format: Layout of the data set on disk.
        layout: Layout of the folders of the format folder; camera/track for tracklets without identities.
        split: Split to read, from 0.
        allow: Findings that are right for these data, such as [one_frame,one_camera]: they are not listed.
        workers: Threads that decode frames. Default: one for each processor.
        write_listing: CSV file to write, which lists the tracklets without a finding (for --format csv).
    """

    data: Path = field(metadata={"positional": True, "metavar": "DATA"})
    format: Format = "folder"
    layout: Layout = "identity/camera/track"
    split: int = 0
    allow: tuple[Kind, ...] = ()
    workers: int | None = None
    write_listing: Path | None = field(default=None, metadata={"metavar": "FILE"})

    def __post_init__(self) -> None:
        check_positive(workers=self.workers)
