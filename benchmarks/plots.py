"""A figure of a stored run of the speed benchmark: time by clip length, and networks relative to the roof."""

import re
from pathlib import Path
from typing import Any

from figures import Figure, figures_of

COLOURS = {"published": "#b3592b", "eager": "#2b6cb3", "deployed": "#2f8f4e"}
MEMORY = {
    "block": {"published": "explicit", "eager": "strfnet"},
    "nvan": {"published": "nvan, published", "eager": "nvan, strfnet"},
}


def draw(record: dict[str, Any], file: Path) -> None:
    """Write a PNG of what ``record`` holds; parts that were not measured stay empty.

    Raises: ImportError with the line that installs matplotlib if it is missing.
    """
    try:
        from matplotlib.figure import Figure as Picture
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'strfnet[viz]'") from error
    figures = figures_of(record)
    picture = Picture(figsize=(12, 8.5), layout="constrained")
    grid = picture.add_gridspec(2, 4)
    for row, (subject, title) in enumerate({"block": "non-local block", "nvan": "NVAN"}.items()):
        times = {name: _points(figures, f"growth of {subject}", name) for name in ("published", "eager")}
        peaks = {name: _points(figures, "memory", theirs) for name, theirs in MEMORY[subject].items()}
        _growth(picture.add_subplot(grid[row, 0]), times, f"{title}: time", "seconds")
        _growth(picture.add_subplot(grid[row, 1]), peaks, f"{title}: peak memory", "MiB")
    _roof(picture.add_subplot(grid[:, 2:]), figures)
    picture.suptitle(f"{record['machine']['name']}, one thread, float32; {record['settings']}", fontsize=10)
    picture.savefig(file, dpi=110)


def _points(figures: list[Figure], case: str, name: str) -> list[tuple[int, float]]:
    """Frames and values of the figures that are called "name, T = frames"."""
    found = ((re.fullmatch(rf"{name}, T = (\d+)", f.quantity), f.value) for f in figures if f.case == case)
    return sorted((int(match[1]), value) for match, value in found if match)


def _growth(axes: Any, lines: dict[str, list[tuple[int, float]]], title: str, unit: str) -> None:
    from matplotlib.ticker import LogLocator

    lengths = sorted({t for points in lines.values() for t, _ in points})
    axes.set(title=title, xlabel="frames T", ylabel=unit)
    if not lengths:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    for name, points in lines.items():
        label = "strfnet" if name == "eager" else name
        axes.plot(*zip(*points, strict=True) if points else ([], []), "o-", color=COLOURS[name], label=label)
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(lengths, [str(t) for t in lengths], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)


def _roof(axes: Any, figures: list[Figure]) -> None:
    shares = {
        (f.case.partition(",")[0], f.quantity.partition(":")[0]): f
        for f in figures
        if f.unit == "roof" and f.quantity.partition(":")[0] in COLOURS
    }
    networks = list(dict.fromkeys(network for network, _ in shares))
    for offset, (way, colour) in enumerate(COLOURS.items()):
        measured = {row: shares[name, way].value for row, name in enumerate(networks) if (name, way) in shares}
        places = [row + (offset - 1) * 0.27 for row in measured]
        axes.barh(
            places, measured.values(), height=0.25, color=colour, label="strfnet, " * (way != "published") + way
        )
        for place, value in zip(places, measured.values(), strict=True):
            axes.text(0.01, place, f"{value:.2f}", va="center", color="white", fontsize=8)
    goals = {row: shares[name, "deployed"].goal for row, name in enumerate(networks) if (name, "deployed") in shares}
    for row, goal in goals.items():
        if goal is not None:
            label = "goal" if row == min(goals) else None
            axes.plot([goal, goal], [row - 0.42, row + 0.42], color="black", lw=1.2, label=label)
    axes.axvline(1, color="grey", lw=1, ls="--")
    axes.set_yticks(range(len(networks)), networks)
    axes.invert_yaxis()
    most = max((figure.value for figure in shares.values()), default=1.0)
    axes.set(title="share of the best probe of the same rounds", xlim=(0, max(1.12, 1.03 * most)))
    if networks:
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=4, fontsize=9)
