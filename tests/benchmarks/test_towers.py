"""The table of towers: a row of a small tower, and what it says of faults."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import strfnet

CLIP = torch.zeros(1, 3, 2, 16, 8)


@pytest.fixture
def towers(load):
    return load("towers")


def small():
    convs = (nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, padding=1))
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.fixture
def row(towers, monkeypatch):
    monkeypatch.setitem(towers.TOWERS, "small", (small, "1", (16, 8), None))
    return towers.row


def test_a_row_is_empty_where_all_holds_and_names_what_does_not(row, towers, monkeypatch):
    assert row("small", exported=False) == {unit: "" for unit in towers.UNITS}
    inflate = strfnet.inflate

    def woken(*given, **options):
        network = inflate(*given, **options)
        for name, module in network.named_modules():
            if name.endswith("after.0"):
                towers.wake(module)
        return network

    monkeypatch.setattr(strfnet, "inflate", woken)
    assert row("small", exported=False) == {unit: "differs" for unit in towers.UNITS}
    monkeypatch.setattr(strfnet, "inflate", inflate)
    monkeypatch.setattr(strfnet, "deflate", lambda network: network)
    assert row("small", exported=False) == {unit: "does not deflate" for unit in towers.UNITS}


def test_files_are_of_a_tower_with_all_units_awake(row, towers, monkeypatch):
    seen = []

    def export(network, path, format, **options):
        units = [type(unit) for unit in network[1].after]
        assert units == list(towers.BUILDERS) and all(p.any() for p in network.parameters())
        seen.append(format)
        if format == "onnx":
            raise ValueError("no")

    monkeypatch.setattr(towers, "export", export)
    assert row("small", exported=True)["files"] == "onnx: no" and seen == ["pt2", "onnx"]


def test_costs_are_rows_of_ratios_to_the_plain_tower(towers, monkeypatch):
    networks = {None: small, "strf": lambda: nn.Sequential(small(), nn.Linear(3, 3))}
    monkeypatch.setattr(towers, "COSTED_UNITS", tuple(networks))
    monkeypatch.setattr(
        towers,
        "tower_with",
        lambda tower, unit: (strfnet.inflate(networks[unit], places=[], unit=None), CLIP),
    )
    monkeypatch.setattr(towers, "ProcessPoolExecutor", lambda processes, mp_context: ThreadPoolExecutor(processes))
    plain, other = (line.strip("| ").split(" | ") for line in towers.costs("small"))
    assert plain[:2] == ["small", "none"] and other[:2] == ["small", "strf"]
    assert plain[5] == "1.00 (1.00 .. 1.00)" and ".." in other[5] and float(plain[6]) >= 0
