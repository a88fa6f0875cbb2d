"""Curves: the CMC of evaluations, and the losses and metrics of a training run."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from strfnet.evaluation.evaluation import Evaluation
from strfnet.visualization.glyphs import make_legible
from strfnet.visualization.page import SMALL, blank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Distinct for colour-blind readers too. Source: Okabe and Ito, Color Universal Design, 2008.
_LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def draw_cmc(evaluations: Sequence[Evaluation], *, ranks: int = 20, title: str = "") -> "Figure":
    """Draws the cumulative match characteristic of evaluations, labelled by protocol and rule of AP.

    Args:
        evaluations: at least one.
        ranks: length of the curves.
        title: title of the figure.

    Raises: ValueError if there are no evaluations, or ``ranks`` is below 1; ImportError if matplotlib is missing.
    """
    if not evaluations or ranks < 1:
        raise ValueError(f"got {len(evaluations)} evaluations and {ranks=}, wanted at least 1 of each")
    figure = blank(8.4, 4.3 + 0.19 * len(evaluations))
    below = (0.72 + 0.19 * len(evaluations)) / figure.get_figheight()
    axes = figure.add_axes((0.085, below, 0.89, 0.93 - below))
    for number, evaluation in enumerate(evaluations):
        shown = 100 * evaluation.cmc[:ranks]
        axes.plot(
            range(1, len(shown) + 1),
            shown,
            marker="o",
            markersize=3.5,
            linewidth=1.6,
            linestyle=("-", "--", ":", "-.")[number % 4],  # overlapping lines stay visible
            color=_LINES[number % len(_LINES)],
            label=_named(evaluation),
        )
    axes.set_title(title, loc="left", fontsize=11, weight="bold", parse_math=False)
    axes.set(xlabel="rank", ylabel="queries with a match up to that rank, %", xlim=(0.5, ranks + 0.5))
    axes.set_ylim(min(80, *(100 * evaluation.cmc[0] for evaluation in evaluations)) - 1, 101)
    from matplotlib.ticker import MaxNLocator  # behind `blank`, which names the extra

    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    _plain(axes)
    legend = axes.legend(
        loc="upper left", bbox_to_anchor=(-0.02, -0.15), frameon=False, fontsize=SMALL, borderaxespad=0
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    make_legible(figure)
    return figure


def draw_training(lines: Sequence[Mapping[str, Any]], *, title: str = "") -> "Figure":
    """Draws the losses of a training run by step and epoch, and the metrics of its evaluations.

    Args:
        lines: the log of the run, as `strfnet.training.read_log` returns it.
        title: title of the figure.

    Raises: ValueError if the log has no step; ImportError if matplotlib is missing.
    """
    steps = [line for line in lines if line["kind"] == "step"]
    if not steps:
        raise ValueError(f"the log of {len(lines)} lines has no step, wanted at least 1")
    evaluated = [line for line in lines if line["kind"] == "evaluation"]
    figure = blank(8.4, 6.2 if evaluated else 3.8)
    upper, *lower = figure.subplots(2 if evaluated else 1, 1, sharex=True, squeeze=False)[:, 0]
    batches = max(line["batch"] for line in steps)
    places = [line["epoch"] + line["batch"] / batches for line in steps]
    names = [name for name in ("loss", "identity_loss", "triplet_loss") if name in steps[0]]
    for name, colour in zip(names, _LINES, strict=False):
        values = [math.nan if line[name] is None else line[name] for line in steps]
        upper.plot(places, values, color=colour, alpha=0.25, linewidth=0.8)
        means = _by_epoch(steps, name)
        upper.plot([epoch + 0.5 for epoch in means], list(means.values()), color=colour, marker="o", markersize=3,
                   label=name.replace("_", " "))  # fmt: skip
    upper.set_ylabel("loss (bold: mean of an epoch)")
    upper.set_title(title, loc="left", fontsize=11, weight="bold", parse_math=False)
    for axes in lower:
        metrics = [name for name in evaluated[0] if name not in ("kind", "step", "epoch")]
        for name, colour in zip(metrics, _LINES, strict=False):
            shares = [math.nan if line.get(name) is None else 100 * line[name] for line in evaluated]
            axes.plot(
                [line["epoch"] for line in evaluated], shares, color=colour, marker="o", markersize=4, label=name
            )
        axes.set(ylabel="metric, %", ylim=(0, 101))
    for axes in (upper, *lower):
        _plain(axes)
        axes.legend(frameon=False, fontsize=SMALL)
    (lower or [upper])[-1].set_xlabel("epoch")
    make_legible(figure)
    figure.tight_layout()
    return figure


def _named(evaluation: Evaluation) -> str:
    """Protocol, data and metrics in one line, the rule of AP beside the mean."""
    rule, mean = evaluation.protocol.average_precision, 100 * evaluation.mean_average_precision
    frames = evaluation.sampling or "unknown frames"
    metrics = f"{evaluation.protocol.name} on {evaluation.data}: R1 {100 * evaluation.cmc[0]:.1f}, mAP {mean:.1f}"
    return f"{metrics} (AP by {rule}s); {frames}{', re-ranked' if evaluation.reranked else ''}"


def _by_epoch(steps: Sequence[Mapping[str, Any]], name: str) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for line in steps:
        if line[name] is not None:
            found.setdefault(line["epoch"], []).append(line[name])
    return {epoch: fmean(values) for epoch, values in found.items()}


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
