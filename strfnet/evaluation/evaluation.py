"""Evaluation of embeddings under one protocol or several, whose published metrics are not comparable."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from strfnet.data.tracklet import DISTRACTOR, JUNK, DataSet, Tracklet, check_labelled
from strfnet.evaluation.distances import StreamedDistances, unit_length
from strfnet.evaluation.protocols import Protocol
from strfnet.evaluation.ranking import Ranking, rank
from strfnet.evaluation.reranking import rerank

Embed = Callable[[Sequence[Tracklet], tuple[str, int]], Tensor]  # of tracklets and a clip sampler with its frames


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of one protocol on one data set, from 0 to 1; means where there are several splits.

    Attributes:
        protocol: the protocol.
        data: name of the data set.
        sampling: clip sampler of the embeddings, in the form of ``Protocol.sampling``; None if it is not known.
        rankings: one of each split.
        reranked: whether distances were re-ranked.
        splits: number of splits of the data set; a published metric is the mean over all.
    """

    protocol: Protocol
    data: str
    sampling: str | None
    rankings: tuple[Ranking, ...]
    reranked: bool = False
    splits: int = 1

    @property
    def mean_average_precision(self) -> float:
        return statistics.fmean(ranking.mean_average_precision for ranking in self.rankings)

    @property
    def mean_inverse_negative_penalty(self) -> float:
        return statistics.fmean(ranking.mean_inverse_negative_penalty for ranking in self.rankings)

    @property
    def cmc(self) -> NDArray[np.float64]:
        """The CMC: rank k is ``cmc[k - 1]``."""
        mean: NDArray[np.float64] = np.mean([ranking.cmc for ranking in self.rankings], axis=0)
        return mean

    @property
    def as_published(self) -> bool:
        """Whether the embeddings were made from the frames of the protocol."""
        return self.sampling == self.protocol.sampling

    def to_json(self) -> dict[str, Any]:
        """Returns metrics and rules as JSON types; the AP of a query without a match is None."""
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
            "mean_inverse_negative_penalty": self.mean_inverse_negative_penalty,
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
    """Ranks the gallery of a data set for each query and computes the metrics of a protocol.

    For cosine distances, embeddings are scaled to length 1 first, as in files of embeddings.

    Args:
        embeddings: (n, d), one for each tracklet of ``data_set.test``.
        data_set: the data set.
        protocol: one of ``PROTOCOLS``, or another.
        sampling: clip sampler of the embeddings, reported beside the metrics. It may differ from the protocol's.
        reranked: rank by the distances of `rerank`, which compares all queries and gallery items with each other.
            No published protocol does so; the table marks it.
        ranks: length of the CMC.

    Raises: ValueError for arguments of other types, if there is not one embedding for each test tracklet, if a
    tracklet has no identity, if the protocol leaves no gallery, and as `rank_embeddings` does.
    """
    for name, value, kind in (("embeddings", embeddings, Tensor), ("data_set", data_set, DataSet)):
        if not isinstance(value, kind):
            raise ValueError(f"{name} is {type(value).__name__}, wanted a {kind.__name__}")
    if not isinstance(protocol, Protocol):
        raise ValueError(f"protocol is {protocol!r}, wanted a Protocol, such as PROTOCOLS['mars']")
    if embeddings.ndim != 2 or len(embeddings) != len(data_set.test):
        wanted = f"({len(data_set.test)}, d), one row for each test tracklet of {data_set.name}"
        raise ValueError(f"embeddings are {tuple(embeddings.shape)}, wanted {wanted}")
    check_labelled(data_set.test, "an evaluation")
    if protocol.distance == "cosine":
        embeddings = unit_length(embeddings)
    queries, rows = queries_of(data_set, protocol), gallery_of(data_set, protocol)
    query = embeddings[list(queries)]
    # The whole tensor where it is the gallery: a copy of a large one would double the memory.
    items = embeddings if rows == tuple(range(len(embeddings))) else embeddings[list(rows)]
    ranking = rank(
        (rerank if reranked else StreamedDistances)(query, items, distance=protocol.distance),
        **labels_of(data_set, protocol, queries, rows),
        average_precision=protocol.average_precision,
        cut=protocol.cut,
        ranks=ranks,
    )
    return Evaluation(protocol, data_set.name, sampling, (ranking,), reranked, data_set.splits)


def evaluate_protocols(
    embed: Embed,
    data_set: DataSet | Sequence[DataSet],
    protocols: Iterable[Protocol],
    *,
    clips: tuple[str, int] | None = None,
    rerank: bool = False,
) -> list[Evaluation]:
    """Evaluates a data set under several protocols and embeds its tracklets once for each clip sampler.

    Args:
        embed: returns one embedding for each of the tracklets it is given, (n, d), made by the given clip sampler
            with the given number of frames, such as ``strfnet.inference.Embedder(...).embed``.
        data_set: the data set, or its splits, over which metrics are averaged; a tracklet of several is embedded
            once.
        protocols: the protocols.
        clips: clip sampler and frames to use in place of those of the protocols.
        rerank: re-rank the distances.

    Returns: an evaluation for each protocol, in their order. Raises: ValueError as `evaluate` does.
    """
    splits = [data_set] if isinstance(data_set, DataSet) else list(data_set)
    tracklets, rows = _united([split.test for split in splits])
    embeddings: dict[tuple[str, int], Tensor] = {}
    evaluations = []
    for protocol in protocols:
        sampler = clips or (protocol.clips, protocol.frames)
        if sampler not in embeddings:
            embeddings[sampler] = embed(tracklets, sampler)
        parts = [
            evaluate(vectors, split, protocol, sampling=f"{sampler[0]} {sampler[1]}", reranked=rerank)
            for split, vectors in zip(splits, _of_splits(embeddings[sampler], rows), strict=True)
        ]
        evaluations.append(mean_over_splits(parts))
    return evaluations


def _united(parts: Sequence[Sequence[Tracklet]]) -> tuple[Sequence[Tracklet], list[list[int]]]:
    """The tracklets of all parts, those of the same files once, and the rows of each part among them."""
    if len(parts) == 1:
        return parts[0], [[]]
    found: dict[object, int] = {}
    tracklets: list[Tracklet] = []
    rows: list[list[int]] = []
    for part in parts:
        rows.append([])
        for tracklet in part:
            key = tracklet.frames if isinstance(tracklet.frames[0], Path) else id(tracklet)
            if found.setdefault(key, len(tracklets)) == len(tracklets):
                tracklets.append(tracklet)
            rows[-1].append(found[key])
    return tracklets, rows


def _of_splits(embeddings: Tensor, rows: Sequence[list[int]]) -> list[Tensor]:
    """The embeddings of each split; those of a single one without a copy."""
    return [embeddings] if len(rows) == 1 else [embeddings[of] for of in rows]


def queries_of(data_set: DataSet, protocol: Protocol) -> tuple[int, ...]:
    """Returns the rows of ``data_set.test`` that are evaluated as queries.

    Raises: ValueError if none is left, or a query lacks an attribute of the protocol.
    """
    queries = _with(data_set, protocol, data_set.query, protocol.query_with)
    if not queries:
        raise ValueError(f"protocol {protocol.name} leaves no query of {data_set.name}")
    return queries


def gallery_of(data_set: DataSet, protocol: Protocol) -> tuple[int, ...]:
    """Returns the rows of ``data_set.test`` that form the gallery. Junk is among them; the ranking removes it.

    Raises: ValueError if no row but junk is left, or a row lacks an attribute of the protocol.
    """
    rows = range(len(data_set.test)) if protocol.gallery == "all" else data_set.gallery
    excluded = set(data_set.query) if protocol.gallery == "without_queries" else set()
    gallery = tuple(
        row
        for row in rows
        if row not in excluded and (protocol.distractors or data_set.test[row].identity != DISTRACTOR)
    )
    gallery = _with(data_set, protocol, gallery, protocol.gallery_with)
    if all(data_set.test[row].identity == JUNK for row in gallery):
        raise ValueError(f"protocol {protocol.name} leaves no gallery of {data_set.name}")
    return gallery


def labels_of(
    data_set: DataSet, protocol: Protocol, queries: Sequence[int], gallery: Sequence[int]
) -> dict[str, Any]:
    """Returns what `strfnet.evaluation.rank` needs to know of queries and gallery items, rows of ``data_set.test``.

    Raises: ValueError if a tracklet of a person lacks an attribute of the protocol.
    """
    columns = {row: column for column, row in enumerate(gallery)}
    items = [[data_set.test[row] for row in rows] for rows in (queries, gallery)]
    (query_identities, gallery_identities), cameras = (
        [[getattr(item, name) for item in part] for part in items] for name in ("identity", "camera")
    )
    differing, common = (
        [tuple([_attribute(item, name, protocol) for item in part] for part in items) for name in names]
        for names in (protocol.differing, protocol.common)
    )
    return {
        "query_identities": query_identities,
        "gallery_identities": gallery_identities,
        "query_cameras": cameras[0],
        "gallery_cameras": cameras[1],
        "self_match": [columns.get(row) for row in queries],
        "differing": differing,
        "common": common,
    }


def _with(
    data_set: DataSet, protocol: Protocol, rows: Sequence[int], wanted: tuple[str, str] | None
) -> tuple[int, ...]:
    """The rows whose tracklets have the value of an attribute; all without one."""
    if wanted is None:
        return tuple(rows)
    return tuple(row for row in rows if _attribute(data_set.test[row], wanted[0], protocol) == wanted[1])


def _attribute(tracklet: Tracklet, name: str, protocol: Protocol) -> str | None:
    value = tracklet.details.get(name)
    if value is None and tracklet.identity not in (JUNK, DISTRACTOR):
        raise ValueError(f"{tracklet.where} has no {name}, which protocol {protocol.name} compares")
    return value


def mean_over_splits(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Returns one evaluation whose metrics are the means of several, one for each split of a data set.

    Raises: ValueError if there are none, or they differ in protocol, data set or sampling.
    """
    kinds = {(each.protocol, each.data, each.sampling, each.reranked) for each in evaluations}
    if len(kinds) != 1:
        wanted = "one or more of one protocol, data set and sampling"
        raise ValueError(f"got {len(evaluations)} evaluations of {len(kinds)} kinds, wanted {wanted}")
    rankings = tuple(ranking for each in evaluations for ranking in each.rankings)
    return replace(evaluations[0], rankings=rankings)


COLUMNS = (
    *("protocol", "data", "mAP rectangle", "mAP trapezoid", "mINP", "R1", "R5", "R10", "R20"),
    *("queries", "unmatched", "gallery", "distance", "splits", "frames"),
)
TEXT_COLUMNS = ("protocol", "data", "distance", "frames")  # aligned left; numbers are aligned right
OTHER_FRAMES = "* other frames than the protocol's, which its line below names"

MISSING_SPLITS = "Not all splits: published metrics are means over all of them, as with --split all."


def table(evaluations: Iterable[Evaluation]) -> str:
    """Formats evaluations as a text table in percent; the two rules of AP have a column each."""
    evaluations = tuple(evaluations)
    rows = [COLUMNS, *map(cells_of, evaluations)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if name in TEXT_COLUMNS else cell.rjust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in (*lines, "", *notes_of(evaluations)))


def notes_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """The lines below a table: what the asterisk and missing splits mean, if any, and the rules of each protocol."""
    asterisk = [] if all(each.as_published for each in evaluations) else [OTHER_FRAMES]
    if any(len(each.rankings) < each.splits for each in evaluations):
        asterisk.append(MISSING_SPLITS)
    return [*asterisk, *dict.fromkeys(each.protocol.summary for each in evaluations)]


def cells_of(evaluation: Evaluation) -> tuple[str, ...]:
    """The text of an evaluation under each of `COLUMNS`."""
    protocol, cmc = evaluation.protocol, evaluation.cmc
    percent = f"{100 * evaluation.mean_average_precision:.2f}"
    precisions = [percent if protocol.average_precision == rule else "-" for rule in ("rectangle", "trapezoid")]
    penalty = f"{100 * evaluation.mean_inverse_negative_penalty:.2f}"
    ranks = [f"{100 * cmc[k - 1]:.2f}" if k <= len(cmc) else "-" for k in (1, 5, 10, 20)]
    counts = [
        _range([getattr(ranking, name) for ranking in evaluation.rankings])
        for name in ("matched", "unmatched", "gallery")
    ]
    frames = (evaluation.sampling or "unknown") + ("" if evaluation.as_published else " *")
    distance = protocol.distance + (" re-ranked" if evaluation.reranked else "")
    splits = len(evaluation.rankings)
    last = distance, f"{splits} of {evaluation.splits}" if splits < evaluation.splits else str(splits), frames
    return (protocol.name, evaluation.data, *precisions, penalty, *ranks, *counts, *last)


def _range(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)}..{max(counts)}"
