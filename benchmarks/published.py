"""All values that the two papers print, with their sources; `python benchmarks/published.py` lists them.

benchmarks/flops.py compares with the costs. Accuracies need the real data sets, which are not part of this project:
they are the authors' values and are not measured here.
"""

from dataclasses import dataclass

STRF = "Aich et al., ICCV 2021, poster"
NVAN = "Liu et al., BMVC 2019, poster"
CLIP = (1, 3, 8, 256, 128)


@dataclass(frozen=True)
class Cost:
    """One printed cost of one network.

    ``quantity`` is "parameters", in 10^6, or "operations", which the NVAN authors counted by hand and call
    FLOP; read as multiply-adds in units of 2^30 all six agree with ours. ``tolerance`` is absolute for
    parameters (half of the last printed digit) and relative for operations.
    """

    network: str
    quantity: str
    printed: float
    tolerance: float
    source: str


@dataclass(frozen=True)
class Accuracy:
    """One printed result on one data set, in percent; None where the paper prints none."""

    network: str
    data: str
    mean_ap: float | None
    rank1: float
    source: str


def _parameters(network: str, printed: float) -> Cost:
    return Cost(network, "parameters", printed, 0.005, STRF)


def _operations(network: str, printed: float) -> Cost:
    return Cost(network, "operations", printed, 0.03, NVAN)


COSTS = (
    _parameters("i3d_resnet50", 28.92),
    _parameters("strf_i3d_resnet50", 28.97),
    _parameters("p3da_resnet50", 25.48),
    _parameters("strf_p3da_resnet50", 25.53),
    _parameters("p3db_resnet50", 25.48),
    _parameters("strf_p3db_resnet50", 25.53),
    _parameters("p3dc_resnet50", 25.48),
    _parameters("strf_p3dc_resnet50", 25.53),
    _operations("resnet50_fpl", 30.4),
    _operations("resnet50_maxfpl", 30.4),
    _operations("nvan_resnet50", 60.0),
    _operations("nvan_spatial_resnet50", 30.4),
    _operations("nvan_temporal_resnet50", 40.4),
    _operations("ste_nvan_resnet50", 16.5),
)

# Which average precision a paper means; the two differ by about one point, so their columns never mix.
AP_RULE = {
    STRF: "rectangle, as AP3D's evaluation, on which its baselines build (the poster does not say)",
    NVAN: "trapezoid, as the published evaluation code has it",
}

ACCURACIES = tuple(
    Accuracy(network, data, mean_ap, rank1, STRF)
    for data, rows in {
        "MARS": (
            ("i3d_resnet50", 82.70, 88.50),
            ("strf_i3d_resnet50", 83.10, 88.70),
            ("p3da_resnet50", 83.20, 88.90),
            ("strf_p3da_resnet50", 85.40, 89.80),
            ("p3db_resnet50", 83.00, 88.80),
            ("strf_p3db_resnet50", 85.60, 90.30),
            ("p3dc_resnet50", 83.10, 88.50),
            ("strf_p3dc_resnet50", 86.10, 90.30),
        ),
        "DukeMTMC-VideoReID": (
            ("i3d_resnet50", 95.20, 95.40),
            ("strf_i3d_resnet50", 95.20, 95.90),
            ("p3da_resnet50", 95.00, 95.00),
            ("strf_p3da_resnet50", 95.60, 96.00),
            ("p3db_resnet50", 95.40, 95.30),
            ("strf_p3db_resnet50", 96.40, 97.40),
            ("p3dc_resnet50", 95.30, 95.30),
            ("strf_p3dc_resnet50", 96.20, 97.20),
        ),
        # The poster names no host for this figure; P3D-C is the headline network.
        "iLIDS-VID": (("strf_p3dc_resnet50", None, 89.30),),
    }.items()
    for network, mean_ap, rank1 in rows
) + tuple(
    Accuracy(network, data, mean_ap, rank1, NVAN)
    for data, rows in {
        "MARS": (
            ("resnet50_fpl", 79.1, 87.3),
            ("resnet50_maxfpl", 76.6, 86.3),
            ("nvan_resnet50", 82.8, 90.0),
            ("nvan_spatial_resnet50", 82.5, 89.7),
            ("nvan_temporal_resnet50", 81.2, 89.2),
            ("ste_nvan_resnet50", 81.2, 88.9),
        ),
        "DukeMTMC-VideoReID": (
            ("resnet50_fpl", 92.7, 95.0),
            ("resnet50_maxfpl", 92.4, 95.4),
            ("nvan_resnet50", 94.9, 96.3),
            ("nvan_spatial_resnet50", 94.7, 96.3),
            ("nvan_temporal_resnet50", 93.7, 95.6),
            ("ste_nvan_resnet50", 93.5, 95.2),
        ),
    }.items()
    for network, mean_ap, rank1 in rows
)


def main() -> None:
    print(f"costs, one clip {'x'.join(map(str, CLIP[2:]))}; benchmarks/flops.py compares them with ours")
    for cost in COSTS:
        unit = "M parameters" if cost.quantity == "parameters" else "G 'FLOP'"
        print(f"  {cost.network:24} {cost.printed:6.2f} {unit:14} {cost.source}")
    for source, rule in AP_RULE.items():
        print(f"\naccuracies in percent: PUBLISHED, NOT RUN HERE. {source}\naverage precision: {rule}")
        for row in (row for row in ACCURACIES if row.source == source):
            mean_ap = "    -" if row.mean_ap is None else f"{row.mean_ap:5.2f}"
            print(f"  {row.network:24} {row.data:20} mAP {mean_ap}   rank 1 {row.rank1:5.2f}")


if __name__ == "__main__":
    main()
