"""The pictures of one network and one data set, and the report that holds them all."""

import platform
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from strfnet.cli.showing import Showing
from strfnet.inference.embedder import Embedder
from strfnet.weights.file import WALKERS

if TYPE_CHECKING:
    from torch import Tensor

    from strfnet.data.tracklet import DataSet
    from strfnet.evaluation.evaluation import Evaluation
    from strfnet.evaluation.protocols import Protocol
    from strfnet.visualization.report import Section


class Exhibition:
    """The pictures of one call, each made when it is asked for; a method for each name in ``SUFFIXES``.

    Args:
        call: what is wanted.
        embedder: the network.
        data_set: whose test is shown.
        protocols: at least one; lists are ranked by the first.
        clips: form and frames of the clips of masks and attention.
        progress: whether to tell on stderr what is done.
    """

    def __init__(
        self,
        call: Showing,
        embedder: Embedder,
        data_set: "DataSet",
        protocols: Sequence["Protocol"],
        clips: tuple[str, int],
        *,
        progress: bool = False,
    ) -> None:
        rows = len(data_set.test)
        if call.row is not None and not 0 <= call.row < rows:
            raise ValueError(f"row is {call.row}, wanted one of {rows} test tracklets of {data_set.name}, from 0")
        self.call, self.embedder, self.data_set, self.protocols = call, embedder, data_set, protocols
        self.clips, self.progress = clips, progress
        self._made: dict[tuple[str, int], Tensor] = {}

    def make(self, name: str) -> bytes:
        """The file with this name's picture."""
        self._tell(f"making {name}")
        made: bytes = getattr(self, name)()
        return made

    def masks(self) -> bytes:
        from strfnet.visualization.attention import masks_of
        from strfnet.visualization.figures import draw_masks
        from strfnet.visualization.page import png

        clip = self._clip(self._row)
        masks = masks_of(self.embedder.network, self._given(clip))
        return png(draw_masks(clip, masks, title=self._title("STRF masks", self._row)))

    def attention(self) -> bytes:
        from strfnet.visualization.attention import attention_of
        from strfnet.visualization.figures import draw_attention
        from strfnet.visualization.page import png

        clip = self._clip(self._row)
        t, h, w = clip.shape[1:]
        place = self.call.place or (t // 2, 2 * h // 5, w // 2)
        attention = attention_of(self.embedder.network, self._given(clip), place)
        title = self._title("where the ringed pixel looks", self._row)
        return png(draw_attention(clip, attention, place, title=title))

    def ranks(self) -> bytes:
        queries = [self._row] if self.call.row is not None else self._hardest[: self.call.queries_shown]
        return self._lists(queries)

    def cmc(self) -> bytes:
        from strfnet.visualization.curves import draw_cmc
        from strfnet.visualization.page import png

        return png(draw_cmc(self._judged, title=self._title("CMC")))

    def curve(self) -> bytes:
        from strfnet.training.log import read_log
        from strfnet.visualization.curves import draw_training
        from strfnet.visualization.page import png

        log = Path(str(self.call.trained)) / "log.jsonl"
        return png(draw_training(read_log(log), title=f"{self.embedder.name}: training of {self.call.trained}"))

    def report(self) -> bytes:
        from strfnet.visualization.report import Picture, report_page

        lists = Picture(self._lists(self._hardest[: self.call.queries_shown]), "hardest queries, lowest AP first")
        sections = [
            self._section(
                "CMC", "The share of queries whose first hit has at most that rank.", self.cmc(), "CMC by protocol"
            ),
            self._section(
                "Hardest queries",
                f"Ranked by the protocol {self.protocols[0].name}, with the distance under each tracklet. What does "
                "not count is junk, or was seen by the query's own camera.",
                lists.png,
                lists.caption,
            ),
            *self._cases(),
        ]
        if self.call.trained is not None and (self.call.trained / "log.jsonl").exists():
            said = "Losses of each step, and what the run's own evaluations gave."
            sections.append(self._section("Training", said, self.curve(), "losses and evaluations by epoch"))
        page = report_page(
            f"{self.embedder.name} on {self.data_set.name}",
            notes=self._notes(),
            facts=self._facts(),
            evaluations=self._judged,
            sections=sections,
        )
        return page.encode()

    @cached_property
    def _judged(self) -> list["Evaluation"]:
        from strfnet.evaluation.evaluation import evaluate

        return [
            evaluate(self._embeddings(protocol), self.data_set, protocol, sampling=protocol.sampling)
            for protocol in self.protocols
        ]

    def _embeddings(self, protocol: "Protocol") -> "Tensor":
        """Those of all test tracklets, made once for each form of clips."""
        form = protocol.clips, protocol.frames
        if form not in self._made:
            self._made[form] = self.embedder.embed(self.data_set.test, form, progress=self.progress)
        return self._made[form]

    @cached_property
    def _hardest(self) -> list[int]:
        """Rows of the queries that have a match, the lowest AP of the first protocol first."""
        return sorted(self._precisions, key=lambda row: self._precisions[row])

    @cached_property
    def _precisions(self) -> dict[int, float]:
        from strfnet.evaluation.evaluation import evaluate

        first = self.protocols[0]
        found = evaluate(self._embeddings(first), self.data_set, first).rankings[0].average_precisions
        return {row: float(ap) for row, ap in zip(self.data_set.query, found, strict=True) if ap == ap}

    @property
    def _row(self) -> int:
        return self.data_set.query[0] if self.call.row is None else self.call.row

    def _lists(self, queries: Sequence[int]) -> bytes:
        from strfnet.visualization.figures import draw_ranked_lists
        from strfnet.visualization.page import png
        from strfnet.visualization.ranked_lists import ranked_list

        protocol, embeddings = self.protocols[0], self._embeddings(self.protocols[0])
        lists = {
            row: ranked_list(embeddings, self.data_set, protocol, row, count=self.call.ranks_shown) for row in queries
        }
        notes = {row: f"AP {100 * self._precisions[row]:.1f}" for row in queries if row in self._precisions}
        title = self._title(
            f"protocol {protocol.name}, {protocol.distance} distances, AP by {protocol.average_precision}s"
        )
        return png(draw_ranked_lists(self.data_set, lists, notes=notes, title=title))

    def _cases(self) -> list["Section"]:
        """Masks and attention of the queries with the lowest and the highest AP, of what the network has."""
        from dataclasses import replace

        from strfnet.layers.ap3d import AppearancePreserving
        from strfnet.layers.non_local import NonLocalBlock
        from strfnet.layers.strf import STRF

        kinds = {"masks": (STRF,), "attention": (NonLocalBlock, AppearancePreserving)}
        modules = list(self.embedder.network.modules())
        has = [name for name, kind in kinds.items() if any(isinstance(module, kind) for module in modules)]
        sections = []
        for which, row in (("worst", self._hardest[0]), ("best", self._hardest[-1])):
            said = f"The query in row {row} of the test, with an AP of {100 * self._precisions[row]:.1f} %."
            case = Exhibition(replace(self.call, row=row), self.embedder, self.data_set, self.protocols, self.clips)
            for name in has:
                title = f"{'Masks' if name == 'masks' else 'Attention'} of the {which} case"
                sections.append(self._section(title, said, getattr(case, name)(), f"{name} over the frames"))
        return sections

    def _section(self, title: str, text: str, png: bytes, caption: str) -> "Section":
        from strfnet.visualization.report import Picture, Section

        return Section(title, text, (Picture(png, caption),))

    def _notes(self) -> list[str]:
        notes = ["Accuracies on drawn walkers are no accuracies on people; they show that everything runs."]
        if self.call.data is not None:
            notes = ["If these tracklets were drawn, the figures are no accuracies on people."]
        if not self._trained:
            notes.append("This network was not trained to tell people apart: what is shown here is chance.")
        return notes

    def _facts(self) -> dict[str, str]:
        import torch

        from strfnet.version import __version__

        test = self.data_set
        h, w = self.embedder.size
        forms = ", ".join(dict.fromkeys(protocol.sampling for protocol in self.protocols))
        counts = f"{len(test.test)} tracklets in the test, {len(test.query)} of them queries"
        return {
            "Network": self.embedder.name,
            "Weights": self._source,
            "Data": f"{test.name}, {'drawn in memory' if self.call.data is None else self.call.data}: {counts}",
            "Clips": f"{forms}; frames of {h} by {w} pixels, {self.embedder.interpolation}",
            "Masks and attention": f"the first clip of {self.clips[0]} {self.clips[1]}",
            "Versions": f"strfnet {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        }

    @property
    def _trained(self) -> bool:
        return self.call.trained is not None or self.call.weights is not None

    @property
    def _source(self) -> str:
        if self.call.trained is not None:
            return f"the {'best' if self.call.best else 'newest'} of the run {self.call.trained}"
        if str(self.call.weights) == WALKERS:
            return f"{WALKERS}, which come with strfnet and were trained on drawn walkers"
        return "untrained" if self.call.weights is None else str(self.call.weights)

    def _title(self, what: str, row: int | None = None) -> str:
        network = self.embedder.name + ("" if self._trained else " (untrained: noise)")
        if row is None:
            return f"{network}, {self.data_set.name}: {what}"
        item = self.data_set.test[row]
        seen = "" if item.camera is None else f", camera {item.camera}"
        return f"{network}: {what}\n{self.data_set.name}, identity {item.identity}{seen}, row {row} of the test"

    def _clip(self, row: int) -> "Tensor":
        """The first clip of a tracklet, (3, t, h, w)."""
        from strfnet.data.frames import read_clip
        from strfnet.data.sampling import evaluation_sampler

        frames = self.data_set.test[row].frames
        indices = evaluation_sampler(self.clips[0], frames=self.clips[1])(len(frames))[0]
        return read_clip(frames, indices, self.embedder.size, interpolation=self.embedder.interpolation)

    def _given(self, clip: "Tensor") -> "Tensor":
        """The clip as a batch of one, where and as the network wants it."""
        like = next(self.embedder.network.parameters())
        return clip[None].to(like.device, like.dtype)

    def _tell(self, text: str) -> None:
        if self.progress:
            print(f"{text} ...", file=sys.stderr)
