"""Rules of evaluation by name: what is searched, what counts, and which frames are looked at."""

from dataclasses import dataclass

from strfnet.data.tracklet import DataSet

GALLERIES = ("all", "listed", "without_queries")


@dataclass(frozen=True)
class Protocol:
    """What is searched, what counts, and how it is summed up.

    In every protocol the query itself and what its camera saw of its identity are removed, and a query without a
    match counts in no figure.

    Args:
        name: by which it is asked for.
        about: where it comes from, in one line.
        data: the data set it was made for; None for any.
        gallery: "listed" as the data set says, "all" of the test, or what is "listed" "without_queries".
        distractors: whether identity 0 stays in the gallery.
        average_precision: "rectangle" or "trapezoid".
        distance: "cosine" or "euclidean".
        clips: the evaluation sampler of `strfnet.data.sampling` that makes the clips of a tracklet.
        frames: t of its clips.
        cut: the ranking ends after so many items; None for no end.

    Raises: ValueError for a gallery of another name. The other names are checked where they are used.
    """

    name: str
    about: str
    data: str | None = None
    gallery: str = "listed"
    distractors: bool = True
    average_precision: str = "rectangle"
    distance: str = "cosine"
    clips: str = "all_frames"
    frames: int = 32
    cut: int | None = None

    def __post_init__(self) -> None:
        if self.gallery not in GALLERIES:
            raise ValueError(f"gallery must be one of {', '.join(GALLERIES)}, got {self.gallery!r}")

    @property
    def sampling(self) -> str:
        """What a tracklet's embedding is made from, such as "restricted_first 8"."""
        return f"{self.clips} {self.frames}"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "mars",
            "the MATLAB code of MARS: every test tracklet is searched, junk is removed, AP by trapezoids",
            data="MARS",
            gallery="all",
            average_precision="trapezoid",
        ),
        Protocol(
            "duke",
            "DukeMTMC-VideoReID as AP3D and torchreid read it: the two folders as they are",
            data="DukeMTMC-VideoReID",
        ),
        Protocol(
            "ilids",
            "iLIDS-VID: the first camera searched in the second; the mean of 10 splits, papers print CMC only",
            data="iLIDS-VID",
        ),
        Protocol(
            "prid",
            "PRID2011: the first camera searched in the second, 89 people; the mean of 10 splits",
            data="PRID2011",
        ),
        Protocol(
            "ls_vid",
            "LS-VID as BiCnet-TKS reads it: every test tracklet is searched; all frames in clips of 8",
            data="LS-VID",
            gallery="all",
            clips="dense",
            frames=8,
        ),
        Protocol("folder", "people's own tracklets: queries and gallery as they are listed"),
        Protocol(
            "nvan",
            "the code of NVAN and STE-NVAN: every test tracklet is searched, AP by trapezoids, rankings cut at 10000",
            gallery="all",
            average_precision="trapezoid",
            clips="restricted_first",
            frames=8,
            cut=10000,
        ),
        Protocol(
            "ap3d",
            "the code of AP3D, the likely one of STRF: every test tracklet is searched, AP by rectangles",
            gallery="all",
        ),
        Protocol(
            "torchreid",
            "torchreid's: queries leave the gallery, Euclidean distances, 15 frames evenly spread",
            gallery="without_queries",
            distance="euclidean",
            clips="evenly",
            frames=15,
        ),
        Protocol(
            "cfaan",
            "the code of CF-AAN with MARS' own labels: neither queries nor distractors in the gallery",
            data="MARS",
            gallery="without_queries",
            distractors=False,
            clips="restricted_first",
            frames=6,
        ),
    )
}


def protocols_of(data_set: DataSet) -> tuple[Protocol, ...]:
    """Those made for this data set, or "folder" where none was, and then those of code bases for any data set."""
    made_for_it = [protocol for protocol in PROTOCOLS.values() if protocol.data == (data_set.layout or data_set.name)]
    for_any = [PROTOCOLS[name] for name in ("nvan", "ap3d", "torchreid")]
    return (*(made_for_it or [PROTOCOLS["folder"]]), *for_any)
