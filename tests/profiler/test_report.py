import json
import re
from dataclasses import FrozenInstanceError

import pytest
from torch import nn

from strfnet.profiler import Profile, profile
from strfnet.profiler.report import Counts, Row, Uncounted


class Network(nn.Module):
    """A stem, a stage of two blocks, attention of its own, and a classifier."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv3d(3, 16, 3, padding=1)
        self.stage = nn.Sequential(nn.Sequential(nn.Conv3d(16, 16, 1), nn.ReLU()), nn.Conv3d(16, 16, 3))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        tokens = self.stage(self.stem(x)).flatten(2).mT
        return self.head((tokens @ tokens.mT).softmax(dim=-1) @ tokens).sort().values


@pytest.fixture(scope="module")
def result():
    return profile(Network(), (2, 3, 4, 8, 8))


def made_of(macs, *, elementwise=0):
    counts = Counts(parameters=12_345, convolution=macs, elementwise=elementwise)
    return Profile((1, 3), (Row("", "Net", counts, counts),))


def lines_between_rulers(table):
    return [line.rstrip() for line in re.split(r"-{20,}\n", table)[1].splitlines()]


def test_units_agree_with_each_other():
    big = made_of(3 * 2**30)
    assert (big.macs, big.flops, big.parameters) == (3 * 2**30, 6 * 2**30, 12_345)
    assert (big.gmacs, big.gimacs) == (3.221225472, 3.0)


def test_totals_are_the_sum_of_the_rows(result):
    assert sum((row.own for row in result.rows), Counts()) == result.total
    assert result.macs == result.total.convolution + result.total.linear + result.total.products > 0
    assert min(result.total.convolution, result.total.linear, result.total.products) > 0
    for row in result.rows:
        below = (other.own for other in result.rows if f"{other.path}.".startswith(f"{row.path}.") or not row.path)
        assert row.subtree == sum(below, Counts())
    assert result.parameters == sum(p.numel() for p in Network().parameters())


def test_a_profile_is_a_record(result):
    with pytest.raises(FrozenInstanceError):
        result.rule = "as one likes"
    assert result == profile(Network(), (2, 3, 4, 8, 8))


def test_the_table_shows_modules_as_a_tree(result):
    tree = [re.match(r" *\S+", line)[0] for line in lines_between_rulers(result.table(depth=None))]
    assert tree == ["model", "  stem", "  stage", "    0", "      0", "      1", "    1", "  head"]
    assert len(lines_between_rulers(result.table())) == 6
    assert len(lines_between_rulers(result.table(depth=1))) == 4
    (model,) = lines_between_rulers(result.table(depth=0))
    assert model.split()[:2] == ["model", "Network"]
    assert str(result) == result.table(depth=2)


def test_the_table_is_aligned_and_adds_up(result):
    head, _, *body = str(result).splitlines()[2:10]
    assert len({len(line) for line in [head, *body]}) == 1
    columns = head.split()
    for line in body[1:]:  # decimals below each other
        dots = {match.start() for match in re.finditer(r"\.\d{3}\b", line)}
        assert dots <= {match.start() for match in re.finditer(r"\.\d{3}\b", body[0])}
    assert columns[:6] == ["module", "class", "parameters", "MACs", "(M)", "share"]
    shares = [float(re.search(r"([\d.]+) %", line)[1]) for line in body if not line.startswith("    ")]
    assert shares[0] == 100.0
    attention = 100 * result.rows[0].own.macs / result.macs
    assert sum(shares[1:]) + attention == pytest.approx(100, abs=0.2)


def test_the_table_states_totals_rule_and_what_is_left_out(result):
    text = " ".join(str(result).split())
    macs = f"{result.macs / 1e6:.3f} MMAC (10^6) = {result.macs / 2**20:.3f} MiMAC (2^20)"
    assert f"{macs} = {result.flops / 1e6:.3f} MFLOP" in text
    assert f"{result.parameters:,} parameters, {result.total.elementwise:,} elementwise operations" in text
    assert result.rule in text
    assert "not counted aten.sort.default, 1 x, in 'model'" in text
    assert "not counted nothing" in " ".join(str(made_of(5)).split())
    assert "Network on a clip of 2 x 3 x 4 x 8 x 8, evaluation mode" in text


@pytest.mark.parametrize(
    ("macs", "shown", "total"),
    [
        (0, "-", "0 MAC = 0 FLOP"),
        (999, "999", "999 MAC = 1.998 kFLOP"),
        (1_000, "1.000", "1.000 kMAC (10^3) = 0.977 KiMAC (2^10) = 2.000 kFLOP"),
        (32_430_000_000, "32.430", "32.430 GMAC (10^9) = 30.203 GiMAC (2^30) = 64.860 GFLOP"),
        (5_000_000_000_000, "5,000.000", "5,000.000 GMAC (10^9) = 4,656.613 GiMAC (2^30) = 10,000.000 GFLOP"),
    ],
)
def test_figures_come_in_units_of_their_size(macs, shown, total):
    table = made_of(macs).table()
    assert lines_between_rulers(table)[0].split()[3] == shown
    assert f"total        {total}\n" in table


def test_little_is_told_from_nothing():
    parts = [Counts(convolution=macs) for macs in (10**9, 10**9 - 1, 1, 0)]
    rows = [Row(path, "Net", part, part) for path, part in zip(["", "a", "b", "c"], parts, strict=True)]
    shown = [line.split()[3] for line in lines_between_rulers(str(Profile((1,), tuple(rows))))]
    assert shown == ["1.000", "1.000", "<0.001", "-"]


def test_kinds_are_shown_if_there_is_more_than_one(result):
    assert all(kind in str(result).splitlines()[2] for kind in ("convolution", "linear", "products"))
    assert "convolution" not in str(made_of(5)).splitlines()[2]


@pytest.mark.parametrize("depth", [-1, -7])
def test_a_negative_depth_is_refused(result, depth):
    with pytest.raises(ValueError, match=f"depth is {depth}; 0 "):
        result.table(depth=depth)


def test_json_holds_everything_in_plain_types(result):
    read = json.loads(result.to_json())
    assert read == result.as_dict()
    assert read["clip_shape"] == [2, 3, 4, 8, 8]
    assert read["rule"] == result.rule
    totals = {"flops": result.flops, "gmacs": result.gmacs, "gimacs": result.gimacs, "macs": result.macs}
    assert read["totals"] == totals | vars(result.total)
    assert [module["path"] for module in read["modules"]] == [row.path for row in result.rows]
    stage = read["modules"][2]
    assert (stage["path"], stage["class"]) == ("stage", "Sequential")
    assert stage["own"]["macs"] == 0
    assert stage["subtree"] == vars(result.rows[2].subtree) | {"macs": result.rows[2].subtree.macs}
    assert read["uncounted"] == [{"operator": "aten.sort.default", "path": "", "calls": 1}]
    assert "\n" not in result.to_json(indent=None)


def test_the_representation_is_one_line(result):
    assert "\n" not in repr(result)
    assert repr(made_of(32_430_000_000)) == (
        "<Profile of Net on a clip of 1 x 3, evaluation mode: 32.430 GMAC, 12,345 parameters>"
    )


def test_uncounted_calls_are_told_by_operator_with_their_modules():
    uncounted = [Uncounted("aten.x", f"1.{n}", n) for n in range(1, 6)] + [Uncounted("aten.y", "", 7)]
    text = str(Profile((1,), made_of(5).rows, tuple(uncounted)))
    lines = "not counted  aten.x, 15 x, in '1.1', '1.2', '1.3' and 2 more\n             aten.y, 7 x, in 'model'"
    assert text.endswith(lines)
