"""Markdown tables of the synthetic comparison: metrics per network, and differences per seed."""

from collections import defaultdict
from collections.abc import Sequence
from operator import itemgetter
from statistics import mean, stdev
from typing import Any

from synthetic_arms import ABLATIONS, HOSTS, NVANS, TOWERS, UNITS

Row = dict[str, Any]


def tables(rows: Sequence[Row]) -> str:
    """Returns all results, one section per task and number of steps."""
    sections: dict[tuple[str, int], list[Row]] = defaultdict(list)
    for row in rows:
        sections[row["task"], row["steps"]].append(row)
    parts = [_section(task, steps, chosen) for (task, steps), chosen in sorted(sections.items())]
    return "\n\n".join(part for part in parts if part)


def summary(rows: Sequence[Row], steps: int = 300) -> str:
    """Returns the differences in mAP of runs with so many steps, one row per comparison and one column per test."""
    rows = [row for row in rows if row["steps"] == steps]
    tests = sorted(dict.fromkeys((row["task"], test) for row in rows for test in row["scores"]), key=itemgetter(0))
    bold = "bold: five seeds or more agree in sign and the mean is two standard errors from 0"
    lines = [f"Differences in mAP after {steps} steps, mean ± sample deviation over seeds; {bold}.", ""]
    lines += _head(["comparison", *(f"{task} {test}" for task, test in tests)])
    for pair in dict.fromkeys(_pair(arm) for arm in sorted({(row["host"], row["arm"]) for row in rows}, key=_place)):
        if pair is not None:
            cells = [_difference([row for row in rows if row["task"] == task], *pair, test) for task, test in tests]
            lines.append(_line([f"{_name(*pair[0])} − {_name(*pair[1])}", *cells]))
    return "\n".join(lines)


def _difference(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str], test: str) -> str:
    values = differences([row for row in rows if test in row["scores"]], one, other, test)
    return f"{_mark(values)}{mean(values):+.1f} ± {_deviation(values)}{_mark(values)}" if values else ""


def differences(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str], test: str) -> list[float]:
    """Returns mAP of ``one`` minus mAP of ``other``, each a (host, arm), for the seeds that both have."""
    scores: dict[tuple[str, str], dict[tuple[int, int], float]] = defaultdict(dict)
    for row in rows:
        scores[row["host"], row["arm"]][row["seed"], row["data"]] = row["scores"][test][0]
    return [scores[one][seed] - scores[other][seed] for seed in sorted(scores[one]) if seed in scores[other]]


def _section(task: str, steps: int, rows: Sequence[Row]) -> str:
    tests = list(rows[0]["scores"])
    arms = sorted({(row["host"], row["arm"]) for row in rows}, key=_place)
    lines = [f"### {task}, {steps} steps", "", "mAP / R1 in percent, mean ± sample deviation over seeds.", ""]
    lines += _head(["network", "seeds", *tests, "loss", "CPU s"])
    for host, arm in arms:
        runs = [row for row in rows if (row["host"], row["arm"]) == (host, arm)]
        metrics = [" / ".join(_spread([run["scores"][test][at] for run in runs]) for at in (0, 1)) for test in tests]
        loss, seconds = (mean(run[name] for run in runs) for name in ("loss", "cpu_seconds"))
        lines.append(_line([_name(host, arm), len(runs), *metrics, f"{loss:.2f}", f"{seconds:.0f}"]))
    pairs = [pair for pair in map(_pair, arms) if pair is not None and pair[1] in arms]
    if pairs:
        lines += ["", "Differences in mAP per seed, and how many of them are above 0.", ""]
        lines += _head(["difference", "test", "per seed", "mean ± deviation", "above 0"])
        lines += [line for one, other in pairs for line in _compared(rows, one, other, tests)]
    return "\n".join(lines)


def _compared(rows: Sequence[Row], one: tuple[str, str], other: tuple[str, str], tests: Sequence[str]) -> list[str]:
    lines = []
    for test in tests:
        values = differences(rows, one, other, test)
        if values:
            spread = _difference(rows, one, other, test)
            seeds, above = " ".join(f"{v:+.1f}" for v in values), sum(v > 0 for v in values)
            lines.append(
                _line([f"{_name(*one)} − {_name(*other)}", test, seeds, spread, f"{above} of {len(values)}"])
            )
    return lines


def _pair(arm: tuple[str, str]) -> tuple[tuple[str, str], tuple[str, str]] | None:
    """Returns an arm and its baseline: the host for a unit, STRF for an ablation, NVAN for its variants."""
    host, kind = arm
    if host in NVANS:
        return None if host == "nvan" else (arm, ("nvan", "none"))
    if kind == "none":
        return None
    return arm, (host, "none" if kind in UNITS else "strf")


def _mark(values: Sequence[float]) -> str:
    """Returns bold marks if five seeds or more agree in sign and the mean is two standard errors from 0."""
    agree = all(value > 0 for value in values) or all(value < 0 for value in values)
    return "**" if len(values) > 4 and agree and abs(mean(values)) > 2 * stdev(values) / len(values) ** 0.5 else ""


def _place(arm: tuple[str, str]) -> tuple[int, int]:
    return [*HOSTS, *NVANS, *TOWERS].index(arm[0]), ["none", *ABLATIONS, *UNITS].index(arm[1])


def _name(host: str, arm: str) -> str:
    return host if arm == "none" else f"{host} + {arm}"


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {_deviation(values)}"


def _deviation(values: Sequence[float]) -> str:
    return f"{stdev(values):.1f}" if len(values) > 1 else "?"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), "|" + "---|" * len(names)]


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
