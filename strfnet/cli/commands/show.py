"""`strfnet show`: its figures, and the report that contains them."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import strfnet.visualization as vis
from strfnet.cli.commands.inputs import load, protocols_to_use, read
from strfnet.cli.commands.output import is_first, note, say
from strfnet.cli.options.groups import clip_sampler
from strfnet.cli.options.show import Show
from strfnet.data import DataSet, Tracklet, evaluation_sampler, read_clip
from strfnet.data.tracklet import check_labelled
from strfnet.evaluation import PROTOCOLS, Evaluation, Protocol, evaluate_protocols, protocols_of, queries_of
from strfnet.inference import Embedder
from strfnet.layers import STRF, AppearancePreserving, NonLocalBlock
from strfnet.models import LoadedNetwork
from strfnet.system.files import check_writable, make_folder, write_atomically
from strfnet.system.version import __version__
from strfnet.training import read_log

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANKED = {"ranks", "cmc", "report"}  # figures of rankings, which need a query with a match
BLOCKS = {"masks": (STRF,), "attention": (NonLocalBlock, AppearancePreserving)}  # modules that have the figure


def run(call: Show) -> None:
    for name in call.figures:
        if call.file(name).parent.exists():  # otherwise it is made for the first figure
            check_writable(call.file(name))
    data_set = read(call.data_set)
    rows = len(data_set.test)
    for name, row in (("row", call.row), ("other", call.other)):
        if row is not None and not 0 <= row < rows:
            raise ValueError(f"{name} is {row}, wanted one of {rows} test tracklets of {data_set.name}, from 0")
    if not rows and call.figures != ["curve"]:
        raise ValueError(f"{data_set.name} has no test tracklets to show")
    embedder, found = load(call.network, call.inference)
    if RANKED & {*call.figures} or ("match" in call.figures and call.other is None):
        check_labelled(data_set.test, "a ranking")
        protocols = protocols_to_use(call.protocol, data_set)
    else:
        protocols = [PROTOCOLS[call.protocol]] if call.protocol != "all" else list(protocols_of(data_set))
    figures = Figures(call, embedder, found, data_set, protocols)
    for name in call.figures:
        content = figures.draw(name)
        if is_first():
            make_folder(call.file(name).parent)
            write_atomically(call.file(name), content)
            say(f"{name}: {call.file(name)}")


@dataclass(eq=False)
class Figures:
    """The figures of one network and one data set; a method for each key of `SUFFIXES`.

    Args:
        call: the command.
        embedder: the network.
        found: what is known of the network.
        data_set: its test tracklets are shown.
        protocols: at least one for figures of rankings; ranked lists follow the first.
        embeddings: of the test tracklets, by clip sampler, as they are computed.
    """

    call: Show
    embedder: Embedder
    found: LoadedNetwork
    data_set: DataSet
    protocols: Sequence[Protocol]
    embeddings: dict[tuple[str, int], Tensor] = field(default_factory=dict)

    def draw(self, name: str) -> bytes:
        """Returns the content of the file of a figure."""
        if self.embedder.progress:
            note(f"drawing {name} ...")
        drawn = getattr(self, name)()
        return drawn.encode() if isinstance(drawn, str) else vis.png(drawn)

    def masks(self, row: int | None = None) -> "Figure":
        clip, row = self._clip(row)
        masks = vis.masks_of(self.embedder.network, self._batch(clip))
        return vis.draw_masks(clip, masks, title=self._title("STRF masks", row))

    def attention(self, row: int | None = None) -> "Figure":
        clip, row = self._clip(row)
        t, h, w = clip.shape[1:]
        place = self.call.place or (t // 2, 2 * h // 5, w // 2)
        attention = vis.attention_of(self.embedder.network, self._batch(clip), place)
        return vis.draw_attention(clip, attention, place, title=self._title("attention of the ringed pixel", row))

    def ranks(self) -> "Figure":
        protocol = self.protocols[0]
        queries = self.hardest[: self.call.queries_shown] if self.call.row is None else [self.call.row]
        lists = self._ranked(queries, count=self.call.ranks_shown)
        rules = f"{protocol.distance} distances, AP by {protocol.average_precision}s"
        title = self._title(f"protocol {protocol.name}, {rules}")
        return vis.draw_ranked_lists(
            self.data_set, lists, notes=self._precision_notes(), title=title, max_pixels=self.embedder.max_pixels
        )

    def match(self, query: int | None = None, other: int | None = None) -> "Figure":
        """Why two tracklets match; by default those of the call, or the first that counts of the ranked list."""
        query = self._row() if query is None else query
        other = self.call.other if other is None else other
        if other is None:
            items = self._whole_list(query)
            other = next((item for item in items if item.mark != "not counted"), items[0]).row
        clips = self._clip(query)[0], self._clip(other)[0]
        regions = vis.match_regions(
            self.embedder.network, *clips, distance=self.protocols[0].distance, batch=self.embedder.batch
        )
        title = f"{self._title('regions that match', query)}, and {self._about(other)}"
        return vis.draw_match(*clips, regions, title=title)

    def _ranked(self, queries: Sequence[int], *, count: int) -> dict[int, list[vis.RankedItem]]:
        protocol = self.protocols[0]
        embeddings = self._embed(self.data_set.test, (protocol.clips, protocol.frames))
        return vis.ranked_lists(embeddings, self.data_set, protocol, queries, count=count)

    def _whole_list(self, query: int) -> list[vis.RankedItem]:
        return self._ranked([query], count=len(self.data_set.test))[query]

    def _precision_notes(self) -> dict[int, str]:
        return {query: f"query, AP {100 * precision:.1f}" for query, precision in self.precisions.items()}

    def cmc(self) -> "Figure":
        return vis.draw_cmc(self.evaluations, title=self._title("CMC"))

    def curve(self) -> "Figure":
        run = Path(str(self.call.network.trained))
        return vis.draw_training(read_log(run / "log.jsonl"), title=f"{self.embedder.name}: training of {run}")

    def report(self) -> str:
        protocol, run, shown = self.protocols[0], self.call.network.trained, self.call.queries_shown
        ranked = (
            f"Ranked lists under the protocol {protocol.name}: the middle frame of each tracklet, and its distance. "
            "Right items have a green border and a tick, wrong ones a red border and a cross. Grey items are not "
            "counted: junk, and what the protocol removes. An image leads to the frames of its tracklet."
        )
        ranked_lists = self._ranked(self.hardest[:shown], count=self.call.ranks_shown)
        lists = vis.report_lists(
            self.data_set, ranked_lists, notes=self._precision_notes(), max_pixels=self.embedder.max_pixels
        )
        sections = [
            vis.Section("Hardest queries", ranked, lists=lists),
            self._matches(self.hardest[0]),
            _section("CMC", "The fraction of queries whose first match has that rank or less.", self.cmc(), "CMC"),
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
        return vis.report_page(
            f"{self.embedder.name} on {self.data_set.name}",
            notes=self._notes(),
            facts=self._facts(),
            evaluations=self.evaluations,
            sections=sections,
        )

    def _matches(self, query: int) -> vis.Section:
        """What makes a query similar to the first item of its ranked list, and to the first right one."""
        items = self._whole_list(query)
        firsts = {mark: next((item.row for item in items if item.mark == mark), None) for mark in ("wrong", "right")}
        figures = tuple(
            vis.ReportFigure(vis.png(self.match(query, row)), f"the hardest query and its first {mark} item")
            for mark, row in firsts.items()
            if row is not None
        )
        text = (
            "Each region is hidden in turn. Red regions make the clips similar, blue ones dissimilar. Numbers mark "
            "the pairs of regions that contribute most to the similarity."
        )
        return vis.Section("Regions that match", text, figures)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """One for each protocol."""
        others = evaluate_protocols(self._embed, self.data_set, self.protocols[1:])
        return [self._first_evaluation, *others]

    @cached_property
    def _first_evaluation(self) -> Evaluation:
        """That of the protocol of the ranked lists, which need no other."""
        (evaluation,) = evaluate_protocols(self._embed, self.data_set, self.protocols[:1])
        return evaluation

    @cached_property
    def precisions(self) -> dict[int, float]:
        """AP of the queries that have a match, under the first protocol, by test row."""
        values = self._first_evaluation.rankings[0].average_precisions
        queries = queries_of(self.data_set, self.protocols[0])
        return {row: float(ap) for row, ap in zip(queries, values, strict=True) if ap == ap}

    @cached_property
    def hardest(self) -> list[int]:
        """Test rows of the queries that have a match, lowest AP first."""
        return sorted(self.precisions, key=lambda row: self.precisions[row])

    def _embed(self, tracklets: Sequence[Tracklet], clips: tuple[str, int]) -> Tensor:
        """Embeddings of the test tracklets, computed once for each clip sampler."""
        if clips not in self.embeddings:
            self.embeddings[clips] = self.embedder.embed(tracklets, clips)
        return self.embeddings[clips]

    def _notes(self) -> list[str]:
        data = self.data_set
        people = len({data.test[row].identity for row in data.query})
        cameras = len({item.camera for item in data.test if item.camera is not None})
        seen = f" under {cameras} cameras" if cameras else ""
        notes = [
            f"These metrics hold for {len(data.query)} queries of {people} identities{seen}, and for no other data.",
            "Metrics on synthetic walkers do not measure accuracy on people; they show that everything runs.",
        ]
        if self.call.data_set.data is not None:
            notes.pop()
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
            "Masks, attention and regions": f"the first clip of {self.call.clips}",
            "Versions": f"strfnet {__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        }

    def _title(self, what: str, row: int | None = None) -> str:
        network = self.embedder.name + ("" if self.found.trained else " (untrained)")
        if row is None:
            return f"{network}, {self.data_set.name}: {what}"
        return f"{network}: {what}\n{self.data_set.name}, {self._about(row)}"

    def _about(self, row: int) -> str:
        item = self.data_set.test[row]
        camera = "" if item.camera is None else f", camera {item.camera}"
        return f"identity {item.identity}{camera}, test row {row}"

    def _clip(self, row: int | None) -> tuple[Tensor, int]:
        """The first clip (3, t, h, w) of a tracklet, and its test row; for None, that of the call or of a query."""
        row = self._row() if row is None else row
        tracklet, preprocessing = self.data_set.test[row], self.embedder.preprocessing
        sampler, length = clip_sampler(self.call.clips)
        indices = evaluation_sampler(sampler, frames=length)(len(tracklet.frames))[0]
        settings: dict[str, Any] = {
            "interpolation": preprocessing.interpolation,
            "max_pixels": self.embedder.max_pixels,
        }
        return read_clip(tracklet.frames, indices, preprocessing.size, **settings), row

    def _row(self) -> int:
        """The test row of the call, or of the first query; the first row if there is no query."""
        if self.call.row is not None:
            return self.call.row
        return queries_of(self.data_set, self.protocols[0])[0] if self.data_set.query else 0

    def _batch(self, clip: Tensor) -> Tensor:
        """The clip as a batch of one, on the device and in the type of the network."""
        like = next(self.embedder.network.parameters())
        return clip[None].to(like.device, like.dtype)


def _section(title: str, text: str, figure: "Figure", caption: str) -> vis.Section:
    return vis.Section(title, text, (vis.ReportFigure(vis.png(figure), caption),))
