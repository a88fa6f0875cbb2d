"""The arguments of `strfnet evaluate`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from strfnet.cli.options.groups import OnTracklets
from strfnet.evaluation.protocols import ProtocolName


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnTracklets):
    """Rank the gallery of a data set for its queries and print mAP and CMC.

    Args:
        protocol: Evaluation protocol; all prints every protocol that applies to the data set.
        clips: Clip sampler and frames of a clip, such as restricted_first:8. Default: those of the protocol.
        rerank: Re-rank the distances by k-reciprocal neighbours.
        embeddings: Files of embeddings to evaluate in place of a network. Labels are those of the data set if one is
            named, else those of the files.
        out: JSON file to write the metrics to.
    """

    averages_splits: ClassVar[bool] = True

    protocol: ProtocolName | Literal["all"] = "all"
    clips: str | None = field(default=None, metadata={"metavar": "SAMPLER:N"})
    rerank: bool = False
    embeddings: list[Path] | None = field(default=None, metadata={"metavar": "FILE"})
    out: Path | None = field(default=None, metadata={"metavar": "FILE"})

    def _check_network(self) -> None:
        if self.embeddings is None:
            self.network.check_given()
        elif not self.network.missing or self.clips is not None:
            given = "clips" if self.network.missing else "a network"
            raise ValueError(f"got embeddings and {given}, wanted one of the two: the files have theirs")
