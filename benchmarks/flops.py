"""The cost tables of both papers beside our counts; exits 1 if a row is outside its stated tolerance.

python benchmarks/flops.py
python benchmarks/flops.py --network ste_nvan_resnet50 --clip 1 3 16 256 128 --json
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import torch
from published import CLIP, COSTS, Cost

import strfnet

UNPRINTED = ("c2d_resnet50", "strf_c2d_resnet50", "c2d_nl_resnet50", "ap3d_resnet50", "ap3d_nl_resnet50")


@dataclass(frozen=True)
class Row:
    """One network's cost, and the printed one where a paper has one for this clip."""

    network: str
    parameters: int
    macs: int
    printed: Cost | None = None

    @property
    def ours(self) -> float:
        """In the unit of the printed figure."""
        return self.parameters / 1e6 if self.printed_is("parameters") else self.macs / 2**30

    def printed_is(self, quantity: str) -> bool:
        return self.printed is not None and self.printed.quantity == quantity

    @property
    def difference(self) -> float:
        """Absolute for parameters, which are compared as printed, and relative for operations."""
        if self.printed is None:
            return 0.0
        if self.printed_is("parameters"):
            return round(self.ours, 2) - self.printed.printed
        return self.ours / self.printed.printed - 1

    @property
    def agrees(self) -> bool:
        return self.printed is None or abs(self.difference) <= self.printed.tolerance


def count(networks: list[str], clip: tuple[int, ...]) -> list[Row]:
    """Rows of the networks, one for each printed figure; printed figures hold for the papers' clip only."""
    rows = []
    for network in networks:
        with torch.device("meta"):
            model = strfnet.create_model(network)
        profile = strfnet.profile(model, clip)
        printed: list[Cost | None] = [
            c for c in COSTS if c.network == network and (clip == CLIP or c.quantity == "parameters")
        ]
        costs = printed or [None]
        rows += [Row(network, profile.parameters, profile.macs, cost) for cost in costs]
    return rows


HEADER = f"{'network':24}{'params (M)':>12}{'MACs (G)':>10}{'(Gi)':>8}"
TITLES = {
    "parameters": "STRF: parameters, as printed to two decimals",
    "operations": "NVAN: printed FLOP, counted by hand there, read as multiply-adds in Gi",
}


def report(rows: list[Row], clip: tuple[int, ...]) -> str:
    lines = [
        f"clip {'x'.join(map(str, clip[2:]))}, batch {clip[0]}, last stride 1, one pass in evaluation",
        "parameters: with batch-norm neck and 625-way classifier",
        "MACs: of convolutions, linear layers and matrix products, attention included; 1 MAC = 2 FLOP",
        "G = 10^9, Gi = 2^30",
    ]
    for quantity, title in TITLES.items():
        chosen = [row for row in rows if row.printed_is(quantity)]
        if chosen:
            lines += ["", title, f"{HEADER}{'printed':>10}{'difference':>12}{'tolerance':>11}", *map(line, chosen)]
    others = [row for row in rows if row.printed is None]
    if others:
        lines += ["", "no printed figure for this clip", HEADER, *map(line, others)]
    compared = [row for row in rows if row.printed is not None]
    if compared:
        lines += ["", f"{sum(row.agrees for row in compared)} of {len(compared)} printed figures agree"]
    return "\n".join(lines)


def line(row: Row) -> str:
    costs = f"{row.network:24}{row.parameters / 1e6:12.3f}{row.macs / 1e9:10.2f}{row.macs / 2**30:8.2f}"
    if row.printed is None:
        return costs
    if row.printed.quantity == "parameters":
        comparison = f"{row.printed.printed:10.2f}{row.difference:+12.2f}{'0.00':>11}"
    else:
        comparison = f"{row.printed.printed:10.1f}{row.difference:+12.1%}{row.printed.tolerance:11.0%}"
    return costs + comparison + ("" if row.agrees else "  <- off")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", metavar="NAME", help="only this one; may be given again")
    parser.add_argument("--clip", nargs=5, type=int, default=CLIP, metavar=tuple("bcthw"), help="another clip")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    given = parser.parse_args()
    clip = tuple(given.clip)
    networks = given.network or [*dict.fromkeys(cost.network for cost in COSTS), *UNPRINTED]
    try:
        rows = count(networks, clip)
    except ValueError as error:
        parser.error(str(error))
    if given.json:
        fields = [{**asdict(row), "difference": row.difference, "agrees": row.agrees} for row in rows]
        print(json.dumps({"clip": clip, "rows": fields}, indent=2))
    else:
        print(report(rows, clip))
    return 0 if all(row.agrees for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
