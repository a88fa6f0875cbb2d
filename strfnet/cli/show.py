"""The figures of `strfnet show`, and the report that contains them."""

import platform
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from strfnet.cli.options import Show
from strfnet.data import DataSet, Tracklet, evaluation_form, read_clip
from strfnet.evaluation import Evaluation, Protocol, evaluate_protocols
from strfnet.inference import Embedder
from strfnet.layers import STRF, AppearancePreserving, NonLocalBlock
from strfnet.models import LoadedNetwork
from strfnet.training import read_log
from strfnet.version import __version__
from strfnet.visualization import (
    Picture,
    Section,
    attention_of,
    draw_attention,
    draw_cmc,
    draw_masks,
    draw_ranked_lists,
    draw_training,
    masks_of,
    png,
    ranked_list,
    report_page,
)

BLOCKS = {"masks": (STRF,), "attention": (NonLocalBlock, AppearancePreserving)}  # modules that have the figure


class Figures:
    """The figures of one network and one data set; a method for each key of `SUFFIXES`.

    Args:
        call: the command.
        embedder: the network.
        found: what is known of the network.
        data_set: its test tracklets are shown.
        protocols: at least one; ranked lists follow the first.
        clips: clip sampler and frames of the clips for masks and attention.
    """

    def __init__(
        self,
        call: Show,
        embedder: Embedder,
        found: LoadedNetwork,
        data_set: DataSet,
        protocols: Sequence[Protocol],
        clips: tuple[str, int],
    ) -> None:
        self.call, self.embedder, self.found, self.data_set = call, embedder, found, data_set
        self.protocols, self.clips = protocols, clips
        self._embeddings: dict[tuple[str, int], Tensor] = {}

    def draw(self, name: str) -> bytes:
        """Returns the content of the file of a figure."""
        if self.embedder.progress:
            print(f"drawing {name} ...", file=sys.stderr)
        content: bytes = getattr(self, name)()
        return content

    def masks(self, row: int | None = None) -> bytes:
        row = self._row if row is None else row
        clip = self._clip(row)
        masks = masks_of(self.embedder.network, self._batch(clip))
        return png(draw_masks(clip, masks, title=self._title("STRF masks", row)))

    def attention(self, row: int | None = None) -> bytes:
        row = self._row if row is None else row
        clip = self._clip(row)
        t, h, w = clip.shape[1:]
        place = self.call.place or (t // 2, 2 * h // 5, w // 2)
        attention = attention_of(self.embedder.network, self._batch(clip), place)
        return png(draw_attention(clip, attention, place, title=self._title("attention of the ringed pixel", row)))

    def ranks(self) -> bytes:
        queries = [self._row] if self.call.row is not None else self.hardest[: self.call.queries_shown]
        return self._ranked_lists(queries)

    def cmc(self) -> bytes:
        return png(draw_cmc(self.evaluations, title=self._title("CMC")))

    def curve(self) -> bytes:
        run = Path(str(self.call.network.trained))
        return png(draw_training(read_log(run / "log.jsonl"), title=f"{self.embedder.name}: training of {run}"))

    def report(self) -> bytes:
        protocol, run = self.protocols[0], self.call.network.trained
        lists = self._ranked_lists(self.hardest[: self.call.queries_shown])
        ranked = (
            f"Ranked lists under the protocol {protocol.name}, with the distance below each tracklet. Junk and the "
            "tracklets of the query's own camera are not counted."
        )
        sections = [
            _section("CMC", "The fraction of queries whose first match has that rank or less.", self.cmc(), "CMC"),
            _section("Hardest queries", ranked, lists, "queries with the lowest AP"),
        ]
        modules = list(self.embedder.network.modules())
        for case, row in (("worst", self.hardest[0]), ("best", self.hardest[-1])):
            text = f"The query in test row {row}, with an AP of {100 * self.precisions[row]:.1f} %."
            for name, kinds in BLOCKS.items():
                if any(isinstance(module, kinds) for module in modules):
                    title = f"{name.capitalize()} of the {case} case"
                    sections.append(_section(title, text, getattr(self, name)(row), f"{name} over the frames"))
        if run is not None and (run / "log.jsonl").exists():
            text = "Losses of each step, and the metrics of the run's own evaluations."
            sections.append(_section("Training", text, self.curve(), "losses and metrics by epoch"))
        page = report_page(
            f"{self.embedder.name} on {self.data_set.name}",
            notes=self._notes(),
            facts=self._facts(),
            evaluations=self.evaluations,
            sections=sections,
        )
        return page.encode()

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """One for each protocol."""
        return evaluate_protocols(self._embed, self.data_set, self.protocols)

    @cached_property
    def precisions(self) -> dict[int, float]:
        """AP of the queries that have a match, under the first protocol, by test row."""
        first = self.protocols[:1]
        (evaluation,) = evaluate_protocols(self._embed, self.data_set, first)
        values = evaluation.rankings[0].average_precisions
        return {row: float(ap) for row, ap in zip(self.data_set.query, values, strict=True) if ap == ap}

    @property
    def hardest(self) -> list[int]:
        """Test rows of the queries that have a match, lowest AP first."""
        return sorted(self.precisions, key=lambda row: self.precisions[row])

    def _embed(self, tracklets: Sequence[Tracklet], clips: tuple[str, int]) -> Tensor:
        """Embeddings of the test tracklets, computed once for each clip sampler."""
        if clips not in self._embeddings:
            self._embeddings[clips] = self.embedder.embed(tracklets, clips)
        return self._embeddings[clips]

    @property
    def _row(self) -> int:
        return self.data_set.query[0] if self.call.row is None else self.call.row

    def _ranked_lists(self, queries: Sequence[int]) -> bytes:
        protocol, count = self.protocols[0], self.call.ranks_shown
        embeddings = self._embed(self.data_set.test, (protocol.clips, protocol.frames))
        lists = {row: ranked_list(embeddings, self.data_set, protocol, row, count=count) for row in queries}
        notes = {row: f"AP {100 * self.precisions[row]:.1f}" for row in queries if row in self.precisions}
        rules = f"{protocol.distance} distances, AP by {protocol.average_precision}s"
        title = self._title(f"protocol {protocol.name}, {rules}")
        return png(draw_ranked_lists(self.data_set, lists, notes=notes, title=title))

    def _notes(self) -> list[str]:
        notes = ["Metrics on synthetic walkers do not measure accuracy on people; they show that everything runs."]
        if self.call.data_set.data is not None:
            notes = ["If these tracklets are synthetic, the metrics do not measure accuracy on people."]
        if not self.found.trained:
            notes.append("This network is not trained for re-identification: its metrics are those of chance.")
        return notes

    def _facts(self) -> dict[str, str]:
        data, call = self.data_set, self.call.data_set
        height, width = self.embedder.preprocessing.size
        samplers = ", ".join(dict.fromkeys(protocol.sampling for protocol in self.protocols))
        counts = f"{len(data.test)} test tracklets, {len(data.query)} of them queries"
        frames = f"frames of {height} x {width} pixels, {self.embedder.preprocessing.interpolation}"
        return {
            "Network": self.embedder.name,
            "Weights": self.found.weights,
            "Data": f"{data.name}, {'drawn in memory' if call.data is None else call.data}: {counts}",
            "Clips": f"{samplers}; {frames}",
            "Masks and attention": f"the first clip of {self.clips[0]} {self.clips[1]}",
            "Versions": f"strfnet {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        }

    def _title(self, what: str, row: int | None = None) -> str:
        network = self.embedder.name + ("" if self.found.trained else " (untrained)")
        if row is None:
            return f"{network}, {self.data_set.name}: {what}"
        item = self.data_set.test[row]
        camera = "" if item.camera is None else f", camera {item.camera}"
        return f"{network}: {what}\n{self.data_set.name}, identity {item.identity}{camera}, test row {row}"

    def _clip(self, row: int) -> Tensor:
        """The first clip of a tracklet, (3, t, h, w)."""
        frames, preprocessing = self.data_set.test[row].frames, self.embedder.preprocessing
        indices = evaluation_form(self.clips[0], frames=self.clips[1])(len(frames))[0]
        return read_clip(frames, indices, preprocessing.size, interpolation=preprocessing.interpolation)

    def _batch(self, clip: Tensor) -> Tensor:
        """The clip as a batch of one, on the device and in the type of the network."""
        like = next(self.embedder.network.parameters())
        return clip[None].to(like.device, like.dtype)


def _section(title: str, text: str, png: bytes, caption: str) -> Section:
    return Section(title, text, (Picture(png, caption),))
