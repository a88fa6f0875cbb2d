"""Evaluation protocols by name: the gallery, the rule of average precision, the distance and the sampled frames."""

from dataclasses import dataclass
from typing import Literal, get_args

from strfnet.data.tracklet import DataSet
from strfnet.system.names import check_choice

Gallery = Literal["all", "listed", "without_queries"]
AveragePrecision = Literal["rectangle", "trapezoid"]
Distance = Literal["cosine", "euclidean"]
ProtocolName = Literal[
    "mars", "duke", "ilids", "prid", "ls_vid", "ccvid", "ccvid_same_clothes", "ccvid_clothes_changing",
    "aerial_to_ground", "ground_to_aerial", "g2a_vreid", "folder", "nvan", "ap3d", "torchreid", "cfaan",
]  # fmt: skip


@dataclass(frozen=True)
class Protocol:
    """The rules of an evaluation.

    Every protocol removes the query itself and the gallery items that show the query's identity under the query's
    camera. Further attributes are read from the ``details`` of tracklets. Queries without a match are left out of all
    metrics.

    Args:
        name: its name.
        about: its origin, in one line.
        data: the data sets that it was made for, or whose published metrics follow it; none for any.
        gallery: "listed" for the gallery of the data set, "all" for all test tracklets, "without_queries" for the
            listed gallery without the queries.
        distractors: whether the gallery keeps identity 0.
        differing: attributes, such as "clothes", in which a match differs from its query, as in the camera. Items of
            the query's identity that share one are removed.
        common: attributes that a match has in common with its query. Other items of its identity are removed.
        query_with: an attribute and its value, such as ("platform", "aerial"), of the queries that are evaluated.
        gallery_with: an attribute and its value of the gallery items that are searched.
        average_precision: "rectangle" or "trapezoid", see `strfnet.evaluation.rank`.
        distance: "cosine" or "euclidean".
        clips: name of the clip sampler, one of `strfnet.data.sampling.EVALUATION_SAMPLERS`.
        frames: frames of a clip.
        cut: length at which a ranking ends; None for no end.

    Raises: ValueError for an unknown gallery, or data that are no tuple. Other names are checked where they are used.
    """

    name: str
    about: str
    data: tuple[str, ...] = ()
    gallery: Gallery = "listed"
    distractors: bool = True
    differing: tuple[str, ...] = ()
    common: tuple[str, ...] = ()
    query_with: tuple[str, str] | None = None
    gallery_with: tuple[str, str] | None = None
    average_precision: AveragePrecision = "rectangle"
    distance: Distance = "cosine"
    clips: str = "all_frames"
    frames: int = 32
    cut: int | None = None

    def __post_init__(self) -> None:
        check_choice("gallery", self.gallery, get_args(Gallery))
        if isinstance(self.data, str):
            raise ValueError(f"data is {self.data!r}, wanted a tuple of names, such as ({self.data!r},)")

    @property
    def sampling(self) -> str:
        """The clip sampler and its frames, such as "restricted_first 8"."""
        return f"{self.clips} {self.frames}"

    @property
    def summary(self) -> str:
        """The rules in one line."""
        return f"{self.name}: {self.about} [frames: {self.sampling}]"


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "mars",
            "the MATLAB code of MARS: every test tracklet is searched, junk is removed, AP by trapezoids",
            data=("MARS",),
            gallery="all",
            average_precision="trapezoid",
        ),
        Protocol(
            "duke",
            "DukeMTMC-VideoReID as AP3D and torchreid read it: query and gallery folders as they are",
            data=("DukeMTMC-VideoReID",),
        ),
        Protocol(
            "ilids",
            "iLIDS-VID: queries of the first camera, gallery of the second; published: CMC, mean of 10 splits",
            data=("iLIDS-VID",),
        ),
        Protocol(
            "prid",
            "PRID2011: queries of the first camera, gallery of the second, 89 people; published: mean of 10 splits",
            data=("PRID2011",),
        ),
        Protocol(
            "ls_vid",
            "LS-VID as BiCnet-TKS reads it: every test tracklet is searched; all frames in clips of 8",
            data=("LS-VID",),
            gallery="all",
            clips="dense",
            frames=8,
        ),
        Protocol("ccvid", "CCVID, general: any clothes", data=("CCVID",), frames=16),
        Protocol(
            "ccvid_same_clothes",
            "CCVID, same clothes: what its people wear in other clothes is removed",
            data=("CCVID",),
            common=("clothes",),
            frames=16,
        ),
        Protocol(
            "ccvid_clothes_changing",
            "CCVID, clothes-changing: what its people wear in the query's clothes is removed",
            data=("CCVID",),
            differing=("clothes",),
            frames=16,
        ),
        Protocol(
            "aerial_to_ground",
            "AG-VPReID: queries of aerial cameras, gallery of ground cameras",
            data=("AG-VPReID",),
            query_with=("platform", "aerial"),
            gallery_with=("platform", "ground"),
        ),
        Protocol(
            "ground_to_aerial",
            "AG-VPReID: queries of ground cameras, gallery of aerial cameras",
            data=("AG-VPReID",),
            query_with=("platform", "ground"),
            gallery_with=("platform", "aerial"),
        ),
        Protocol(
            "g2a_vreid",
            "G2A-VReID: queries of one platform, gallery of the other",
            data=("G2A-VReID",),
        ),
        Protocol("folder", "data of your own: queries and gallery as listed"),
        Protocol(
            "nvan",
            "the code of NVAN and STE-NVAN: every test tracklet is searched, AP by trapezoids, rankings cut at 10000",
            data=("MARS", "DukeMTMC-VideoReID"),
            gallery="all",
            average_precision="trapezoid",
            clips="restricted_first",
            frames=8,
            cut=10000,
        ),
        Protocol(
            "ap3d",
            "the code of AP3D, and probably of STRF: every test tracklet is searched, AP by rectangles",
            data=("MARS", "DukeMTMC-VideoReID"),
            gallery="all",
        ),
        Protocol(
            "torchreid",
            "the code of torchreid: queries leave the gallery, Euclidean distances, 15 evenly spaced frames",
            data=("MARS", "DukeMTMC-VideoReID", "iLIDS-VID", "PRID2011"),
            gallery="without_queries",
            distance="euclidean",
            clips="evenly",
            frames=15,
        ),
        Protocol(
            "cfaan",
            "the code of CF-AAN with the labels of MARS: neither queries nor distractors in the gallery",
            data=("MARS",),
            gallery="without_queries",
            distractors=False,
            clips="restricted_first",
            frames=6,
        ),
    )
}


def protocols_of(data_set: DataSet) -> tuple[Protocol, ...]:
    """Returns the protocols of a data set, its own first; "folder" for data that no protocol was made for."""
    name = data_set.layout or data_set.name
    return tuple(one for one in PROTOCOLS.values() if name in one.data) or (PROTOCOLS["folder"],)
