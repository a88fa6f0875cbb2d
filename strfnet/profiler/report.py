"""The cost of a network as records, as a table and as JSON."""

import json
import textwrap
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

RULE = (
    "One MAC is one multiply-add, or two FLOPs. MACs are counted for convolutions, linear layers (products with "
    "a weight) and other matrix products (both of attention's, masked or not). Zeros of a padding count; biases "
    "do not. Elementwise operations are counted apart: one for each element written by pointwise operators, "
    "norms, softmax and upsampling, and one for each element read by reductions and pooling. Views, copies, "
    "indexing and creation do not count."
)
KINDS = ("convolution", "linear", "products", "elementwise")  # of operations; the last counts no MACs
PREFIXES = ((9, 30, "G"), (6, 20, "M"), (3, 10, "k"))  # a power of ten, the power of two near it, their letter
WIDTH = 90


@dataclass(frozen=True)
class Counts:
    """Parameters (elements), MACs by kind, and elementwise operations of some part of a network."""

    parameters: int = 0
    convolution: int = 0
    linear: int = 0
    products: int = 0
    elementwise: int = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of all three kinds."""
        return self.convolution + self.linear + self.products

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class Row:
    """One module: its path ("" is the model), its class, its own counts, and those of its subtree."""

    path: str
    class_name: str
    own: Counts
    subtree: Counts

    @property
    def depth(self) -> int:
        """Number of modules that contain this one."""
        return self.path.count(".") + 1 if self.path else 0

    @property
    def label(self) -> str:
        """The last part of the path, indented by depth."""
        return "  " * self.depth + (self.path.rpartition(".")[2] or "model")


@dataclass(frozen=True)
class Uncounted:
    """An operator that no rule counts: its name, the module that called it, and the number of calls."""

    operator: str
    path: str
    calls: int


@dataclass(frozen=True)
class Profile:
    """The cost of one forward pass in evaluation mode. ``str`` gives a table.

    Attributes:
        clip_shape: shape of the input; counts are for the whole input.
        rows: one for each module, in the order of ``named_modules``; the first is the model. Every parameter
            and operation is in the ``own`` of exactly one row.
        uncounted: calls of operators that no rule counts; ideally empty.
        rule: what the counts mean, to be printed beside them.
    """

    clip_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    uncounted: tuple[Uncounted, ...] = ()
    rule: str = RULE

    @property
    def total(self) -> Counts:
        """The counts of the whole model."""
        return self.rows[0].subtree

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.total.macs

    @property
    def gmacs(self) -> float:
        """Multiply-adds in units of 10^9."""
        return self.macs / 10**9

    @property
    def gimacs(self) -> float:
        """Multiply-adds in units of 2^30."""
        return self.macs / 2**30

    @property
    def flops(self) -> int:
        """Floating-point operations, two for each multiply-add."""
        return 2 * self.macs

    @property
    def parameters(self) -> int:
        """Elements of all parameters, shared ones once."""
        return self.total.parameters

    def table(self, depth: int | None = 2) -> str:
        """Returns a table of the modules down to ``depth`` (None: all), each with its subtree, and the totals.

        Raises: ValueError if ``depth`` is negative.
        """
        if depth is not None and depth < 0:
            raise ValueError(f"depth is {depth}; 0 (the model alone), more, or None (all modules) is wanted")
        rows = [row for row in self.rows if depth is None or row.depth <= depth]
        names = [["module", *(row.label for row in rows)], ["class", *(row.class_name for row in rows)]]
        head, *body = aligned([aligned(names), aligned(self._figures(rows), right=True)])
        ruler = "-" * len(head)
        title = f"{self._headline()}; each module with its subtree"
        return "\n".join([title, "", head, ruler, *body, ruler, *self._footer()])

    def as_dict(self) -> dict[str, object]:
        """Returns lists, dictionaries, numbers and strings for JSON.

        ``clip_shape``; ``rule``; ``totals``, the counts of the model with ``flops``, ``gmacs``, ``gimacs``;
        ``modules``, each with ``path``, ``class`` and two counts, ``own`` and ``subtree``; ``uncounted``, each
        with ``operator``, ``path`` and ``calls``. Counts are integers, unscaled: ``parameters``,
        ``convolution``, ``linear``, ``products`` (in MACs), ``macs`` (their sum) and ``elementwise``.
        """
        return {
            "clip_shape": list(self.clip_shape),
            "rule": self.rule,
            "totals": {**plain(self.total), "flops": self.flops, "gmacs": self.gmacs, "gimacs": self.gimacs},
            "modules": [
                {"path": row.path, "class": row.class_name, "own": plain(row.own), "subtree": plain(row.subtree)}
                for row in self.rows
            ],
            "uncounted": [asdict(entry) for entry in self.uncounted],
        }

    def to_json(self, indent: int | None = 2) -> str:
        """``as_dict`` as JSON text."""
        return json.dumps(self.as_dict(), indent=indent)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"<Profile of {self._headline()}: {scaled(self.macs, 'MAC')}, {self.parameters:,} parameters>"

    def _headline(self) -> str:
        shape = " x ".join(map(str, self.clip_shape))
        return f"{self.rows[0].class_name} on a clip of {shape}, evaluation mode"

    def _figures(self, rows: list[Row]) -> list[list[str]]:
        """Returns the columns of numbers, headings first; MACs are split by kind if the model has several."""
        parts = [row.subtree for row in rows]
        columns = [
            ["parameters", *(f"{part.parameters:,}" if part.parameters else "-" for part in parts)],
            column("MACs", [part.macs for part in parts], self.macs),
            ["share", *(f"{100 * part.macs / self.macs:.1f} %" if part.macs else "-" for part in parts)],
        ]
        kinds = [kind for kind in KINDS[:-1] if getattr(self.total, kind)]
        if len(kinds) > 1:
            columns += [column(kind, [getattr(part, kind) for part in parts], self.macs) for kind in kinds]
        return [*columns, column("elementwise", [part.elementwise for part in parts], self.total.elementwise)]

    def _footer(self) -> list[str]:
        """Returns the totals in all units, the rule, and what is not counted."""
        macs = scaled(self.macs, "MAC")
        if prefix := prefix_for(self.macs):
            ten, two, letter = prefix
            macs += f" (10^{ten}) = {self.macs / 2**two:,.3f} {letter.upper()}iMAC (2^{two})"
        total = [
            f"{macs} = {scaled(self.flops, 'FLOP')}",
            f"{self.parameters:,} parameters, {self.total.elementwise:,} elementwise operations",
        ]
        return [
            *noted("total", total),
            *noted("rule", textwrap.wrap(self.rule, WIDTH)),
            *noted("not counted", missing(self.uncounted) or ["nothing"]),
        ]


def plain(counts: Counts) -> dict[str, int]:
    """The fields of ``counts`` and the sum of their MACs."""
    return asdict(counts) | {"macs": counts.macs}


def aligned(columns: list[list[str]], *, right: bool = False) -> list[str]:
    """Returns lines of ``columns``, each padded to its widest cell."""
    pad = str.rjust if right else str.ljust
    padded = [[pad(text, max(map(len, cells))) for text in cells] for cells in columns]
    return ["  ".join(line) for line in zip(*padded, strict=True)]


def noted(word: str, lines: list[str]) -> list[str]:
    """Returns ``lines``, the first behind ``word``."""
    return [f"{'' if number else word:<12} {line}" for number, line in enumerate(lines)]


def missing(uncounted: Iterable[Uncounted]) -> list[str]:
    """Returns a line for each operator: its calls, and the first modules that called it."""
    calls: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for entry in uncounted:
        calls[entry.operator][entry.path] = entry.calls
    lines = []
    for operator, by_path in calls.items():
        first = ", ".join(repr(path or "model") for path in list(by_path)[:3])
        others = f" and {len(by_path) - 3} more" if len(by_path) > 3 else ""
        lines.append(f"{operator}, {sum(by_path.values())} x, in {first}{others}")
    return lines


def prefix_for(value: int) -> tuple[int, int, str] | None:
    """Returns the largest unit that is at most ``value``; None below a thousand."""
    return next((prefix for prefix in PREFIXES if value >= 10 ** prefix[0]), None)


def scaled(value: int, noun: str) -> str:
    """Returns ``value`` in its unit: "1.235 MFLOP", "12 FLOP"."""
    if prefix := prefix_for(value):
        return f"{value / 10 ** prefix[0]:,.3f} {prefix[2]}{noun}"
    return f"{value} {noun}"


def column(noun: str, values: list[int], total: int) -> list[str]:
    """Returns ``values`` in the unit of ``total`` under a heading; "-" is zero, "<0.001" is small."""
    prefix = prefix_for(total)
    if prefix is None:
        return [noun, *(str(value) if value else "-" for value in values)]
    shown = [f"{value / 10 ** prefix[0]:,.3f}" if value else "-" for value in values]
    return [f"{noun} ({prefix[2]})", *("<0.001" if text == "0.000" else text for text in shown)]
