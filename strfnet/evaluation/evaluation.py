"""Embeddings judged by a named protocol, and the protocols side by side: published figures follow different ones."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet
from strfnet.evaluation.protocols import Protocol
from strfnet.evaluation.ranking import Ranking, rank, rank_embeddings
from strfnet.evaluation.reranking import rerank


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The figures of one protocol on one data set, shares of 0 to 1; means where there are several splits.

    Attributes:
        protocol: that was followed.
        data: name of the data set.
        sampling: what the embeddings were made from, in the words of ``Protocol.sampling``; None if not known.
        rankings: one of each split.
        reranked: whether distances were re-ranked by common neighbours.
    """

    protocol: Protocol
    data: str
    sampling: str | None
    rankings: tuple[Ranking, ...]
    reranked: bool = False

    @property
    def mean_average_precision(self) -> float:
        return statistics.fmean(ranking.mean_average_precision for ranking in self.rankings)

    @property
    def cmc(self) -> NDArray[np.float64]:
        """At rank k in ``cmc[k - 1]``."""
        mean: NDArray[np.float64] = np.mean([ranking.cmc for ranking in self.rankings], axis=0)
        return mean

    @property
    def as_published(self) -> bool:
        """Whether the embeddings were made from the frames that the protocol wants."""
        return self.sampling == self.protocol.sampling

    def to_json(self) -> dict[str, Any]:
        """Figures and rules as JSON has them; the AP of every query is None where it has no match."""
        splits = [
            {
                "average_precisions": [None if np.isnan(ap) else ap for ap in ranking.average_precisions.tolist()],
                "matched": ranking.matched,
                "unmatched": ranking.unmatched,
                "gallery": ranking.gallery,
            }
            for ranking in self.rankings
        ]
        return {
            "protocol": asdict(self.protocol),
            "data": self.data,
            "sampling": self.sampling,
            "reranked": self.reranked,
            "mean_average_precision": self.mean_average_precision,
            "cmc": self.cmc.tolist(),
            "splits": splits,
        }


def evaluate(
    embeddings: Tensor,
    data_set: DataSet,
    protocol: Protocol,
    *,
    sampling: str | None = None,
    reranked: bool = False,
    ranks: int = 50,
) -> Evaluation:
    """Rank the queries of a data set as a protocol wants it.

    Args:
        embeddings: (n, d), one for each tracklet of ``data_set.test``.
        data_set: whose queries and gallery are asked.
        protocol: one of ``PROTOCOLS``, or another.
        sampling: what the embeddings were made from, to be told beside the figures; they are the caller's, so
            that a protocol can be followed with other frames than its own.
        reranked: judge the distances of `rerank` instead, in which queries and gallery are looked
            at together; no protocol asks for that, and the table says so.
        ranks: how far the CMC goes.

    Raises: ValueError if there is not one embedding for each test tracklet, if the protocol leaves no gallery, and
    as ``strfnet.evaluation.ranking.rank_embeddings``.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(data_set.test):
        wanted = f"({len(data_set.test)}, d), one row for each test tracklet of {data_set.name}"
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, wanted {wanted}")
    gallery = gallery_of(data_set, protocol)
    column = {row: at for at, row in enumerate(gallery)}
    asked, searched = ([data_set.test[row] for row in rows] for rows in (data_set.query, gallery))
    query = embeddings[list(data_set.query)]
    # All of them as they are: a copy of a large gallery would take as much memory again.
    items = embeddings if gallery == tuple(range(len(embeddings))) else embeddings[list(gallery)]
    rules: dict[str, Any] = {
        "query_cameras": [item.camera for item in asked],
        "gallery_cameras": [item.camera for item in searched],
        "own": [column.get(row) for row in data_set.query],
        "average_precision": protocol.average_precision,
        "cut": protocol.cut,
        "ranks": ranks,
    }
    people = [item.identity for item in asked], [item.identity for item in searched]
    if reranked:
        ranking = rank(rerank(query, items, distance=protocol.distance), *people, **rules)
    else:
        ranking = rank_embeddings(query, items, *people, distance=protocol.distance, **rules)
    return Evaluation(protocol, data_set.name, sampling, (ranking,), reranked)


def gallery_of(data_set: DataSet, protocol: Protocol) -> tuple[int, ...]:
    """The rows of ``data_set.test`` that are searched; junk is among them and removed when ranking.

    Raises: ValueError if no row but junk is left.
    """
    rows = range(len(data_set.test)) if protocol.gallery == "all" else data_set.gallery
    left_out = set(data_set.query) if protocol.gallery == "without_queries" else set()
    gallery = tuple(
        row
        for row in rows
        if row not in left_out and (protocol.distractors or data_set.test[row].identity != DISTRACTOR)
    )
    if all(data_set.test[row].identity == JUNK for row in gallery):
        raise ValueError(f"protocol {protocol.name} leaves no gallery of {data_set.name}")
    return gallery


def mean_over_splits(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation whose figures are the means of several, one of each split of a data set.

    Raises: ValueError if there are none, or they differ in protocol, data set or sampling.
    """
    kinds = {(each.protocol, each.data, each.sampling, each.reranked) for each in evaluations}
    if len(kinds) != 1:
        wanted = "one or more of one protocol, data set and sampling"
        raise ValueError(f"got {len(evaluations)} evaluations of {len(kinds)} kinds, wanted {wanted}")
    rankings = tuple(ranking for each in evaluations for ranking in each.rankings)
    return replace(evaluations[0], rankings=rankings)


COLUMNS = (
    *("protocol", "data", "mAP rectangle", "mAP trapezoid", "R1", "R5", "R10", "R20"),
    *("queries", "unmatched", "gallery", "distance", "splits", "frames"),
)


def table(evaluations: Iterable[Evaluation]) -> str:
    """Evaluations as text, one a line, in percent; the two rules of AP have a column each."""
    evaluations = tuple(evaluations)
    lines = [COLUMNS, *map(cells_of, evaluations)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    words = (0, 1, 11, 13)  # the columns of text stand to the left, those of numbers to the right
    text = [
        "  ".join(cell.ljust(width) if at in words else cell.rjust(width) for at, (cell, width) in enumerate(row))
        for row in (tuple(zip(line, widths, strict=True)) for line in lines)
    ]
    if any(not each.as_published for each in evaluations):
        text += ["", "* not the frames of the protocol, which wants the ones in its line below"]
    text += ["", *dict.fromkeys(said_of(each.protocol) for each in evaluations)]
    return "\n".join(line.rstrip() for line in text)


def cells_of(evaluation: Evaluation) -> tuple[str, ...]:
    """An evaluation as text under each of `COLUMNS`."""
    rule, cmc = evaluation.protocol.average_precision, evaluation.cmc
    percent = f"{100 * evaluation.mean_average_precision:.2f}"
    precisions = [percent if rule == column else "-" for column in ("rectangle", "trapezoid")]
    ranks = [f"{100 * cmc[k - 1]:.2f}" if k <= len(cmc) else "-" for k in (1, 5, 10, 20)]
    counts = [
        _range([getattr(ranking, name) for ranking in evaluation.rankings])
        for name in ("matched", "unmatched", "gallery")
    ]
    frames = (evaluation.sampling or "not said") + ("" if evaluation.as_published else " *")
    distance = evaluation.protocol.distance + (" re-ranked" if evaluation.reranked else "")
    known = distance, str(len(evaluation.rankings)), frames
    return (evaluation.protocol.name, evaluation.data, *precisions, *ranks, *counts, *known)


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}..{max(counts)}"


def said_of(protocol: Protocol) -> str:
    """What a protocol does, in a line."""
    return f"{protocol.name}: {protocol.about} [frames: {protocol.sampling}]"
