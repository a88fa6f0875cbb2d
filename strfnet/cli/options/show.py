"""The arguments of `strfnet show`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from strfnet.cli.options.groups import OnTracklets, check_positive
from strfnet.evaluation.protocols import ProtocolName

SUFFIXES = {
    "masks": "png",
    "attention": "png",
    "match": "png",
    "ranks": "png",
    "cmc": "png",
    "curve": "png",
    "report": "html",
}


@dataclass(frozen=True, kw_only=True)
class Show(OnTracklets):
    """Draw figures of attention, rankings and training, and an HTML report.

    Args:
        masks: Draw the masks of every STRF unit over the frames of a tracklet.
        attention: Draw the attention of one pixel in every non-local block and AP3D registration.
        match: Draw which regions make a query and another tracklet similar.
        ranks: Draw ranked lists of queries, with right and wrong matches marked.
        cmc: Draw the CMC curve of each protocol.
        curve: Draw losses and metrics of the training run.
        report: Write an HTML page with the metrics and all of these figures.
        out: File to write (.png, or .html for the report), or a folder for several.
        protocol: Evaluation protocol; all shows every protocol that applies to the data set, and ranked lists of the
            first.
        row: Test row of the tracklet or query to show. Default: the first query; the hardest queries for lists.
        other: Test row of the tracklet that is compared with the query. Default: the first that counts in its ranked
            list.
        clips: Clip sampler and frames of the clip for masks, attention and match; the first clip is shown.
        place: Pixel whose attention is shown, as [frame, row, column]. Default: the middle of the upper body.
        ranks_shown: Tracklets of a ranked list.
        queries_shown: Ranked lists.
    """

    masks: bool = False
    attention: bool = False
    match: bool = False
    ranks: bool = False
    cmc: bool = False
    curve: bool = False
    report: bool = False
    out: Path
    protocol: ProtocolName | Literal["all"] = "all"
    row: int | None = None
    other: int | None = None
    clips: str = field(default="all_frames:8", metadata={"metavar": "SAMPLER:N"})
    place: tuple[int, int, int] | None = None
    ranks_shown: int = 10
    queries_shown: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(ranks_shown=self.ranks_shown, queries_shown=self.queries_shown)
        if not self.figures:
            raise ValueError(f"no figure is requested, wanted one or more of --{', --'.join(SUFFIXES)}")
        if self.curve and self.network.trained is None:
            raise ValueError("curve is true, but only a training run has a log; wanted trained with it")
        suffix = self.out.suffix.removeprefix(".")
        if suffix in SUFFIXES.values() and [SUFFIXES[name] for name in self.figures] != [suffix]:
            files = ", ".join(f"{name}.{SUFFIXES[name]}" for name in self.figures)
            raise ValueError(f"out is {self.out}, wanted a folder for {files}, or one file of the right type")

    @property
    def figures(self) -> list[str]:
        """The names of the requested figures, keys of ``SUFFIXES``."""
        return [name for name in SUFFIXES if getattr(self, name)]

    def file(self, name: str) -> Path:
        """The file of a figure."""
        single = self.out.suffix.removeprefix(".") in SUFFIXES.values()
        return self.out if single else self.out / f"{name}.{SUFFIXES[name]}"
