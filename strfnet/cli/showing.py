"""What `strfnet show` is asked for: which pictures, of what network and tracklets, and where they go."""

from dataclasses import dataclass
from pathlib import Path

from strfnet.inference.embedder import Network

SUFFIXES = {"masks": "png", "attention": "png", "ranks": "png", "cmc": "png", "curve": "png", "report": "html"}


@dataclass(frozen=True, kw_only=True)
class Showing(Network):
    """A network, the tracklets it is shown, and the pictures that are wanted.

    Args:
        masks: the masks of every STRF unit over the frames of a tracklet.
        attention: where a pixel looks, at every non-local block and AP3D registration.
        ranks: the first tracklets that queries find, right and wrong ones marked.
        cmc: the CMC of each protocol.
        curve: losses and evaluations of the training run.
        report: an HTML page of an evaluation with all of these in it.
        data: folder of the data set, or its CSV file; null draws walkers.
        format: mars, duke, ls_vid, ilids, prid, folder or csv.
        split: which of the splits, where there are several.
        complete: whether a published data set must have its published counts.
        protocol: by which rankings are made and summed up; all takes every one that is meant for such data, and
            shows the lists of the first.
        row: the test's row of the tracklet, or of the query, to show; null takes the first query, and for lists
            the hardest ones.
        clips: of masks and attention: a form and its frames; the first clip is shown.
        place: the pixel that looks, as [frame, row, column] of the clip; null takes the middle of the upper body.
        ranks_shown: how many tracklets of a ranked list.
        queries_shown: how many ranked lists.
        out: a file to write (.png, or .html for the report), or a folder for several.
    """

    masks: bool = False
    attention: bool = False
    ranks: bool = False
    cmc: bool = False
    curve: bool = False
    report: bool = False
    data: Path | None = None
    format: str = "folder"
    split: int = 0
    complete: bool = True
    protocol: str = "all"
    row: int | None = None
    clips: str = "all_frames:8"
    place: tuple[int, int, int] | None = None
    ranks_shown: int = 10
    queries_shown: int = 5
    out: Path

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ranks_shown", "queries_shown"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.wanted:
            raise ValueError(f"no picture is named, wanted one or more of --{', --'.join(SUFFIXES)}")
        if self.curve and self.trained is None:
            raise ValueError("curve is true, but only a training run has a log; wanted trained with it")
        suffix = self.out.suffix.removeprefix(".")
        if suffix in SUFFIXES.values() and [SUFFIXES[name] for name in self.wanted] != [suffix]:
            made = ", ".join(f"{name}.{SUFFIXES[name]}" for name in self.wanted)
            raise ValueError(f"out is {self.out}, wanted a folder for {made}, or a file of the kind of just one")

    @property
    def wanted(self) -> list[str]:
        return [name for name in SUFFIXES if getattr(self, name)]

    def file(self, name: str) -> Path:
        """Where a picture is written."""
        alone = self.out.suffix.removeprefix(".") in SUFFIXES.values()
        return self.out if alone else self.out / f"{name}.{SUFFIXES[name]}"
