"""Results of the speed benchmark: measured values, goals, and the tables of both."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

from interleaved import Spread

# The rows that are printed, with their yardsticks: of figures with such a case and quantity, the one that is worst by
# its goal.
ROWS = {
    "output, gradients": ("published code", "*", "*differ*"),
    "training step": ("published code", "*, training", "*published takes"),
    "eager": ("published code", "*", "eager: published takes"),
    "deployed": ("published code", "*", "deployed: published takes"),
    "deployed, bfloat16": ("published code", "*", "bfloat16: published takes"),
    "deployed, backend=auto": ("OpenVINO, ONNX Runtime", "*", "*: the fastest runtime takes"),
    "deployed, share of roof": ("machine's best probe", "*", "*: share of the roof"),
    "STRF on P3D-C": ("P3D-C", "*", "*with STRF takes"),
    "one more frame of 32": ("the clip anew", "*", "deployed: the clip anew takes"),
    "memory": ("published code", "memory", "*"),
}
BEGIN, END = "<!-- speed.py writes from here -->", "<!-- to here -->"


@dataclass(frozen=True)
class Figure:
    """One measured quantity of one case.

    ``unit`` is "x" for ratios of times, "roof" for shares of it, "GFLOP/s", "MiB", "share" of another's memory,
    "" for errors in parts of the largest value, and "s" for seconds, which tables leave out. ``least`` and
    ``most`` are its spread over rounds. A ``goal`` is a floor, or the most that is allowed if ``at_most``; None
    for a figure that is not judged.
    """

    case: str
    quantity: str
    value: float
    unit: str = ""
    least: float | None = None
    most: float | None = None
    goal: float | None = None
    at_most: bool = False

    @classmethod
    def spread(cls, case: str, quantity: str, spread: Spread, unit: str, **wanted: Any) -> "Figure":
        """A figure over rounds."""
        return cls(case, quantity, spread.median, unit, spread.least, spread.most, **wanted)

    @property
    def reached(self) -> bool | None:
        """Whether the goal is reached; None without one. A figure that is not a number reaches none."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.at_most else self.value >= self.goal

    @property
    def verdict(self) -> str:
        """Whether the goal is reached, or by how much of it the figure falls short."""
        if self.goal is None:
            return ""
        return "reached" if self.reached else f"MISSED by {abs(self.value / self.goal - 1):.1%}"


def dumped(figures: Iterable[Figure]) -> list[dict[str, Any]]:
    """Figures as plain values, with whether each is reached."""
    return [{**asdict(figure), "reached": figure.reached} for figure in figures]


def loaded(rows: Iterable[dict[str, Any]]) -> list[Figure]:
    """The figures that `dumped` wrote."""
    return [Figure(**{name: value for name, value in row.items() if name != "reached"}) for row in rows]


def figures_of(record: dict[str, Any]) -> list[Figure]:
    """The figures of a stored run, case by case."""
    return [figure for case in record["cases"].values() for figure in loaded(case["figures"])]


def minutes(record: dict[str, Any]) -> float:
    """How long the cases of a stored run took together."""
    return sum(case["seconds"] for case in record["cases"].values()) / 60


def table(figures: list[Figure]) -> str:
    """One line for each figure, as text, and how many goals are reached."""
    lines = [f"{'case':28}{'quantity':44}{'figure':>17}{'least .. most':>20}{'goal':>12}"]
    for figure in (figure for figure in figures if figure.unit != "s"):
        span = "" if figure.least is None else f"{_number(figure.least)} .. {_number(figure.most)}"
        shown = f"{_number(figure.value)} {figure.unit}"
        lines.append(
            f"{figure.case:28}{figure.quantity:44}{shown:>17}{span:>20}{_goal(figure):>12}  {figure.verdict}".rstrip()
        )
    return "\n".join([*lines, "", counted(figures)])


def summary(figures: list[Figure]) -> str:
    """A line for each of `ROWS`, and how many goals are reached.

    A line shows the figure that is worst by its goal, the spread over its rounds, and its case. Where no figure of a
    row has a goal, it shows the median and the spread over the cases. Figures of no row follow.
    """
    lines = [f"{'what':24}{'beside':24}{'reached':>9}{'worst':>12}{'least .. most':>16}{'goal':>8}  case"]
    rest = [figure for figure in figures if figure.unit not in ("s", "GFLOP/s")]
    for row, (yardstick, case, quantity) in {**ROWS, "others": ("", "*", "*")}.items():
        found = [each for each in rest if fnmatchcase(each.case, case) and fnmatchcase(each.quantity, quantity)]
        rest = [each for each in rest if each not in found]
        judged = sorted((each for each in found if each.goal is not None), key=_margin)
        if judged:
            worst, reached = judged[0], sum(bool(each.reached) for each in judged)
            span = "" if worst.least is None else f"{_number(worst.least)} .. {_number(worst.most)}"
            shown, of = f"{_number(worst.value)} {worst.unit}", f"{reached} of {len(judged)}"
            verdict = "" if worst.reached else f", {worst.verdict}"
            lines.append(
                f"{row:24}{yardstick:24}{of:>9}{shown:>12}{span:>16}{_goal(worst):>8}  {worst.case}{verdict}"
            )
        elif found and row not in ("memory", "others"):
            values = [each.value for each in found]
            span = f"{_number(min(values))} .. {_number(max(values))}"
            shown = f"{_number(median(values))} {found[0].unit}"
            lines.append(f"{row:24}{yardstick:24}{'':9}{shown:>12}{span:>16}{'':8}  not judged, {len(found)} cases")
    return "\n".join([*lines, "", counted(figures)])


def _margin(figure: Figure) -> float:
    """How far a figure is beyond its goal; 1 if it just reaches it. NaN is the worst."""
    goal = figure.goal or 1e-300
    margin = goal / max(figure.value, 1e-300) if figure.at_most else figure.value / goal
    return margin if margin == margin else -1.0


def counted(figures: list[Figure]) -> str:
    """How many goals are reached."""
    judged = [figure for figure in figures if figure.goal is not None]
    return f"{sum(bool(figure.reached) for figure in judged)} of {len(judged)} goals reached"


def markdown(record: dict[str, Any]) -> str:
    """Returns the `summary` of a stored run for a page, below the machine that it ran on."""
    machine = record["machine"]
    about = f"{machine['name']}, PyTorch {machine['torch']}, {machine['threads']} thread, {record['settings']}."
    return f"{about}\n\n```text\n{summary(figures_of(record))}\n```"


def put(text: str, page: Path) -> None:
    """Replace what stands between the two marks. Raises: ValueError if the page does not have them."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN} .. {END} to put the table into")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _goal(figure: Figure) -> str:
    return "" if figure.goal is None else f"{'≤' if figure.at_most else '≥'} {_number(figure.goal)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2g}" if abs(value) < 0.1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
